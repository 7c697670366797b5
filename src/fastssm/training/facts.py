"""What a network and its loss need to know of the rows it is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastssm.data import Prepared


@dataclass(frozen=True)
class Facts:
    """Statistics of the scaled training rows, from which a loss and a trained network can be built again.

    Args:
        noise: standard deviation of the noise that the model learns with the rows.
        low: smallest values, `[D]`.
        high: largest values, `[D]`.
        mean: `[D]`, float64.
        covariance: `[D, D]`, float64, without the noise.
    """

    noise: float
    low: Tensor
    high: Tensor
    mean: Tensor
    covariance: Tensor

    @property
    def features(self) -> int:
        """Return D."""
        return len(self.mean)

    @classmethod
    def of(cls, prepared: Prepared) -> Facts:
        """Return the facts of prepared data."""
        seen = prepared.moments
        if seen is not None:
            return cls(prepared.noise, seen.low.float(), seen.high.float(), seen.mean, seen.covariance)
        rows, (low, high) = prepared.train.double(), prepared.train.aminmax(dim=0)
        covariance = torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
        return cls(prepared.noise, low, high, rows.mean(0), covariance)
