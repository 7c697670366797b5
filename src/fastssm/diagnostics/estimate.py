"""Means over samples with their standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Return the mean and its error as text."""
        return f"{self.value:.4g} ± {self.error:.2g}"


def estimate(each: Tensor) -> Estimate:
    """Return the mean of independent values `[n]` and its standard error."""
    each = each.double()
    return Estimate(each.mean().item(), (each.std() / math.sqrt(len(each))).item())


def check_samples(x: Tensor, least: int) -> None:
    """Raise ValueError if there are fewer than `least` samples, too few to estimate an error."""
    if len(x) < least:
        raise ValueError(f"x must have at least {least} samples to estimate an error, got {len(x)}; pass more samples.")
