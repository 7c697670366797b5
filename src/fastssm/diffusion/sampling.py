"""Samples of a diffusion model: its reverse-time SDE, predictor and corrector, and its probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fastssm import checks
from fastssm.diffusion.model import ScoreModel, check_first, check_sde, score_model
from fastssm.diffusion.ode import SOLVERS, solve
from fastssm.diffusion.sde import SDE, LinearSDE, normal_like, per_sample
from fastssm.diffusion.times import FLAT, grid, starts_in_data, time_density
from fastssm.losses.reduction import Cond


@torch.no_grad()
def euler_maruyama(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    steps: int = 500,
    lam: float = 0.0,
    t_min: float | None = None,
    denoise: bool = True,
    predicts: str = "score",
    cond: Cond = None,
    kind: str = "auto",
    generator: Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Draw samples by running the reverse-time SDE in small steps.

    `x <- x - (f - (1 - lam / 2) g^2 s) dt + sqrt((1 - lam) dt) g z`, from T down to `t_min`.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        sde: the diffusion that the model was trained for.
        steps: number of steps, even in the logarithm of the noise ratio where that is known, else in time.
        lam: 0 for the reverse-time SDE, 1 for an ODE, anything between for less noise.
        t_min: the last time; the SDE's own start if None, or `T / 1000` where that is free of noise.
        denoise: end with the mean of the data given the last state, `(x + std^2 s) / mean`, where that is known.
        predicts: "score" or "noise".
        cond: further arguments, before the time.
        kind: "energy", "score" or "auto".
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> euler_maruyama(net, VP().prior_sample((5, 2)), sde=VP(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4; the family: Huang, Lim and Courville 2021, section 4.
    """
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam must be a number from 0 to 1, got {lam!r}.")
    net, first = _prepared(model, x, sde, steps, t_min, predicts, cond, kind, generator, backend)
    state = checks.widened(net.request.x)
    times = grid(sde, steps, first, state)
    for index in range(steps):
        state = _reverse_step(net, state, times[index], times[index + 1], lam, generator)
    return _finished(net, state, first, denoise)


