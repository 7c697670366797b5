"""Functions that reduce axes: softmax and its kin, norms, variances, extremes, sorted values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule, as_jet, value_of
from fastssm.jets.linear import jointly, linear
from fastssm.jets.products import mul
from fastssm.jets.rules import rule

Axes = int | Sequence[int] | None


def _behind(dim: int | Sequence[int], rank: int) -> Any:
    """Count axes from behind, so that they name the same ones in rows."""
    if isinstance(dim, int):
        return dim if dim < 0 else dim - rank
    return tuple(d if d < 0 else d - rank for d in dim)


def _all(dim: Axes, x: Tensor) -> tuple[int, ...]:
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return tuple(range(-x.ndim, 0))
    found = _behind(dim, x.ndim)
    return (found,) if isinstance(found, int) else found


@rule("softmax")
def softmax(input: Jet, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    """`p = e^z / sum e^z`: `p' = p (t - <t>)`, `p'' = p (k - <k> + sum_m ((t_m - <t_m>)^2 - <(t_m - <t_m>)^2>))`."""
    if dim is None or dtype is not None:
        raise NoRule("jets have a rule for softmax along a given dim in the dtype of its input only")
    axis, tape = _behind(dim, input.ndim), input.tape
    p = torch.softmax(input.value, axis)

    def centred(rows: Tensor) -> Tensor:
        return rows - (rows * p).sum(axis, keepdim=True)

    t = centred(input.tangents)

    def curve(k: Tensor | None) -> Tensor:
        square = tape.total(t * t)
        return p * centred(square if k is None else square + k)

    return tape.jet(p, p * t, (input,), curve)


@rule("log_softmax")
def log_softmax(input: Jet, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """`z - log sum e^z`."""
    if dim is None or dtype is not None:
        raise NoRule("jets have a rule for log_softmax along a given dim in the dtype of its input only")
    return input - logsumexp(input, dim, keepdim=True)


@rule("logsumexp")
def logsumexp(input: Jet, dim: Axes, keepdim: bool = False) -> Jet:
    """`log sum e^z`: `<t>`, `<k> + sum_m <(t_m - <t_m>)^2>`."""
    x, tape = input.value, input.tape
    axes = _all(dim, x)
    out = torch.logsumexp(x, axes, keepdim=True)
    p = torch.exp(x - out)

    def squeezed(rows: Tensor) -> Tensor:
        return rows if keepdim else rows.squeeze(axes)

    mean = (input.tangents * p).sum(axes, keepdim=True)

    def curve(k: Tensor | None) -> Tensor:
        centred = input.tangents - mean
        square = tape.total(centred * centred)
        return squeezed(((square if k is None else square + k) * p).sum(axes, keepdim=True))

    return tape.jet(squeezed(out), squeezed(mean), (input,), curve)


@rule("softmin")
def softmin(input: Jet, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """`softmax(-z)`."""
    return softmax(as_jet(-input), dim, dtype=dtype)


@rule("norm", "vector_norm")
def norm(
    input: Jet,
    p: Any = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    ord: Any = None,
    dtype: Any = None,
    out: Any = None,
) -> Tensor:
    """The p-norm over some axes."""
    order = p if ord is None else ord
    if dtype is not None or order not in (1, 2, "fro", None, float("inf")):
        raise NoRule(f"jets have rules for norms of order 1, 2 and inf, got {order!r}")
    axes = _all(dim, input.value)
    if order == 1:
        return input.abs().sum(axes, keepdim=keepdim)
    if order == float("inf"):
        return amax(as_jet(input.abs()), axes, keepdim)
    return mul(input, input).sum(axes, keepdim=keepdim).sqrt()


@rule("normalize")
def normalize(input: Jet, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """`x / max(|x|, eps)`."""
    return input / norm(input, p, dim, True).clamp_min(eps)


@rule("cosine_similarity")
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """`x1 . x2 / (max(|x1|, eps) max(|x2|, eps))`."""

    def length(x: Any) -> Any:
        return torch.linalg.vector_norm(x, dim=dim).clamp_min(eps)

    out: Tensor = mul(x1, x2).sum(dim) / (length(x1) * length(x2))
    return out


@rule("pairwise_distance")
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """`|x1 - x2 + eps|`."""
    return norm(x1 - x2 + eps, p, -1, keepdim)


@rule("cdist")
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: object = None) -> Tensor:
    """The p-norms of the differences of all pairs of rows."""
    return norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@rule("var")
def var(input: Jet, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Tensor:
    """The variance over some axes."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = _all(dim, input.value)
    count = 1
    for axis in axes:
        count *= input.shape[axis]
    centred = input - input.mean(axes, keepdim=True)
    less = (1 if unbiased else 0) if correction is None else correction
    out: Tensor = mul(centred, centred).sum(axes, keepdim=keepdim) / (count - less)
    return out


