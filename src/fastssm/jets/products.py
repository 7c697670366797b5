"""Bilinear functions: `op(a, b)` has tangents `op(ta, b) + op(a, tb)` and curvature with `2 sum_m op(ta_m, tb_m)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets import smooth
from fastssm.jets.elementwise import elementwise
from fastssm.jets.jet import Jet, NoRule, value_of
from fastssm.jets.lifting import aligned, batched, broadcast, lift
from fastssm.jets.linear import add, linear
from fastssm.jets.rules import rule, rules_of

Op = Callable[[Any, Any], Tensor]


def bilinear(op: Op, a: Any, b: Any, rows: Callable[[Tensor, Any, bool], Tensor] | None = None) -> Jet:
    """Return a bilinear function of two operands, of which one or both are jets.

    Args:
        op: the function.
        a: its first operand.
        b: its second operand.
        rows: from rows `[R, ...]` of one operand and the other one to their rows; the flag says whether the rows are
            those of the first. `lift` if None.
    """
    if rows is None:

        def rows(r: Tensor, other: Any, first: bool) -> Tensor:
            return lift((lambda z: op(z, other)) if first else (lambda z: op(other, z)), r)

    x, y = value_of(a), value_of(b)
    if not isinstance(b, Jet):
        return linear(a, lambda z: op(z, y), lifted=lambda r: rows(r, y, True))
    if not isinstance(a, Jet):
        return linear(b, lambda z: op(x, z), lifted=lambda r: rows(r, x, False))
    ta, tb, tape = a.tangents, b.tangents, a.tape

    def curve(ka: Tensor | None, kb: Tensor | None) -> Tensor:
        out = 2.0 * tape.total(lift(op, ta, tb))
        out = out if ka is None else out + rows(ka, y, True)
        return out if kb is None else out + rows(kb, x, False)

    return tape.jet(op(x, y), rows(ta, y, True) + rows(tb, x, False), (a, b), curve)


@rule("mul", "multiply", "__mul__", "__rmul__")
def mul(a: Any, b: Any) -> Jet:
    """`a b`, elementwise."""
    x, y = value_of(a), value_of(b)
    out = torch.mul(x, y)
    shape, rank = out.shape, out.ndim

    def times(r: Tensor, other: Any) -> Tensor:
        return broadcast(aligned(r, rank) * other, shape)

    if not isinstance(b, Jet):
        return linear(a, lambda z: z, out, lambda r: times(r, y))
    if not isinstance(a, Jet):
        return linear(b, lambda z: z, out, lambda r: times(r, x))
    ta, tb, tape = aligned(a.tangents, rank), aligned(b.tangents, rank), a.tape

    def curve(ka: Tensor | None, kb: Tensor | None) -> Tensor:
        k = 2.0 * tape.total(ta * tb)
        k = k if ka is None else torch.addcmul(k, aligned(ka, rank), y)
        return k if kb is None else torch.addcmul(k, aligned(kb, rank), x)

    return tape.jet(out, torch.addcmul(ta * y, tb, x), (a, b), curve)


@rule("div", "divide", "true_divide", "__truediv__", "__div__")
def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Jet:
    """`a / b`, elementwise."""
    if rounding_mode is not None:
        raise NoRule(f"jets have no rule for div with rounding_mode={rounding_mode!r}")
    if isinstance(b, Jet):
        return mul(a, elementwise(b, smooth.reciprocal))
    out = torch.div(a.value, b)
    return linear(a, lambda z: z, out, lambda r: broadcast(aligned(r, out.ndim) / b, out.shape))


@rule("__rtruediv__", "__rdiv__")
def rdiv(a: Jet, b: Any) -> Jet:
    """`b / a`, elementwise."""
    return mul(elementwise(a, smooth.reciprocal), b)


@rule("matmul", "__matmul__")
def matmul(a: Any, b: Any) -> Jet:
    """The product of matrices, with batch axes."""
    x, y = value_of(a), value_of(b)
    if x.ndim < 2 or y.ndim < 2:
        return bilinear(torch.matmul, a, b)

    def rows(r: Tensor, other: Tensor, first: bool) -> Tensor:
        r = aligned(r, max(x.ndim, y.ndim))
        return torch.matmul(r, other) if first else torch.matmul(other, r)

    return bilinear(torch.matmul, a, b, rows)


@rule("__rmatmul__")
def rmatmul(a: Any, b: Any) -> Jet:
    """`b @ a`."""
    return matmul(b, a)


@rule("linear")
def affine(input: Any, weight: Any, bias: Any = None) -> Jet:
    """`x W^T + b`."""
    if isinstance(weight, Jet) or isinstance(bias, Jet):
        out = bilinear(F.linear, input, weight)
        return out if bias is None else add(out, bias)
    return linear(
        input, lambda z: F.linear(z, weight), F.linear(input.value, weight, bias), lambda r: F.linear(r, weight)
    )


_CONVOLUTIONS = {f"conv{'_transpose' if t else ''}{d}d": d + 2 for d in (1, 2, 3) for t in (False, True)}


def _convolution_rule(function: Callable[..., Tensor], rank: int) -> Callable[..., Jet]:
    def apply(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Jet:
        def op(z: Tensor, w: Tensor) -> Tensor:
            return function(z, w, None, *args, **kwargs)

        if isinstance(bias, Jet):
            raise NoRule("jets have no rule for a convolution whose bias depends on x; add it afterwards")
        if isinstance(weight, Jet):
            out = bilinear(op, input, weight)
            return out if bias is None else add(out, bias.reshape(-1, *[1] * (rank - 2)))
        value = function(input.value, weight, bias, *args, **kwargs)

        def of(z: Tensor) -> Tensor:
            return op(z, weight)

        whole = input.value.ndim == rank  # with a batch axis
        return linear(input, of, value, partial(batched, of) if whole else None)

    return apply


for _name, _rank in _CONVOLUTIONS.items():
    rules_of(_name, partial(_convolution_rule, rank=_rank))


def _product_rule(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    def apply(a: Any, b: Any, **kwargs: Any) -> Jet:
        return bilinear(lambda x, y: function(x, y, **kwargs), a, b)

    return apply


rules_of("bmm mm mv dot vdot inner outer ger cross vecdot linalg_cross kron", _product_rule)


@rule("tensordot")
def tensordot(a: Any, b: Any, dims: Any = 2, out: None = None) -> Jet:
    """A contraction over any axes."""
    return bilinear(lambda x, y: torch.tensordot(x, y, dims), a, b)


@rule("einsum")
def einsum(equation: str, *operands: Any) -> Jet:
    """A contraction in Einstein's notation; of more than two operands, one after another by multiplication."""
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    places = [i for i, operand in enumerate(given) if isinstance(operand, Jet)]
    if len(places) > 2:
        raise NoRule("jets have no rule for einsum of three or more operands that depend on x; take two at a time")

    def contract(*jets: Tensor) -> Tensor:
        full = list(given)
        for place, jet in zip(places, jets, strict=True):
            full[place] = jet
        return torch.einsum(equation, *full)

    if len(places) == 1:
        return linear(given[places[0]], contract)
    return bilinear(contract, *[given[i] for i in places])
