"""Extremes and sorted values: tangents and curvature are gathered where the value's entries are."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets.jet import Jet, value_of
from fastssm.jets.linear import jointly, linear
from fastssm.jets.reductions import Axes, all_axes, behind
from fastssm.jets.rules import rule


class Found(NamedTuple):
    """Entries and where they are."""

    values: Jet
    indices: Tensor


def _gathered(x: Jet, values: Tensor, axis: int, index: Tensor) -> Jet:
    return linear(x, lambda z: z.gather(axis, index), values)


def _extreme(x: Jet, dim: Axes, keepdim: bool, largest: bool) -> Found:
    """Return the extremes along some axes, and where they are among those axes."""
    z = x.value
    axes = sorted(axis % z.ndim for axis in all_axes(dim, z))
    rest = [axis for axis in range(z.ndim) if axis not in axes]
    shape = (
        [1 if axis in axes else size for axis, size in enumerate(z.shape)] if keepdim else [z.shape[a] for a in rest]
    )

    def last(t: Tensor) -> Tensor:
        return t.permute(*rest, *axes).flatten(len(rest))

    values, index = (torch.max if largest else torch.min)(last(z), -1, keepdim=True)
    out = linear(x, lambda t: last(t).gather(-1, index).reshape(shape), values.reshape(shape))
    return Found(out, index.reshape(shape))


@rule("amax")
def amax(input: Jet, dim: Axes = (), keepdim: bool = False) -> Jet:
    """The largest entries along some axes."""
    return _extreme(input, dim, keepdim, True).values


@rule("amin")
def amin(input: Jet, dim: Axes = (), keepdim: bool = False) -> Jet:
    """The smallest entries along some axes."""
    return _extreme(input, dim, keepdim, False).values


def _max_or_min(input: Any, dim: Any, keepdim: bool, largest: bool) -> Any:
    if isinstance(dim, Tensor):
        return _pairwise(input, dim, largest)
    found = _extreme(input, dim, keepdim, largest)
    return found.values if dim is None else found


@rule("max")
def maximum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest entry, of all, along an axis, or of two tensors."""
    return _max_or_min(input, dim, keepdim, True)


@rule("min")
def minimum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest entry, of all, along an axis, or of two tensors."""
    return _max_or_min(input, dim, keepdim, False)


def _pairwise(a: Any, b: Any, largest: bool) -> Jet:
    x, y = value_of(a), value_of(b)
    above = (x > y) if largest else (x < y)
    share = torch.where(x == y, 0.5, above.to(x.dtype))  # as autograd shares equals
    return jointly(lambda u, v: torch.lerp(v, u, share) if isinstance(v, Tensor) else v + share * (u - v), [a, b])


@rule("maximum", "fmax")
def larger(a: Any, b: Any) -> Jet:
    """The larger of two."""
    return _pairwise(a, b, True)


@rule("minimum", "fmin")
def smaller(a: Any, b: Any) -> Jet:
    """The smaller of two."""
    return _pairwise(a, b, False)


@rule("sort")
def sort(input: Jet, dim: int = -1, descending: bool = False, stable: bool = False) -> Found:
    """Sorted entries, and their indices."""
    values, index = torch.sort(input.value, dim=dim, descending=descending, stable=stable)
    return Found(_gathered(input, values, behind(dim, values.ndim), index), index)


@rule("topk")
def topk(input: Jet, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Found:
    """The largest or smallest entries, and their indices."""
    values, index = torch.topk(input.value, k, dim, largest, sorted)
    return Found(_gathered(input, values, behind(dim, values.ndim), index), index)


def _pooling(dimensions: int) -> None:
    function = getattr(F, f"max_pool{dimensions}d")

    def pool(
        input: Jet, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Jet:  # fmt: skip
        """The largest entries of windows."""
        stride = stride or None
        values, index = function(input.value, kernel_size, stride, padding, dilation, ceil_mode, True)
        flat = index.flatten(-dimensions)

        def of(z: Tensor) -> Tensor:
            return z.flatten(-dimensions).gather(-1, flat).view(values.shape)

        out = linear(input, of, values)
        return (out, index) if return_indices else out  # type: ignore[return-value]

    rule(f"max_pool{dimensions}d")(pool)
    rule(f"max_pool{dimensions}d_with_indices")(partial(pool, return_indices=True))


for _dimensions in (1, 2, 3):
    _pooling(_dimensions)
