"""What a sweep over a tile returns, for both kinds of network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fastssm.sweeps.layers import Gradients


class Terms(NamedTuple):
    """The quantities that every loss is made of, for `s = d log p / dx` and `J = ds/dx`.

    Attributes:
        projected_score: `v_m . s`, `[M, T]`.
        projected_jacobian: `mean_m v_m^T J v_m`, `[T]`; or `v_m^T J v_m` for each direction, `[M, T]`.
        score: `s`, `[T, D]`.
    """

    projected_score: Tensor
    projected_jacobian: Tensor
    score: Tensor


Cotangents = Callable[[Terms], tuple[Tensor, Tensor]]
"""From the terms of a tile to `(dLoss/ds [T, D], dLoss/djacobian)`, the latter in the shape of the term."""


class Pulled(NamedTuple):
    """The gradients of a tile: of the layers' tensors, and of the input rows (`[T, D + C]`)."""

    layers: Gradients
    inputs: Tensor
