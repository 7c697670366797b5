"""Score matching of rows with gaps."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import backends, checks
from fastssm.backends import Backend, Request
from fastssm.directions import Directions
from fastssm.losses import generalized
from fastssm.losses.generalized import Metric, rows_of
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.proposals import Proposal
from fastssm.losses.reduction import check_reduction, finish
from fastssm.operators import directions_of
from fastssm.options import Kind, Model, SlicedOptions, SlicedTensors, takes
from fastssm.sweeps import Terms


class MissingOptions(SlicedOptions, total=False):
    """Options of `missing_loss`.

    Attributes:
        proposal: what fills the gaps, such as `GaussianProposal.fit(table)`, for an energy of whole rows. If None, the
            model is one of marginal densities: it gets a mask after `cond`.
        n_imputations: K, the number of times that the gaps of a row are filled; 16 if None.
        exact: take the exact trace from D directions per sample, without noise; then leave out v and n_projections.
    """

    proposal: Proposal | None
    n_imputations: int | None
    exact: bool


class MissingArguments(SlicedTensors, MissingOptions, total=False):
    """Keyword arguments of `missing_loss`."""


@overload
def missing_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[MissingArguments]
) -> Tensor: ...


@overload
def missing_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[MissingArguments]
) -> LossAndTerms: ...


@overload
def missing_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[MissingArguments]
) -> Tensor | LossAndTerms: ...


@takes(MissingArguments, exact=False)
def missing_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[MissingArguments]
) -> Tensor | LossAndTerms:
    r"""Score matching of rows with gaps: each row trains the marginal density of what it has.

    `loss_b = sum_{j observed} ( s_j^2 / 2 + ds_j/dx_j )`, where s is the score of the marginal density of the observed
    coordinates. Sliced, the trace is `mean_m w_m . J w_m` with `w = v` at observed coordinates and 0 elsewhere.

    With a proposal q, the model is an energy E of whole rows. The gaps are filled K times, `z_k ~ q(z | x)`, and
    `-E_marginal(x) = log mean_k exp( -E(x, z_k) ) / q(z_k | x)` is differentiated in the observed coordinates. With the
    normalised weights `a_k` of this sum, and the terms of the filled rows along w,

        w . s = sum_k a_k w . s_k,    w . J w = sum_k a_k ( w . J_k w + (w . s_k)^2 ) - (w . s)^2,

    so the engines run it. The error is of order 1/K; the better q fits the model, the smaller.

    Without a proposal, the model gives the marginal density itself: it is called as `model(x, *cond, mask)`, with zeros
    in the gaps and `mask` one where a value is observed, and is an energy or a score of the observed coordinates.

    Assumes that values are missing completely at random: which of them are does not depend on any value.

    Args:
        model: an energy of whole rows, or a model of marginal densities.
        x: data `[B, ...]`, NaN where a value is missing; must not require grad. A row without any value has the loss 0.
        options: keyword arguments of `MissingArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, before they are masked.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> x = torch.randn(128, 3)
        >>> x[torch.rand(128, 3) < 0.3] = torch.nan
        >>> net = nn.Sequential(nn.Linear(3, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> missing_loss(net, x, proposal=fastssm.GaussianProposal.fit(x)).backward()

    Source: Givens, Liu, Reeve 2025, "Score matching with missing data" (marginal score matching, importance weighted);
        the weights' derivatives as in Louis 1982.
    """
    checks.check_data(x)
    generalized.check_held_constant(x)
    generalized.check_exact(options["exact"], options["v"], options["n_projections"])
    proposal, count = options["proposal"], options["n_imputations"]
    _check_filling(proposal, count)
    seen = ~x.isnan()
    filled = torch.where(seen, x, 0.0)
    mask = seen.to(x.dtype) if proposal is None else None
    kind: Kind = options["kind"] if proposal is None else "energy"
    request = backends.make_request(model, filled, options["cond"], kind, options["precision"], mask)
    reduced = check_reduction(x, options["weight"], options["reduction"])
    chosen = backends.select(request, "terms", options["backend"])
    gaps = None if proposal is None else _fill(proposal, x, count or 16, options["generator"])
    directions = None if options["exact"] else directions_of(x, options)
    metric = Metric(seen.flatten(1).to(rows_of(x).dtype), None, diagonal=True)
    if gaps is None:
        terms = generalized.terms(chosen, request, metric, directions, options["variance_reduced"])
    else:
        terms = _weighted(chosen, request, metric, directions, gaps, options["variance_reduced"])
    return finish(*terms, reduced, return_terms)


class Filled(NamedTuple):
    """Rows with their gaps filled, `[K, B, D]`, and the log-densities of what is new, `[K, B]`."""

    rows: Tensor
    log_density: Tensor


def _fill(proposal: Proposal, x: Tensor, count: int, generator: torch.Generator | None) -> Filled:
    with torch.no_grad():
        rows = x.flatten(1)
        found = Filled(*proposal(rows, count, generator))
    shapes = tuple(found.rows.shape), tuple(found.log_density.shape)
    if shapes != ((count, *rows.shape), (count, len(x))):
        raise ValueError(
            f"the proposal must return rows [K, B, D] = {[count, *rows.shape]} and log-densities {[count, len(x)]}, "
            f"got {list(shapes[0])} and {list(shapes[1])}."
        )
    return Filled(found.rows.to(x), found.log_density.to(checks.widened(rows)))


def _weighted(
    chosen: Backend,
    request: Request,
    metric: Metric,
    directions: Directions | None,
    gaps: Filled,
    variance_reduced: bool,
) -> tuple[Tensor, Tensor]:
    """Return the trace and the square of the marginal score, from the terms of all filled rows."""
    count, batch, dim = gaps.rows.shape
    many = request.at(gaps.rows.reshape(-1, *request.x.shape[1:]), lambda c: c.repeat(count, *[1] * (c.ndim - 1)))
    energy = many.output()
    checks.check_output(energy)
    checks.kind_of_output(energy.shape, many.x.shape, "energy")
    share = F.softmax(-checks.widened(energy).reshape(count, batch) - gaps.log_density, 0)

    def along(seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `w . J w` and `(w . s)^2`, means over directions, and s, of the marginal score."""
        found: Terms = chosen.terms(many, Directions(len(seeds), seeds.repeat(1, count, 1)))
        each = found.projected_score.reshape(len(seeds), count, batch)
        inner = found.projected_jacobian.reshape(count, batch) + each.square().mean(0)
        square = (share * each).sum(1).square().mean(0)
        score = (share[..., None] * found.score.reshape(count, batch, dim)).sum(0)
        return (share * inner).sum(0) - square, square, score

    parts = [along(seeds) for seeds in generalized.chunks(metric, rows_of(request.x), directions)]
    trace = torch.stack([part[0] for part in parts]).sum(0)
    whole = variance_reduced or directions is None
    square = metric.pulled(parts[0][2]).square().sum(1) if whole else parts[0][1]
    return trace, 0.5 * square


def _check_filling(proposal: object, count: object) -> None:
    if proposal is not None and not callable(proposal):
        raise TypeError(
            "proposal must be a function from rows with gaps to filled rows and their log-densities, such as "
            f"fastssm.GaussianProposal.fit(table), got {type(proposal).__name__}."
        )
    if count is not None:
        checks.check_count("n_imputations", count)
        if proposal is None:
            raise ValueError(
                f"n_imputations={count} needs a proposal to fill the gaps from; pass "
                "fastssm.GaussianProposal.fit(table)."
            )


class MissingLoss(ScoreLoss[Out], loss=missing_loss, tensors=SlicedTensors):
    """`missing_loss` as a module that owns the network: `MissingLoss(net, proposal=GaussianProposal.fit(table))(x)`.

    Example:
        >>> x = torch.where(torch.rand(64, 2) < 0.3, torch.nan, torch.randn(64, 2))
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> MissingLoss(net, proposal=fastssm.GaussianProposal.fit(x))(x).backward()

    Source: Givens, Liu, Reeve 2025.
    """

    @overload
    def __init__(
        self: MissingLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[MissingOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: MissingLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[MissingOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: MissingLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[MissingOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
