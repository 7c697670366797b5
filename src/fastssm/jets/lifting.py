"""Functions of one tensor applied to many rows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def lift(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Apply a function along the first axis, `[R, ...]`, of all its arguments."""
    if rows[0].shape[0] == 1:
        return function(*[r[0] for r in rows])[None]
    lifted: Tensor = torch.vmap(function)(*rows)
    return lifted


def batched(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Apply a function that treats the entries of its first axis alike, as a convolution does, to `[R, B, ...]`."""
    out = function(rows.flatten(0, 1))
    return out.reshape(*rows.shape[:2], *out.shape[1:])


def aligned(rows: Tensor, rank: int) -> Tensor:
    """Insert axes after the first of `[R, ...]`, so that rows broadcast as tensors of that rank do."""
    missing = rank + 1 - rows.ndim
    return rows.reshape(rows.shape[0], *[1] * missing, *rows.shape[1:]) if missing > 0 else rows


def broadcast(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Expand rows `[R, ...]` to `[R, *shape]`."""
    rows = aligned(rows, len(shape))
    return rows if rows.shape[1:] == torch.Size(shape) else rows.expand(rows.shape[0], *shape)


WIDE = 1 << 16  # entries of a row from which products are added up one by one, without an array of all of them


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return `sum_m a_m b_m` of rows `[M, ...]`."""
    if len(a) > 1 and a[0].numel() < WIDE:
        return (a * b).sum(0)
    out = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        out.addcmul_(one, other)
    return out
