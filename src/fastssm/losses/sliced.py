"""Score matching, sliced and exact."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.backends.entries.flat import Form
from fastssm.directions import Directions
from fastssm.losses.reduction import Cond, LossTerms, check_reduction, finish
from fastssm.operators import choose_directions
from fastssm.sweeps import Terms


@overload
def sliced_loss(
    model: nn.Module, x: Tensor, *, return_terms: Literal[True], **options: Any
) -> tuple[Tensor, LossTerms]: ...


@overload
def sliced_loss(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    v: Tensor | None = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    variance_reduced: bool = True,
    control_variate: str | None = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: Literal[False] = False,
) -> Tensor: ...


def sliced_loss(  # type: ignore[misc]  # the first overload leaves its options open
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    v: Tensor | None = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    variance_reduced: bool = True,
    control_variate: str | None = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, LossTerms]:
    r"""Sliced score matching: train an energy or a score net without ever forming a Hessian.

    `loss_b = mean_m( v_m^T J v_m + (v_m . s)^2 / 2 )`, or with variance reduction
    `loss_b = mean_m( v_m^T J v_m ) + |s|^2 / 2`, where `s = d log p / dx = -dE/dx` and `J = ds/dx`.

    The same, and faster, as this:

        x = x.detach().requires_grad_()
        s = -torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
        v = torch.randn_like(x).sign()
        Jv = torch.autograd.grad((s * v).sum(), x, create_graph=True)[0]
        loss = ((v * Jv).sum(1) + 0.5 * (s * s).sum(1)).mean()

    Args:
        model: an energy `E` (output `[B]` or `[B, 1]`, `log p = -E + const`) or a score (output like x). Any module
            runs; `fastssm.recognize` tells which run fused.
        x: data `[B, ...]`, flattened to `[B, D]` for the mathematics only. Never changed; if it requires grad, it gets
            the right gradient.
        cond: further arguments, passed as `model(x, *cond)`, never differentiated as data.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones.
        n_projections: M, the number of directions per sample; 1 if None. Called n_particles by the authors' code,
            n_slices, num_random_vectors or n_cotangent_vectors elsewhere.
        projection: rademacher, gaussian, sphere (radius `sqrt(D)`), hadamard or basis.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`: less noise, the same cost.
        control_variate: "optimal" weighs `(v . s)^2` against `|s|^2` by the coefficient, estimated from the batch and
            held constant, that minimises the loss's variance; needs two samples or more. Overrides `variance_reduced`.
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or "reference", "torch", "cpu", "cuda", which must then run.
        precision: "full", the dtype of the data, or "bf16": products of bfloat16 numbers summed in float32, everything
            else in float32; gradients are then right to about 1e-2, and only a compiled engine can. "tf32" likewise,
            right to about 1e-3, on a GPU alone.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can; the message lists every reason.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> loss = sliced_loss(net, torch.randn(128, 2))
        >>> loss.backward()

    Source: Song, Garg, Shi, Ermon 2019, "Sliced score matching", equations 7 and 8; control variate: appendix D.
    """
    checks.check_choice("control_variate", control_variate, (None, "optimal"))
    request = backends.make_request(model, x, cond, kind, precision)
    weight = check_reduction(x, weight, reduction)
    _check_enough(x, control_variate)
    chosen = backends.select(request, backend)
    directions = choose_directions(x, v, n_projections, projection, generator)
    if control_variate is None:
        return sliced_of(chosen, request, directions, variance_reduced, weight, reduction, return_terms)
    found = chosen.terms(request, directions)
    return finish(found.projected_jacobian, _controlled_square(found), weight, reduction, return_terms)


@overload
def exact_loss(
    model: nn.Module, x: Tensor, *, return_terms: Literal[True], **options: Any
) -> tuple[Tensor, LossTerms]: ...


@overload
def exact_loss(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    precision: str = "full",
    return_terms: Literal[False] = False,
) -> Tensor: ...


def exact_loss(  # type: ignore[misc]  # the first overload leaves its options open
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    precision: str = "full",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, LossTerms]:
    """Score matching proper, with the exact trace: no projections, no noise.

    `loss_b = tr J + |s|^2 / 2`, where `s = d log p / dx = -dE/dx` and `J = ds/dx`.

    The curvatures of all D directions collapse into one row, so the cost is that of D + 2 rows; directions are taken in
    chunks, so memory stays bounded whatever D.

    Args:
        model: an energy or a score, as for `sliced_loss`.
        x: data `[B, ...]`.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score" or "auto".
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none".
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `sliced_loss`.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> exact_loss(net, torch.randn(128, 2)).backward()

    Source: Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching", theorem 1.
    """
    request = backends.make_request(model, x, cond, kind, precision)
    weight = check_reduction(x, weight, reduction)
    chosen = backends.select(request, backend)
    every = Directions(math.prod(x.shape[1:]))
    return sliced_of(chosen, request, every, False, weight, reduction, return_terms)


def _check_enough(x: Tensor, control_variate: str | None) -> None:
    if control_variate is not None and x.shape[0] < 2:
        raise ValueError(
            f'control_variate="optimal" estimates a variance and needs two samples or more, got {x.shape[0]}.'
        )


def sliced_of(
    chosen: backends.Backend,
    request: backends.Request,
    directions: Directions,
    variance_reduced: bool,
    weight: Tensor | None,
    reduction: str,
    return_terms: bool,
) -> Tensor | tuple[Tensor, LossTerms]:
    """Return the sliced loss of a checked call on a chosen backend: for the losses that are this one on other data.

    The one-pass objective is taken where the backend has it and the loss is a number; otherwise the algebra done here.
    """
    if chosen.fused and reduction != "none" and not (weight is not None and weight.requires_grad):
        form = Form(variance_reduced, reduction == "mean")
        loss, jacobian, square = chosen.objective(request, directions, weight, form)
        return (loss, LossTerms(jacobian.detach(), square.detach())) if return_terms else loss
    found = chosen.terms(request, directions)
    square = _norm_square(found) if variance_reduced else _projected_square(found)
    return finish(found.projected_jacobian, square, weight, reduction, return_terms)


def _projected_square(found: Terms) -> Tensor:
    """`mean_m (v_m . s)^2 / 2`."""
    return 0.5 * found.projected_score.square().mean(0)


def _norm_square(found: Terms) -> Tensor:
    """`|s|^2 / 2`."""
    return 0.5 * found.score.square().sum(1)


def _controlled_square(found: Terms) -> Tensor:
    """`a - beta (a - c)` with `a = mean_m (v . s)^2 / 2`, `c = |s|^2 / 2`, `beta = Cov(j + a, a - c) / Var(a - c)`.

    Moments are over the batch, `j` is the Jacobian's term. `beta = 0` is SSM, `beta = 1` SSM-VR; as `a - c` has mean
    zero, every `beta` gives the same expectation.
    """
    a, c = _projected_square(found), _norm_square(found)
    with torch.no_grad():
        noise = a - c
        centred = noise - noise.mean()
        plain = found.projected_jacobian + a
        variance = centred.square().sum()
        rounding = (16.0 * torch.finfo(a.dtype).eps) ** 2 * (
            a.square() + c.square()
        ).sum()  # a = c, say of a whole basis
        beta = torch.where(variance > rounding, (plain * centred).sum() / variance, torch.ones_like(variance))
    return a - beta * (a - c)
