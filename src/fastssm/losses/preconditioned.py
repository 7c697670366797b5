"""Score matching in a metric that you choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.backends.entries.flat import without_autocast
from fastssm.losses import generalized
from fastssm.losses.generalized import Metric, rows_of
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, finish
from fastssm.operators import directions_of
from fastssm.options import Model, SlicedOptions, SlicedTensors, takes

Field = Callable[[Tensor], Tensor]
_SHAPES = "a diagonal [D], a matrix [D, D], or a function from x [B, D] to [B, D] or [B, D, D]"


class PreconditionedOptions(SlicedOptions, total=False):
    """Options of `preconditioned_loss`.

    Attributes:
        precond: D, positive: a diagonal `[D]`, a symmetric matrix `[D, D]`, or a function from x `[B, D]` to such
            diagonals `[B, D]` or matrices `[B, D, D]`, sample by sample.
        divergence: div D, a tensor or a function from x to `[B, D]`. If None, it is zero for a constant D, and for a
            function it is found by D forward-mode derivatives of it.
        exact: take the exact `tr(D J)` from D directions per sample, without noise; then leave out v and n_projections.
    """

    precond: Required[Tensor | Field]
    divergence: Tensor | Field | None
    exact: bool


class PreconditionedArguments(SlicedTensors, PreconditionedOptions, total=False):
    """Keyword arguments of `preconditioned_loss`."""


@overload
def preconditioned_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[PreconditionedArguments]
) -> Tensor: ...


@overload
def preconditioned_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[PreconditionedArguments]
) -> LossAndTerms: ...


@overload
def preconditioned_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[PreconditionedArguments]
) -> Tensor | LossAndTerms: ...


@takes(PreconditionedArguments, exact=False)
def preconditioned_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[PreconditionedArguments]
) -> Tensor | LossAndTerms:
    r"""Score matching with a preconditioner: the Fisher divergence measured in the metric D(x).

    `loss_b = s^T D s / 2 + tr(D J) + <div D, s>`, with `D(x) = B B^T` and `(div D)_j = sum_i dD_ij/dx_i`. Sliced, the
    trace is `mean_m w_m . J w_m` with `w = B v`, and without variance reduction the first term is
    `mean_m (w_m . s)^2 / 2`. It is a constant away from `E[(s - s_data)^T D (s - s_data)] / 2`.

    With a constant D this is sliced score matching in the whitened coordinates `B^-1 x`. In general it is the loss of
    the preconditioned Langevin diffusion `dX = (D s + div D) dt + sqrt(2 D) dW`: the faster that mixes, the fewer
    samples the estimate needs. Assumes `p D s -> 0` at infinity and at any boundary.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`.
        x: data `[B, ...]`; must not require grad where D depends on it, as D is held constant.
        options: keyword arguments of `PreconditionedArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, before B is applied.
        variance_reduced: use `s^T D s` in place of `(w . s)^2`.
        return_terms: return `(loss, LossTerms)`; `square` then holds the first and the last term.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or D is not symmetric and positive.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> x = torch.randn(128, 2) * torch.tensor([1.0, 100.0])
        >>> preconditioned_loss(net, x, precond=x.var(0)).backward()

    Source: Qin and Risteski 2023, "Fit like you sample: sample-efficient generalized score matching from fast mixing
        diffusions", definition 1 and lemma 1.
    """
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    generalized.check_exact(options["exact"], options["v"], options["n_projections"])
    chosen = backends.select(request, "terms", options["backend"])
    with without_autocast(x):
        metric = _metric(rows_of(request.x), x, options["precond"], options["divergence"])
    directions = None if options["exact"] else directions_of(x, options)
    terms = generalized.terms(chosen, request, metric, directions, options["variance_reduced"])
    return finish(*terms, reduced, return_terms)


def _metric(rows: Tensor, x: Tensor, precond: object, divergence: object) -> Metric:
    """Return the root of D, and its divergence."""
    if isinstance(precond, Tensor):
        matrix = _checked(precond, rows, "precond", [rows.shape[1:], 2 * rows.shape[1:]])
        diagonal = matrix.ndim == 1
    elif callable(precond):
        generalized.check_held_constant(x)
        matrix = _checked(precond(rows), rows, "precond", [rows.shape, rows.shape + rows.shape[1:]])
        diagonal = matrix.ndim == 2
    else:
        raise TypeError(f"precond must be {_SHAPES}, got {type(precond).__name__}; use torch.as_tensor.")
    tilt = _divergence(rows, precond, divergence, diagonal)
    return Metric(_root(matrix, diagonal), tilt, diagonal)


def _checked(t: object, rows: Tensor, name: str, shapes: list[torch.Size]) -> Tensor:
    """Return a tensor in dtype and on device of the data; raise unless it has one of some shapes, and no gradient."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must return a torch.Tensor, got {type(t).__name__}; use torch.as_tensor.")
    if t.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must have shape {wanted}, one entry per coordinate, got {list(t.shape)}.")
    if t.requires_grad:
        raise ValueError(f"{name} must not require grad: it is held constant; detach it, and what it is made from.")
    return t.to(rows)


def _divergence(rows: Tensor, precond: object, given: object, diagonal: bool) -> Tensor | None:
    if given is not None:
        found = given(rows) if callable(given) else given
        return _checked(found, rows, "divergence", [rows.shape, rows.shape[1:]])
    return divergence_of(precond, rows, diagonal) if callable(precond) else None


def divergence_of(precond: Field, x: Tensor, diagonal: bool) -> Tensor:
    """Return `(div D)_j = sum_i dD_ij/dx_i` of points `[B, D]`, by one forward-mode derivative per coordinate."""
    x, units = x.contiguous(), torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    along = [torch.func.jvp(precond, (x,), (unit.repeat(len(x), 1),))[1][:, i] for i, unit in enumerate(units)]
    return torch.stack(along, 1) if diagonal else torch.stack(along).sum(0)


def _root(matrix: Tensor, diagonal: bool) -> Tensor:
    """Return B with `B B^T = D`: the square roots of a diagonal, otherwise the Cholesky factor."""
    if diagonal:
        positive = (matrix >= 0).all(-1).reshape(-1)
        checks.check_rows(positive, "the diagonal precond must not be negative", "take variances, or their inverses")
        return torch.sqrt(matrix)
    asymmetry, largest = (matrix - matrix.mT).abs().amax((-2, -1)), matrix.abs().amax((-2, -1))
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    checks.check_rows(
        ((failed == 0) & (asymmetry <= 1e-5 * largest)).reshape(-1),
        "the matrix precond must be symmetric and positive definite",
        "take (D + D.mT) / 2, and add a small multiple of the identity",
    )
    return root


class PreconditionedLoss(ScoreLoss[Out], loss=preconditioned_loss, tensors=SlicedTensors):
    """`preconditioned_loss` as a module that owns the network: `PreconditionedLoss(net, precond=D)(x)`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> PreconditionedLoss(net, precond=torch.tensor([1.0, 0.01]))(torch.randn(16, 2)).backward()

    Source: Qin and Risteski 2023.
    """

    @overload
    def __init__(
        self: PreconditionedLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[PreconditionedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: PreconditionedLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[PreconditionedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: PreconditionedLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[PreconditionedOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
