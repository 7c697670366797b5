"""Normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule, formula_only
from fastssm.jets.linear import add, linear
from fastssm.jets.products import mul
from fastssm.jets.rules import rule
from fastssm.jets.standardise import Curvature, Group, ValueAndTangents


def standardised(
    x: Jet,
    axes: tuple[int, ...],
    eps: float,
    weight: Any = None,
    bias: Any = None,
    *,
    shape: Sequence[int] | None = None,
    centred: bool = True,
) -> Jet:
    """Return `w (x - <x>) / sqrt(<(x - <x>)^2> + eps) + c`.

    Args:
        x: the jet.
        axes: those of which means are taken, counted from behind.
        eps: what is added to the variance.
        weight: w, which broadcasts.
        bias: c, which broadcasts.
        shape: what x gets before that, with axes of their own for groups, and loses afterwards.
        centred: whether the mean is taken away.
    """
    group, tape = Group(tuple(x.value.shape if shape is None else shape), axes, centred, eps), x.tape
    z, t = x.value, x.tangents
    ours = all(w is None or (not isinstance(w, Jet) and w.dtype == z.dtype) for w in (weight, bias))
    if not ours or formula_only() or tape.twice or tape.each:
        parts = group.parts(z, t)
        y = tape.jet(parts.y, group.first(parts), (x,), lambda k: group.second(parts, k, tape.total))
        y = _scaled(y, weight, bias)
        return y if shape is None else linear(y, lambda r: r.reshape(z.shape))
    with torch.no_grad():
        parts = group.parts(z, t)
    value, tangents, bent = ValueAndTangents.apply(z, t, weight, bias, group, parts, tape.curved)  # type: ignore[no-untyped-call]
    return tape.jet(value, tangents, (x,), lambda k: Curvature.apply(z, k, bent, weight, group, parts))  # type: ignore[no-untyped-call]


def _scaled(y: Any, weight: Any, bias: Any) -> Jet:
    y = y if weight is None else mul(y, weight)
    return y if bias is None else add(y, bias)


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


@rule("layer_norm")
def layer_norm(
    input: Jet, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Jet:
    """Layer normalisation."""
    return standardised(input, _last(normalized_shape), eps, weight, bias)


@rule("rms_norm")
def rms_norm(input: Jet, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Jet:
    """Root-mean-square normalisation."""
    eps = torch.finfo(input.value.dtype).eps if eps is None else eps
    return standardised(input, _last(normalized_shape), eps, weight, centred=False)


@rule("group_norm")
def group_norm(input: Jet, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Jet:
    """Group normalisation."""
    batch, channels, *sizes = input.value.shape
    weight, bias = [None if t is None else t.reshape(num_groups, -1, 1) for t in (weight, bias)]
    return standardised(
        input, (-2, -1), eps, weight, bias, shape=(batch, num_groups, channels // num_groups, math.prod(sizes))
    )


def _channels(t: Tensor | None, rank: int) -> Tensor | None:
    return None if t is None else t.reshape(-1, *[1] * (rank - 2))


@rule("instance_norm")
def instance_norm(
    input: Jet,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Jet:
    """Instance normalisation by the statistics of every sample, or by the running ones."""
    if not use_input_stats:
        return _by_running(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:
        raise NoRule("jets do not update running statistics; use track_running_stats=False or model.eval()")
    rank = input.value.ndim
    return standardised(input, tuple(range(2 - rank, 0)), eps, _channels(weight, rank), _channels(bias, rank))


@rule("batch_norm")
def batch_norm(
    input: Jet,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Jet:
    """Batch normalisation by its running statistics."""
    if training:
        raise NoRule("batch normalisation in train mode couples the samples of a batch; call model.eval()")
    return _by_running(input, running_mean, running_var, weight, bias, eps)


def _by_running(input: Jet, mean: Tensor | None, var: Tensor | None, weight: Any, bias: Any, eps: float) -> Jet:
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return _scaled(input, _channels(scale, input.value.ndim), _channels(shift, input.value.ndim))
