"""Score matching on a domain with a boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.backends.entries.flat import without_autocast
from fastssm.domains import Domain, Weight
from fastssm.losses import generalized
from fastssm.losses.generalized import Metric, rows_of
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, finish
from fastssm.operators import directions_of
from fastssm.options import Model, SlicedOptions, SlicedTensors, takes

Weighting = Literal["coordinate", "distance"]
WeightFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
_CAPPED = Weight("power", 1.0, cap=1.0)  # min(t, 1)


class DomainOptions(SlicedOptions, total=False):
    """Options of `domain_loss`.

    Attributes:
        domain: one of `fastssm.domains`: `Positive()`, `Box(l, u)`, `Halfspaces(A, b)`, `Ball(r)`, `Simplex()`,
            `Intervals((l, u), ...)`, `OutsideBall(r)`, `Polynomial(c, e, b)` or an `Intersection` of them.
        h: from distances to `(h, h')`; `Weight("power", 1.0, cap=1.0)`, which is `min(t, 1)`, if None.
        weighting: "coordinate", or "distance": one weight `g = h(distance to the boundary)` for all coordinates.
        exact: take the exact weighted trace from D directions per sample, without noise; then leave out v and
            n_projections.
    """

    domain: Required[Domain]
    h: WeightFunction | None
    weighting: Weighting
    exact: bool


class DomainArguments(SlicedTensors, DomainOptions, total=False):
    """Keyword arguments of `domain_loss`."""


@overload
def domain_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[DomainArguments]
) -> Tensor: ...


@overload
def domain_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[DomainArguments]
) -> LossAndTerms: ...


@overload
def domain_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[DomainArguments]
) -> Tensor | LossAndTerms: ...


@takes(DomainArguments, weighting="coordinate", exact=False)
def domain_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[DomainArguments]
) -> Tensor | LossAndTerms:
    r"""Generalised score matching: unbiased for data on a domain with a boundary, where they may have mass.

    `loss_b = sum_j ( g_j s_j^2 / 2 + g_j ds_j/dx_j + (dg_j/dx_j) s_j )`, with `g_j = h(phi_j(x))` and `phi_j` the
    distance of `x_j` to the boundary along coordinate j. Sliced, the middle term is `mean_m w_m . J w_m` with
    `w = sqrt(g) v`, and without variance reduction the first is `mean_m (w_m . s)^2 / 2`.

    Assumes `h > 0` inside, `p g_j s_j -> 0` at both ends of every section, `h` absolutely continuous and bounded where
    a coordinate has no boundary.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`, on the coordinates of x.
        x: data `[B, ...]` in the domain; must not require grad, as the weights depend on it and are held constant.
        options: keyword arguments of `DomainArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, before they are weighted.
        variance_reduced: use `g_j s_j^2` in place of `(w . s)^2`.
        return_terms: return `(loss, LossTerms)`; `square` then holds the first and the last term.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, a row lies outside the domain, a weight is not finite, or
            the loss of a row on the boundary is not finite.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> from fastssm.domains import Positive, Weight
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> x = torch.empty(128, 2).exponential_()
        >>> domain_loss(net, x, domain=Positive(), h=Weight("mcp", 1.0, 2.0)).backward()

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains"; `h = x^2` on the positive
        orthant: Hyvarinen 2007; one weight: Liu, Kanamori, Williams 2022, "Estimating density models with truncation
        boundaries using score matching".
    """
    weighting, exact = options["weighting"], options["exact"]
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    generalized.check_exact(exact, options["v"], options["n_projections"])
    chosen = backends.select(request, "terms", options["backend"])
    generalized.check_held_constant(x)
    with without_autocast(x):
        metric = metric_of(rows_of(request.x), options["domain"], options["h"], weighting)
    directions = None if exact else directions_of(x, options)
    trace, rest = generalized.terms(chosen, request, metric, directions, options["variance_reduced"])
    _check_boundary(metric, (trace + rest).detach())
    return finish(trace, rest, reduced, return_terms)


def _check_boundary(metric: Metric, losses: Tensor) -> None:
    """Raise if the loss of a row where a weight vanishes is not finite: zero times an infinite score."""
    checks.check_rows(
        losses.isfinite() | (metric.root > 0).all(1),
        "the loss of a row on the boundary must be finite",
        "the model's score or its derivative is infinite there, and its product with a weight of zero unknown; move "
        "such rows inside by a little, or drop them",
    )


def metric_of(x: Tensor, domain: object, h: object, weighting: Weighting) -> Metric:
    """Return `g` and its slopes in x as the metric `D = diag(g)`, `r_j = dg_j/dx_j`, for points `[B, D]`."""
    h = _CAPPED if h is None else h
    checks.check_choice("weighting", weighting, get_args(Weighting))
    if not isinstance(domain, Domain):
        raise TypeError(f"domain must be a domain of fastssm.domains, such as Positive(), got {type(domain).__name__}.")
    if not callable(h):
        raise TypeError(f'h must be a function from distances to (h, h\'), such as Weight("tanh"), got {h!r}.')
    domain.check_width(x.shape[1])
    checks.check_rows(domain.contains(x), f"x must lie in the domain {type(domain).__name__}", domain.advice)
    if weighting == "coordinate":
        distance, gradient = domain.sections(x)
        value, slope = h(distance)
    else:
        distance, gradient = domain.distance(x)
        value, slope = (t[:, None] for t in h(distance))
    tilt = torch.where(gradient == 0, 0.0, slope * gradient)  # not infinity times zero
    finite = value.isfinite().expand_as(tilt) & tilt.isfinite()
    checks.check_rows(
        finite.all(1),
        "h and h' must be finite",
        "h must be bounded far from the boundary (a Weight with a cap), and have a finite slope at it",
    )
    return Metric(value.sqrt().expand_as(tilt), tilt, diagonal=True)


class DomainLoss(ScoreLoss[Out], loss=domain_loss, tensors=SlicedTensors):
    """`domain_loss` as a module that owns the network: `DomainLoss(net, domain=Positive())(x)`.

    Example:
        >>> from fastssm.domains import Box
        >>> loss = DomainLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)), domain=Box(0.0, 1.0))
        >>> loss(torch.rand(16, 2)).backward()

    Source: Yu, Drton, Shojaie 2022.
    """

    @overload
    def __init__(
        self: DomainLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[DomainOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: DomainLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[DomainOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: DomainLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[DomainOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
