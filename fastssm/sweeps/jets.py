"""The activation table evaluated on tensors."""

from __future__ import annotations

from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.networks import Layer


class TensorFunctions:
    """The vocabulary of the activation rules, in PyTorch."""

    abs = staticmethod(torch.abs)
    sign = staticmethod(torch.sign)
    exp = staticmethod(torch.exp)
    expm1 = staticmethod(torch.expm1)
    tanh = staticmethod(torch.tanh)
    erfc = staticmethod(torch.erfc)
    sin = staticmethod(torch.sin)
    cos = staticmethod(torch.cos)
    full_like = staticmethod(torch.full_like)

    @staticmethod
    def sigmoids(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return `1 / (1 + e^-z)` and `1 / (1 + e^z)`: two calls, or one exponential where Inductor fuses the rest."""
        if not torch.compiler.is_compiling():
            return torch.sigmoid(z), torch.sigmoid(-z)
        e = torch.exp(-z.abs())
        larger = 1.0 / (1.0 + e)
        smaller = e * larger
        return torch.where(z < 0, smaller, larger), torch.where(z < 0, larger, smaller)

    @staticmethod
    def softplus(z: Tensor, beta: float = 1.0, threshold: float = 40.0) -> Tensor:
        """Return `log(1 + e^(beta z)) / beta`, past the threshold the line `z`: at 40, exact to a double."""
        return F.softplus(z, beta, threshold)

    @staticmethod
    def where(condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return `a` where the condition holds, else `b`."""
        if isinstance(a, float) and isinstance(b, Tensor):
            return b.masked_fill(condition, a)  # cheaper than making a tensor of the number
        return torch.where(condition, a, b)

    @staticmethod
    def minimum(z: Tensor, bound: float) -> Tensor:
        """Return `min(z, bound)`."""
        return z.clamp(max=bound)


def jets(layer: Layer, z: Tensor, order: int) -> list[Tensor]:
    """Return `f(z)` and its first `order` derivatives."""
    return list(islice(layer.activation.rule(TensorFunctions, z, *layer.constants), order + 1))
