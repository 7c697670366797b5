"""Tempered score matching: the score of data and of the level of noise that was put on them, together."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.backends import Backend, Request
from fastssm.directions import Directions, gaussian
from fastssm.losses.generalized import drawn
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import Cond, LossTerms, check_reduction, finish
from fastssm.losses.tempering import Tempering
from fastssm.operators import choose_directions


def tempered_loss(
    model: nn.Module,
    x: Tensor,
    *,
    tempering: Tempering,
    beta: Tensor | None = None,
    noise: Tensor | None = None,
    cond: Cond = None,
    v: Tensor | None = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    variance_reduced: bool = True,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, LossTerms]:
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
        tempering: the levels, their density and their noise: `ContinuousTempering` or `GeometricTempering`.
        beta: levels `[B]` instead of random ones.
        noise: standard normal z in the shape of x instead of a random one; it serves level beta and both ends.
        cond: further arguments, passed as `model(joint, *cond)`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`.
        n_projections: M, 1 if None.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`.
        kind: "energy", "score" or "auto".
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none".
        generator: source of randomness.
        backend: "auto", or the name of the one that must run; at both ends as for `fastssm.score`.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
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
    _check_given(x, tempering, beta, noise)
    rows = x.flatten(1)
    request = backends.make_request(model, F.pad(rows, (0, 1)), cond, kind, precision)
    weight = check_reduction(x, weight, reduction)
    chosen = backends.select(request, backend)
    v = drawn(choose_directions(x, v, n_projections, projection, generator), checks.widened(rows.detach()))
    beta = tempering.sample(rows, generator) if beta is None else beta
    noise = gaussian((1, *rows.shape), rows, generator)[0] if noise is None else noise.flatten(1)
    found = chosen.terms(request._replace(x=_joint(rows, noise, beta, tempering)), _seeds(v))
    s, t = found.score[:, :-1], found.score[:, -1]
    square = s.square().sum(1) if variance_reduced else found.projected_score[:-1].square().sum(0) / (len(v) + 1)
    first_order = 0.5 * (square + t.square()) + tempering.slope(checks.widened(beta)) * t
    loss = first_order - _boundary(backends.select_for_score(request, backend), request, rows, noise, tempering)
    return finish(found.projected_jacobian, loss, weight, reduction, return_terms)


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
    cond = tuple(torch.cat([c, c]) if c.ndim else c for c in request.cond)
    slopes = chosen.score(request._replace(x=ends, cond=cond))[:, -1]
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


class TemperedLoss(ScoreLoss):
    """`tempered_loss` as a module that owns the network: `TemperedLoss(net, tempering=levels)(x)`.

    Args:
        model: the network, as for `tempered_loss`; kept as the attribute `model`.
        options: keyword arguments of `tempered_loss`, except `cond`, `v`, `weight`, `beta` and `noise`, which `forward`
            takes.

    Raises:
        TypeError: for an option that `tempered_loss` does not have, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> from fastssm.losses import GeometricTempering
        >>> net = nn.Sequential(nn.Linear(2 + 1, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> TemperedLoss(net, tempering=GeometricTempering(0.1, 25.0))(torch.randn(16, 2)).backward()

    Source: Qin and Risteski 2023.
    """

    loss = staticmethod(tempered_loss)
    PER_CALL: ClassVar[tuple[str, ...]] = ("cond", "weight", "v", "beta", "noise")

    def forward(
        self,
        x: Tensor,
        cond: Any = None,
        weight: Tensor | None = None,
        v: Tensor | None = None,
        beta: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, v=v, beta=beta, noise=noise)