@rule("std")
def std(input: Jet, *args: Any, **kwargs: Any) -> Tensor:
    """The standard deviation over some axes."""
    out: Tensor = var(input, *args, **kwargs).sqrt()
    return out


def gathered(x: Jet, values: Tensor, axis: int, index: Tensor, keepdim: bool = True) -> Jet:
    """Return chosen entries along an axis, of the value and of all rows."""

    def of(z: Tensor) -> Tensor:
        found = z.gather(axis, index)
        return found if keepdim else found.squeeze(axis)

    return linear(x, of, values)


def _extreme(x: Jet, dim: Axes, keepdim: bool, largest: bool) -> tuple[Tensor, Tensor]:
    """Return the extremes along some axes, and where they are among those axes."""
    z = x.value
    axes = sorted(a % z.ndim for a in _all(dim, z))
    flat: Any = x
    if len(axes) > 1:
        rest = [a for a in range(z.ndim) if a not in axes]
        flat = x.permute(*rest, *axes).flatten(len(rest))
    axis = axes[0] if len(axes) == 1 else -1
    values, index = (torch.max if largest else torch.min)(flat.value, axis, keepdim=True)
    out: Tensor = gathered(flat, values, axis, index)
    if len(axes) == 1:
        return (out, index) if keepdim else (out.squeeze(axis), index.squeeze(axis))
    out = out.squeeze(-1)
    for a in axes if keepdim else ():
        out = out.unsqueeze(a)
    return out, index.squeeze(-1)


@rule("amax")
def amax(input: Jet, dim: Axes = (), keepdim: bool = False) -> Tensor:
    """The largest entries along some axes."""
    return _extreme(input, dim, keepdim, True)[0]


@rule("amin")
def amin(input: Jet, dim: Axes = (), keepdim: bool = False) -> Tensor:
    """The smallest entries along some axes."""
    return _extreme(input, dim, keepdim, False)[0]


def _max_or_min(input: Any, dim: Any, keepdim: bool, largest: bool) -> Any:
    if isinstance(dim, Tensor):
        return _pairwise(input, dim, largest)
    found, index = _extreme(input, dim, keepdim, largest)
    return (
        found
        if dim is None
        else torch.return_types.max((found, index))
        if largest
        else torch.return_types.min((found, index))
    )


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
def sort(input: Jet, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Sorted entries, and their indices."""
    values, index = torch.sort(input.value, dim=dim, descending=descending, stable=stable)
    return torch.return_types.sort((gathered(input, values, _behind(dim, input.ndim), index), index))


@rule("topk")
def topk(input: Jet, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The largest or smallest entries, and their indices."""
    values, index = torch.topk(input.value, k, dim, largest, sorted)
    return torch.return_types.topk((gathered(input, values, _behind(dim, input.ndim), index), index))


@rule("glu")
def glu(input: Jet, dim: int = -1) -> Tensor:
    """`a sigmoid(b)` of the two halves."""
    a, b = input.chunk(2, dim)
    return mul(a, torch.sigmoid(b))


@rule("prod")
def prod(input: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product of all entries, or of those along an axis, one after another."""
    x: Any = input.flatten() if dim is None else input
    axis = 0 if dim is None else dim
    out, *rest = x.unbind(axis)
    for factor in rest:
        out = mul(out, factor)
    found: Tensor = out.unsqueeze(axis) if keepdim and dim is not None else out
    return found


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


for _dimensions in (1, 2, 3):
    _pooling(_dimensions)
