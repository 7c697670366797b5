"""Softmax and the logarithm of a sum of exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule
from fastssm.jets.linear import linear
from fastssm.jets.rules import rule

Axes = int | Sequence[int] | None


def behind(dim: int | Sequence[int], rank: int) -> Any:
    """Count axes from behind, so that they name the same ones in rows."""
    if isinstance(dim, int):
        return dim if dim < 0 else dim - rank
    return tuple(d if d < 0 else d - rank for d in dim)


def all_axes(dim: Axes, x: Tensor) -> tuple[int, ...]:
    """Return the axes that an argument names, counted from behind; None and () name all."""
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return tuple(range(-x.ndim, 0))
    found = behind(dim, x.ndim)
    return (found,) if isinstance(found, int) else found


def given_dtype(third: Any, dtype: Any) -> Any:
    """Return the dtype of a softmax, the third argument of `torch.softmax` but not of that of `functional`."""
    return third if isinstance(third, torch.dtype) else dtype


@rule("softmax")
def softmax(input: Jet, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    """`p = e^z / sum e^z`: `p' = p (t - <t>)`, `p'' = p (k - <k> + sum_m ((t_m - <t_m>)^2 - <(t_m - <t_m>)^2>))`."""
    if dim is None:
        raise NoRule("jets have a rule for softmax along a given dim only")
    if (dtype := given_dtype(_stacklevel, dtype)) is not None:
        input = linear(input, lambda z: z.to(dtype))
    axis, tape = behind(dim, input.value.ndim), input.tape
    p = torch.softmax(input.value, axis)

    def centred(rows: Tensor) -> Tensor:
        return rows - (rows * p).sum(axis, keepdim=True)

    t = centred(input.tangents)

    def curve(k: Tensor | None) -> Tensor:
        square = tape.total(t * t)
        return p * centred(square if k is None else square + k)

    return tape.jet(p, p * t, (input,), curve)


@rule("logsumexp")
def logsumexp(input: Jet, dim: Axes, keepdim: bool = False) -> Jet:
    """`log sum e^z`: `<t>`, `<k> + sum_m <(t_m - <t_m>)^2>`."""
    x, tape = input.value, input.tape
    axes = all_axes(dim, x)
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
