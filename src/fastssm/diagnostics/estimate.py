"""A mean over samples with its standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Show both."""
        return f"{self.value:.4g} ± {self.error:.2g}"


def estimate(each: Tensor) -> Estimate:
    """Return the mean of independent values `[n]` and its standard error."""
    each = each.double()
    return Estimate(each.mean().item(), (each.std() / math.sqrt(len(each))).item())


def check_samples(x: Tensor, least: int) -> None:
    """Raise ValueError unless there are as many samples as an error can be told from."""
    if len(x) < least:
        raise ValueError(f"{least} samples or more are needed to know an error, got {len(x)}.")
