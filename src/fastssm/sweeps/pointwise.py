"""The activation table evaluated on tensors."""

from __future__ import annotations

import math
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.recognition import Layer


class TensorFunctions:
    """The functions that the activation rules call, in PyTorch."""

    abs = staticmethod(torch.abs)
    sign = staticmethod(torch.sign)
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
    def sigmoids_of_cubic(z: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
        """Return the sigmoids of `a z + b z^3`."""
        return TensorFunctions.sigmoids(a * z + b * z * z * z)

    @staticmethod
    def softplus_sigmoids(
        z: Tensor, beta: float = 1.0, threshold: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `log(1 + e^(beta z)) / beta` and the sigmoids of `beta z`, of the line `z` past the threshold."""
        t = z if beta == 1.0 else beta * z
        if threshold is None:
            return F.softplus(z, beta, 40.0), *TensorFunctions.sigmoids(t)  # at 40 the line is exact to a double
        line = TensorFunctions.where(t > threshold, math.inf, t)  # its sigmoids are exactly 1 and 0
        return F.softplus(z, beta, threshold), *TensorFunctions.sigmoids(line)

    @staticmethod
    def tanh_slope(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return `tanh z` and `sech^2 z`."""
        p, n = TensorFunctions.sigmoids(2.0 * z)
        return torch.tanh(z), 4.0 * p * n

    @staticmethod
    def gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Gaussian distribution function and density."""
        density = torch.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
        return 0.5 * torch.erfc(z * -math.sqrt(0.5)), density

    @staticmethod
    def exponentials(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return `e^z` and `e^z - 1`."""
        return torch.exp(z), torch.expm1(z)

    @staticmethod
    def sin_cos(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sin z` and `cos z`."""
        return torch.sin(z), torch.cos(z)

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


def derivatives(layer: Layer, z: Tensor, order: int) -> list[Tensor]:
    """Return `f(z)` and its first `order` derivatives."""
    return list(islice(layer.activation.rule(TensorFunctions, z, *layer.constants), order + 1))
