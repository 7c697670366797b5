"""Networks: those that the fused engines know (`MLP` and its parts), a context net, and families of deep kernels."""

from fastssm.nn.kernels import KernelExpFamily
from fastssm.nn.made import MADEContext
from fastssm.nn.mlp import MLP, FourierFeatures, Sin, make_activation, module_class
from fastssm.nn.periodic import Periodic

__all__ = [
    "MLP",
    "FourierFeatures",
    "KernelExpFamily",
    "MADEContext",
    "Periodic",
    "Sin",
    "make_activation",
    "module_class",
]
