"""Sliced score matching along a diffusion whose kernel nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import checks
from fastssm.diffusion.model import check_first, check_sde, check_t, score_model
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE
from fastssm.diffusion.times import time_density, uniform
from fastssm.losses.reduction import Cond, LossTerms, check_reduction
from fastssm.losses.sliced import sliced_of
from fastssm.noise import check_noise
from fastssm.operators import choose_directions

WEIGHTINGS = ("likelihood", "variance")


def sliced_diffusion_loss(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    weighting: str | Callable[[Tensor], Tensor] = "likelihood",
    t_min: float | None = None,
    cond: Cond = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
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
    """Learn the scores of all marginals of any diffusion, of which only drift and noise need be known.

    With t uniform on `[t_min, T]` and `x_t` the diffusion's state that started in x,

        loss_b = lambda(t) (v^T J v + |s|^2 / 2),    s = s(x_t, t), J = ds/dx.

    The denoising loss needs the kernel's score; this one needs a sample of the kernel. Its minimiser over s is
    `d log p_t / dx`, whatever the positive weight lambda.

    Args:
        model: a score net or an energy of x at time t, called as `model(x, *cond, t)` with t `[B]`.
        x: data `[B, ...]`.
        sde: any diffusion; `CustomSDE(f, g)` simulates its states.
        weighting: lambda: "likelihood" for `g(t)^2`, "variance" for `std(t)^2` (closed-form kernels), or a function of
            t `[B]`.
        t_min: the earliest time; the SDE's own start if None.
        cond: further arguments, before the time: `model(x, *cond, t)`.
        t: times `[B]`, instead of random ones.
        noise: standard normal, instead of random noise: like x, for a `CustomSDE` `[steps, *x.shape]`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones.
        n_projections: M, the number of directions per sample; 1 if None.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`.
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
        weight: further weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
        return_terms: return `(loss, LossTerms)`, the terms without lambda.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import CustomSDE
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", cond_dim=1)
        >>> double_well = CustomSDE(lambda x, t: x - x**3, lambda t: torch.ones_like(t), steps=20)
        >>> sliced_diffusion_loss(net, torch.randn(128, 2), sde=double_well).backward()

    Source: Song et al. 2021, "Score-based generative modeling through SDEs", section 3.3; Huang, Lim and Courville
    2021, section 3.
    """
    check_sde(sde)
    first = check_first(sde, t_min)
    _check_weighting(sde, weighting)
    net = score_model(
        model, x, sde=sde, cond=cond, kind=kind, predicts="score", first=first, backend=backend, precision=precision
    )
    weight = check_reduction(x, weight, reduction)
    _check_noise(sde, noise, x)
    given, x = check_t(t, x), net.request.x
    directions = choose_directions(x, v, n_projections, projection, generator)
    t = time_density(sde, "uniform", first).quantile(uniform(checks.widened(x), generator)) if given is None else given
    time_weights = _time_weights_of(sde, weighting, t)
    state = sde.perturb(x, t, noise, generator)
    both = time_weights if weight is None else time_weights * weight.to(time_weights.dtype)
    return sliced_of(net.backend, net.at(state, t), directions, variance_reduced, both, reduction, return_terms)


def _check_noise(sde: SDE, noise: object, x: Tensor) -> None:
    """Raise unless the noise is None or what the SDE needs to take x to any time."""
    if noise is None or not isinstance(sde, CustomSDE):
        return check_noise(noise, x)
    if not isinstance(noise, Tensor) or noise.ndim != x.ndim + 1 or len(noise) != sde.steps:
        came = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise must be a tensor ({sde.steps}, {', '.join(map(str, x.shape))}), like x for every step "
                         f"of the simulation, got {came}.")  # fmt: skip
    return check_noise(noise[0], x)


def _check_weighting(sde: SDE, weighting: Any) -> None:
    if callable(weighting):
        return
    checks.check_choice("weighting", weighting, WEIGHTINGS)
    if weighting == "variance" and not isinstance(sde, LinearSDE):
        raise ValueError('weighting="variance" needs std(t), which a CustomSDE has not; pass a function of t.')


def _time_weights_of(sde: SDE, weighting: str | Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return `lambda(t)`, `[B]`."""
    if not callable(weighting):
        return (sde.std(t) if weighting == "variance" and isinstance(sde, LinearSDE) else sde.diffusion(t)).square()
    found = weighting(t)
    if found.shape != t.shape:
        raise ValueError(f"weighting(t) must have the shape of t, {tuple(t.shape)}, got {tuple(found.shape)}.")
    return found
