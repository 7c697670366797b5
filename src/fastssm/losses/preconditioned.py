"""Score matching in a metric of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.backends.entries.flat import without_autocast
from fastssm.losses import generalized
from fastssm.losses.generalized import Metric, rows_of
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import Cond, LossTerms, check_reduction, finish
from fastssm.operators import choose_directions

Field = Callable[[Tensor], Tensor]
_SHAPES = "a diagonal [D], a matrix [D, D], or a function from x [B, D] to [B, D] or [B, D, D]"


def preconditioned_loss(
    model: nn.Module,
    x: Tensor,
    *,
    precond: Tensor | Field,
    divergence: Tensor | Field | None = None,
    exact: bool = False,
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
        precond: D, positive: a diagonal `[D]`, a symmetric matrix `[D, D]`, or a function from x `[B, D]` to such
            diagonals `[B, D]` or matrices `[B, D, D]`, sample by sample.
        divergence: div D, a tensor or a function from x to `[B, D]`. If None, it is zero for a constant D, and for a
            function it is found by D forward-mode derivatives of it.
        exact: take the exact `tr(D J)` from D directions per sample, without noise; then leave out v and n_projections.
        cond: further arguments, passed as `model(x, *cond)`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, before B is applied.
        n_projections: M, 1 if None.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        variance_reduced: use `s^T D s` in place of `(w . s)^2`.
        kind: "energy", "score" or "auto".
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none".
        generator: source of randomness.
        backend: "auto", or the name of the one that must run.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
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
    request = backends.make_request(model, x, cond, kind, precision)
    weight = check_reduction(x, weight, reduction)
    generalized.check_exact(exact, v, n_projections)
    chosen = backends.select(request, backend)
    with without_autocast(x):
        metric = _metric(rows_of(request.x), x, precond, divergence)
    directions = None if exact else choose_directions(x, v, n_projections, projection, generator)
    terms = generalized.terms(chosen, request, metric, directions, variance_reduced)
    return finish(*terms, weight, reduction, return_terms)


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


class PreconditionedLoss(ScoreLoss):
    """`preconditioned_loss` as a module that owns the network: `PreconditionedLoss(net, precond=D)(x)`.

    Args:
        model: the network, as for `preconditioned_loss`; kept as the attribute `model`.
        options: keyword arguments of `preconditioned_loss`, except `cond`, `v` and `weight`, which `forward` takes.

    Raises:
        TypeError: for an option that `preconditioned_loss` does not have, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> PreconditionedLoss(net, precond=torch.tensor([1.0, 0.01]))(torch.randn(16, 2)).backward()

    Source: Qin and Risteski 2023.
    """

    loss = staticmethod(preconditioned_loss)

    def forward(
        self, x: Tensor, cond: Any = None, weight: Tensor | None = None, v: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, v=v)
