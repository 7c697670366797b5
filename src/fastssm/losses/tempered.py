"""Tempered score matching: the score of data and of their noise level together."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.backends import Backend, Request
from fastssm.directions import Directions, gaussian
from fastssm.losses.generalized import drawn
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, finish
from fastssm.losses.tempering import Tempering
from fastssm.operators import directions_of
from fastssm.options import Model, SlicedOptions, SlicedTensors, takes


class TemperedOptions(SlicedOptions, total=False):
    """Options of `tempered_loss`.

    Attributes:
        tempering: the levels, their density and their noise: `ContinuousTempering` or `GeometricTempering`.
    """

    tempering: Required[Tempering]


class TemperedTensors(SlicedTensors, total=False):
    """The tensors of a batch that `tempered_loss` takes besides x.

    Attributes:
        cond: further arguments, passed as `model(joint, *cond)`.
        beta: levels `[B]`, instead of random ones.
        noise: standard normal noise in the shape of x, instead of random noise; it serves level beta and both ends.
    """

    beta: Tensor | None
    noise: Tensor | None


class TemperedArguments(TemperedTensors, TemperedOptions, total=False):
    """Keyword arguments of `tempered_loss`."""


@overload
def tempered_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[TemperedArguments]
) -> Tensor: ...


@overload
def tempered_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[TemperedArguments]
) -> LossAndTerms: ...


@overload
def tempered_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[TemperedArguments]
) -> Tensor | LossAndTerms: ...


@takes(TemperedArguments)
def tempered_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[TemperedArguments]
) -> Tensor | LossAndTerms:
    r"""Score matching over data and noise level together, which sees how much mass each far-off mode has.

    With `beta ~ r` and `y = x + sqrt(variance(beta)) z`, and `p(y, beta)` the model,

        loss_b = |s|^2 / 2 + tr J + t^2 / 2 + (d log r / d beta) t + dt/d beta  -  [ r t ] from beta = 0 to its largest,

    where `s` and `J` are the score and its Jacobian in y, and `t = d log p(y | beta) / d beta`. It is a constant away
    from `E[ |s - s_data|^2 + (t - t_data)^2 ] / 2`. The bracket is what integration by parts leaves at the two ends;
    the paper's proposition 7 drops it, without which the minimum lies elsewhere. `tr J` is sliced along random
    directions `v` of y; the derivatives in beta are exact: beta is one more coordinate of the network's input, and its
    unit vector one more direction of the same sweep.

    Args:
        model: an energy (or a score) on the D + 1 coordinates `(y, beta)`: `model(torch.cat([y, beta[:, None]], 1))`.
            `-E(y, beta)` learns `log p(y | beta)` up to one constant for all levels.
        x: data `[B, ...]`, taken as `[B, D]`; if it requires grad, it gets the right gradient.
        options: keyword arguments of `TemperedArguments`.
        backend: "auto", or the name of the one that must run; at both ends as for `fastssm.score`.
        return_terms: return `(loss, LossTerms)`; `jacobian` holds the two terms of second order, `square` the others.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> from fastssm.losses import GeometricTempering
        >>> net = nn.Sequential(nn.Linear(2 + 1, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> levels = GeometricTempering(lambda_min=0.1, largest_variance=25.0)
        >>> tempered_loss(net, torch.randn(128, 2), tempering=levels).backward()

    Source: Qin and Risteski 2023, "Fit like you sample: sample-efficient generalized score matching from fast mixing
        diffusions", proposition 7, with the boundary terms.
    """
    checks.check_data(x)
    tempering, beta, noise = options["tempering"], options["beta"], options["noise"]
    _check_given(x, tempering, beta, noise)
    rows = x.flatten(1)
    request = backends.make_request(model, F.pad(rows, (0, 1)), options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    chosen = backends.select(request, "terms", options["backend"])
    v = drawn(directions_of(x, options), checks.widened(rows.detach()))
    beta = tempering.sample(rows, options["generator"]) if beta is None else beta
    noise = gaussian((1, *rows.shape), rows, options["generator"])[0] if noise is None else noise.flatten(1)
    found = chosen.terms(request._replace(x=_joint(rows, noise, beta, tempering)), _seeds(v))
    s, t = found.score[:, :-1], found.score[:, -1]
    vr = options["variance_reduced"]
    square = s.square().sum(1) if vr else found.projected_score[:-1].square().sum(0) / (len(v) + 1)
    first_order = 0.5 * (square + t.square()) + tempering.slope(checks.widened(beta)) * t
    ends = backends.select(request, "score", options["backend"])
    loss = first_order - _boundary(ends, request, rows, noise, tempering)
    return finish(found.projected_jacobian, loss, reduced, return_terms)


def _joint(rows: Tensor, noise: Tensor, beta: Tensor, tempering: Tempering) -> Tensor:
    """Return `(x + sqrt(variance) z, beta)`, `[B, D + 1]`."""
    deviation = tempering.variance(beta).sqrt()[:, None]
    return torch.cat([rows + deviation * noise, beta[:, None]], 1)


def _seeds(v: Tensor) -> Directions:
    """Return directions of y and that of beta, scaled so that the mean of `w . J w` is `mean_m v . J v + dt/d beta`."""
    count = len(v) + 1
    level = F.pad(torch.zeros_like(v[:1]), (0, 1), value=math.sqrt(count))
    return Directions(count, torch.cat([F.pad(v * math.sqrt(count / len(v)), (0, 1)), level]))


def _boundary(chosen: Backend, request: Request, rows: Tensor, noise: Tensor, tempering: Tempering) -> Tensor:
    """Return `r t` at the last level less that at the first, from the same samples."""
    levels = torch.cat([torch.zeros_like(rows[:, 0]), torch.full_like(rows[:, 0], tempering.largest)])
    ends = _joint(rows.repeat(2, 1), noise.repeat(2, 1), levels, tempering)
    slopes = chosen.score(request.at(ends, lambda c: torch.cat([c, c])))[:, -1]
    first, last = (tempering.density(checks.widened(levels)) * slopes).chunk(2)
    return last - first


def _check_given(x: Tensor, tempering: object, beta: object, noise: object) -> None:
    """Raise unless the levels and the noise are what they should be."""
    if not isinstance(tempering, Tempering):
        raise TypeError(
            "tempering must be a ContinuousTempering or a GeometricTempering of fastssm.losses, got "
            f"{type(tempering).__name__}."
        )
    for name, given, shape in (("beta", beta, x.shape[:1]), ("noise", noise, x.shape)):
        if given is None:
            continue
        if not isinstance(given, Tensor) or given.dtype != x.dtype:
            found = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"{name} must be a tensor of the dtype of x, {x.dtype}, got {found}; use .to(x).")
        if given.shape != shape or given.device != x.device:
            found = f"{list(given.shape)} on {given.device}"
            raise ValueError(f"{name} must have shape {list(shape)} on {x.device}, to fit x, got {found}.")
    if isinstance(beta, Tensor):
        inside = (beta >= 0) & (beta <= tempering.largest)
        checks.check_rows(inside, f"beta must be in [0, {tempering.largest:g}]", "draw levels with tempering.sample(x)")


class TemperedLoss(ScoreLoss[Out], loss=tempered_loss, tensors=TemperedTensors):
    """`tempered_loss` as a module that owns the network: `TemperedLoss(net, tempering=levels)(x)`.

    Example:
        >>> from fastssm.losses import GeometricTempering
        >>> net = nn.Sequential(nn.Linear(2 + 1, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> TemperedLoss(net, tempering=GeometricTempering(0.1, 25.0))(torch.randn(16, 2)).backward()

    Source: Qin and Risteski 2023.
    """

    @overload
    def __init__(
        self: TemperedLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[TemperedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: TemperedLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[TemperedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: TemperedLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[TemperedOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
