"""What domains, preconditioners and manifolds share: `s^T D s / 2 + tr(D J) + <r, s>`, `D = B B^T`.

Sliced, `tr(D J)` is the mean of `w . J w` over the directions `w = B v`: nothing but other seeds for the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastssm.backends import Backend, Request
from fastssm.backends.entries.flat import without_autocast
from fastssm.checks import widened
from fastssm.directions import Directions

MOST_SEEDS = 2**22  # numbers in one chunk of exact directions


class Geometry(Protocol):
    """What `terms` asks of a metric."""

    @property
    def tilt(self) -> Tensor | None:
        """The vector r that multiplies the score, `[B, D]`; None for zero."""

    def seeds(self, v: Tensor) -> Tensor:
        """Return `w = B v` of directions `[M, B, D]`."""

    def pulled(self, s: Tensor) -> Tensor:
        """Return `B^T s` of scores `[B, D]`."""


@dataclass(frozen=True)
class Metric:
    """The matrix `D = B B^T` of every sample, by its root, and the vector r that multiplies the score.

    Attributes:
        root: B; `[D]` or `[B, D]` where it is diagonal, `[D, D]` or `[B, D, D]` where it is not.
        tilt: r, `[B, D]`, usually `div D`; None for zero.
        diagonal: which of the two.
    """

    root: Tensor
    tilt: Tensor | None
    diagonal: bool

    def seeds(self, v: Tensor) -> Tensor:
        """Return `w = B v` of directions `[M, B, D]`."""
        if self.diagonal:
            return self.root * v
        return torch.einsum("ij,mbj->mbi" if self.root.ndim == 2 else "bij,mbj->mbi", self.root, v)

    def pulled(self, s: Tensor) -> Tensor:
        """Return `B^T s` of scores `[B, D]`."""
        if self.diagonal:
            return self.root * s
        return torch.einsum("ij,bi->bj" if self.root.ndim == 2 else "bij,bi->bj", self.root, s)


def rows_of(x: Tensor) -> Tensor:
    """Return the data as `[B, D]`, outside autograd, in the precision that weights are computed in."""
    return widened(x.detach().flatten(1))


def check_held_constant(x: Tensor) -> None:
    """Raise ValueError if a gradient in x is wanted, which would miss what the weights do."""
    if x.requires_grad:
        raise ValueError(
            "x must not require grad: weights that depend on x are held constant, and a gradient in x would miss their "
            "part; pass x.detach()."
        )


def check_exact(exact: bool, v: object, n_projections: object) -> None:
    """Raise ValueError if directions are given to a loss that takes all of them."""
    if exact and not (v is None and n_projections is None):
        raise ValueError("exact=True takes every coordinate for a direction; leave out v and n_projections.")


def terms(
    chosen: Backend, request: Request, metric: Geometry, directions: Directions | None, variance_reduced: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss's two terms per sample: the weighted trace, and everything that needs only the score.

    Without directions the trace is exact.
    """
    rows = rows_of(request.x)
    parts = [chosen.terms(request, Directions(len(s), s)) for s in chunks(metric, rows, directions)]
    score = parts[0].score
    with without_autocast(rows):
        whole = variance_reduced or directions is None
        square = metric.pulled(score).square().sum(1) if whole else parts[0].projected_score.square().mean(0)
        tilted = 0.0 if metric.tilt is None else (metric.tilt * score).sum(1)
    return torch.stack([part.projected_jacobian for part in parts]).sum(0), 0.5 * square + tilted


def chunks(metric: Geometry, rows: Tensor, directions: Directions | None) -> list[Tensor]:
    """Return the directions `[M, B, D]` of samples `[B, D]` in the metric: all at once, or in chunks if it is exact."""
    with without_autocast(rows):
        return [*_columns(metric, rows)] if directions is None else [metric.seeds(drawn(directions, rows))]


def drawn(directions: Directions, rows: Tensor) -> Tensor:
    """Return all directions of samples `[B, D]` as a tensor `[M, B, D]`."""
    return directions.tile(slice(0, len(rows)), slice(0, directions.count), rows)


def _columns(metric: Geometry, rows: Tensor) -> Iterator[Tensor]:
    """Yield the columns of B in chunks of c directions, times `sqrt(c)`, as the engine takes means over directions."""
    batch, dim = rows.shape
    unit = torch.eye(dim, dtype=rows.dtype, device=rows.device)
    for part in torch.split(unit, max(1, MOST_SEEDS // max(1, batch * dim))):
        yield metric.seeds(math.sqrt(len(part)) * part[:, None].expand(len(part), batch, dim))
