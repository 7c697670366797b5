"""Networks: those that the fused engines know (`MLP` and its parts), and a context net for autoregressive models."""

from fastssm.nn.made import MADEContext
from fastssm.nn.mlp import MLP, FourierFeatures, Sin, make_activation, module_class

__all__ = ["MLP", "FourierFeatures", "MADEContext", "Sin", "make_activation", "module_class"]