@torch.no_grad()
def predictor_corrector(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    steps: int = 500,
    corrections: int = 1,
    ratio: float = 0.16,
    t_min: float | None = None,
    denoise: bool = True,
    predicts: str = "score",
    cond: Cond = None,
    kind: str = "auto",
    generator: Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Draw samples by the reverse-time SDE, each step corrected by Langevin steps at its noise level.

    A correction is `x <- x + e s + sqrt(2 e) z` with `e = 2 (ratio |z| / |s|)^2`, norms averaged over the batch.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        sde: the diffusion that the model was trained for.
        steps: number of predictor steps, as for `euler_maruyama`.
        corrections: Langevin steps after each of them.
        ratio: signal-to-noise ratio of a correction; the step grows with its square.
        t_min: the last time, as for `euler_maruyama`.
        denoise: as for `euler_maruyama`.
        predicts: "score" or "noise".
        cond: further arguments, before the time.
        kind: "energy", "score" or "auto".
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VE
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> predictor_corrector(net, VE().prior_sample((5, 2)), sde=VE(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4.2 and algorithms 2 to 5.
    """
    checks.check_count("corrections", corrections)
    if not isinstance(ratio, int | float) or not ratio > 0.0:
        raise ValueError(f"ratio must be a positive number, got {ratio!r}.")
    net, first = _prepared(model, x, sde, steps, t_min, predicts, cond, kind, generator, backend)
    state = checks.widened(net.request.x)
    times = grid(sde, steps, first, state)
    for index in range(steps):
        state = _reverse_step(net, state, times[index], times[index + 1], 0.0, generator)
        for _ in range(corrections):
            state = _langevin_step(net, state, times[index + 1], ratio, generator)
    return _finished(net, state, first, denoise)


@torch.no_grad()
def probability_flow(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    steps: int = 100,
    solver: str = "heun",
    solver_options: dict[str, Any] | None = None,
    t_min: float | None = None,
    denoise: bool = True,
    predicts: str = "score",
    cond: Cond = None,
    kind: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """Draw samples by the probability-flow ODE: no randomness but that of the start.

    `dx/dt = f - g^2 s / 2`, from T down to `t_min`.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        sde: the diffusion that the model was trained for.
        steps: number of steps of the built-in solvers, as for `euler_maruyama`.
        solver: "heun" or "rk4", built in, or "torchdiffeq", if that package is installed.
        solver_options: keyword arguments of `torchdiffeq.odeint`: `rtol`, `atol`, `method`, ...
        t_min: the last time, as for `euler_maruyama`.
        denoise: as for `euler_maruyama`.
        predicts: "score" or "noise".
        cond: further arguments, before the time.
        kind: "energy", "score" or "auto".
        backend: "auto", or the name of the one that must run.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        ImportError: if torchdiffeq is asked for and not installed.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> probability_flow(net, VP().prior_sample((5, 2)), sde=VP(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4.3, equation 13.
    """
    checks.check_choice("solver", solver, SOLVERS)
    net, first = _prepared(model, x, sde, steps, t_min, predicts, cond, kind, None, backend)
    state = checks.widened(net.request.x)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        now = t.expand(len(state))
        return sde.reverse_drift(state, now, net.score(state, now).reshape(state.shape), 1.0)

    state = solve(velocity, state, time_density(sde, first=first), (1.0, 0.0), steps, solver, solver_options)
    return _finished(net, state, first, denoise)


def last_time(sde: SDE, t_min: float | None) -> float:
    """Return the time at which samplers stop and the flow's likelihood begins."""
    if t_min is None and starts_in_data(sde, sde.start):
        return FLAT * sde.end
    return check_first(sde, t_min)


def _prepared(
    model: nn.Module,
    x: Tensor,
    sde: SDE,
    steps: int,
    t_min: float | None,
    predicts: str,
    cond: Cond,
    kind: str,
    generator: object,
    backend: str,
) -> tuple[ScoreModel, float]:
    """Check what all samplers take."""
    check_sde(sde)
    checks.check_count("steps", steps)
    checks.check_generator(generator)
    first = last_time(sde, t_min)
    net = score_model(
        model, x, sde=sde, cond=cond, kind=kind, predicts=predicts, first=first, backend=backend, precision="full"
    )
    return net, first


def _reverse_step(
    net: ScoreModel, x: Tensor, t: Tensor, following: Tensor, lam: float, generator: Generator | None
) -> Tensor:
    """Go from time t down to the following one."""
    now, size = t.expand(len(x)), t - following
    score = net.score(x, now).reshape(x.shape)
    moved = x - size * net.sde.reverse_drift(x, now, score, lam)
    deviation = ((1.0 - lam) * size).sqrt() * net.sde.diffusion(now)
    return moved + per_sample(deviation, x) * normal_like(x, generator) if lam < 1.0 else moved


def _langevin_step(net: ScoreModel, x: Tensor, t: Tensor, ratio: float, generator: Generator | None) -> Tensor:
    """Take one step of Langevin dynamics at time t."""
    score, z = net.score(x, t.expand(len(x))).reshape(x.shape), normal_like(x, generator)
    lengths: Callable[[Tensor], Tensor] = lambda y: y.flatten(1).norm(dim=1).mean()  # noqa: E731
    size = 2.0 * (ratio * lengths(z) / lengths(score)).square()
    return x + size * score + (2.0 * size).sqrt() * z


def _finished(net: ScoreModel, x: Tensor, first: float, denoise: bool) -> Tensor:
    """Return the samples in the dtype of the start, denoised by Tweedie's formula if asked for."""
    if denoise and isinstance(net.sde, LinearSDE):
        t = torch.full_like(x.flatten(1)[:, 0], first)
        score = net.score(x, t).reshape(x.shape)
        x = (x + per_sample(net.sde.std(t).square(), x) * score) / per_sample(net.sde.mean(t), x)
    return x.to(net.request.x.dtype)
