"""The first layer of a network of angles."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastssm.nn.mlp import check_sizes


class Periodic(nn.Module):
    """Sines and cosines of angles, `[sin(2 pi k x / period), cos(2 pi k x / period)]` for `k = 1 ... harmonics`.

    What follows it is a periodic function of each angle. The engines run it as an affine map with sines.

    Args:
        period: of the angles.
        harmonics: number of multiples of each angle.

    Raises:
        TypeError: if harmonics is not an integer.
        ValueError: if one of them is not positive and finite.

    Example:
        >>> Periodic()(torch.zeros(5, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(self, period: float = 2 * math.pi, harmonics: int = 1) -> None:
        super().__init__()
        if not 0 < period < math.inf:
            raise ValueError(f"period must be positive and finite, got {period}.")
        check_sizes([], harmonics=harmonics)
        self.period, self.harmonics = float(period), harmonics

    def forward(self, x: Tensor) -> Tensor:
        """Return the features `[B, 2 D harmonics]` of angles `[B, D]`."""
        angles = torch.cat([2 * math.pi * k / self.period * x for k in range(1, self.harmonics + 1)], 1)
        return torch.sin(torch.cat([angles, angles + math.pi / 2], 1))

    def extra_repr(self) -> str:
        """Show the period and the number of harmonics."""
        return f"period={self.period:g}, harmonics={self.harmonics}"
