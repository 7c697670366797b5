"""Networks: those that the fused engines know (`MLP` and its parts), and a context net for autoregressive models."""

from fastssm.nn.made import MADEContext
from fastssm.nn.mlp import MLP, FourierFeatures, Sin, make_activation, module_class
from fastssm.nn.periodic import Periodic

__all__ = ["MLP", "FourierFeatures", "MADEContext", "Periodic", "Sin", "make_activation", "module_class"]
