"""Samples of a diffusion model: its reverse-time SDE, predictor and corrector, and its probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from typing_extensions import Unpack

from fastssm import checks
from fastssm.diffusion.model import FixedTimeArguments, ScoreModel, check_sde, score_model
from fastssm.diffusion.ode import SOLVERS, Keep, Solver, solve
from fastssm.diffusion.sde import SDE, LinearSDE, normal_like, per_sample
from fastssm.diffusion.times import FLAT, check_first, grid, starts_in_data, time_density
from fastssm.domains import Domain
from fastssm.options import Model, RandomOptions, takes
from fastssm.sampling import DTYPES, check_domain


class SamplerArguments(FixedTimeArguments, total=False):
    """What all samplers take.

    Attributes:
        steps: number of steps, even in the logarithm of the noise ratio where that is known, else in time.
        denoise: end with the mean of the data given the last state, `(x + std^2 s) / mean`, where that is known.
        domain: where the diffusion lives, such as `fastssm.domains.Box(0.0, 1.0)`; x must lie in it, and no sample
            leaves it: states outside are reflected at the boundary after each step. All of space if None.
    """

    steps: int
    denoise: bool
    domain: Domain | None


class EulerMaruyamaArguments(SamplerArguments, RandomOptions, total=False):
    """Keyword arguments of `euler_maruyama`.

    Attributes:
        lam: 0 for the reverse-time SDE, 1 for an ODE, anything between for less noise.
    """

    lam: float


class PredictorCorrectorArguments(SamplerArguments, RandomOptions, total=False):
    """Keyword arguments of `predictor_corrector`.

    Attributes:
        corrections: Langevin steps after each of them.
        ratio: signal-to-noise ratio of a correction; the step grows with its square.
    """

    corrections: int
    ratio: float


class ProbabilityFlowArguments(SamplerArguments, total=False):
    """Keyword arguments of `probability_flow`.

    Attributes:
        solver: "heun" or "rk4", built in, or "torchdiffeq", if that package is installed.
        solver_options: keyword arguments of `torchdiffeq.odeint`: `rtol`, `atol`, `method`, ...
    """

    solver: Solver
    solver_options: dict[str, Any] | None


@takes(EulerMaruyamaArguments, steps=500, lam=0.0, denoise=True, predicts="score")
@torch.no_grad()
def euler_maruyama(model: Model, x: Tensor, **options: Unpack[EulerMaruyamaArguments]) -> Tensor:
    """Draw samples by running the reverse-time SDE in small steps.

    `x <- x - (f - (1 - lam / 2) g^2 s) dt + sqrt((1 - lam) dt) g z`, from T down to `t_min`.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        options: keyword arguments of `EulerMaruyamaArguments`.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit, or x lies outside the domain.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> euler_maruyama(net, VP().prior_sample((5, 2)), sde=VP(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4; the family: Huang, Lim and Courville 2021, section 4.
    """
    lam, steps, generator = options["lam"], options["steps"], options["generator"]
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam must be a number from 0 to 1, got {lam!r}.")
    net, first = _prepared(model, x, options, generator)
    state = checks.widened(net.request.x)
    times = grid(net.sde, steps, first, state)
    for index in range(steps):
        state = _inside(options, _reverse_step(net, state, times[index], times[index + 1], lam, generator), state)
    return _finished(net, state, first, options)


@takes(PredictorCorrectorArguments, steps=500, corrections=1, ratio=0.16, denoise=True, predicts="score")
@torch.no_grad()
def predictor_corrector(model: Model, x: Tensor, **options: Unpack[PredictorCorrectorArguments]) -> Tensor:
    """Draw samples by the reverse-time SDE, each step corrected by Langevin steps at its noise level.

    A correction is `x <- x + e s + sqrt(2 e) z` with `e = 2 (ratio |z| / |s|)^2`, norms averaged over the batch.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        options: keyword arguments of `PredictorCorrectorArguments`.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit, or x lies outside the domain.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VE
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> predictor_corrector(net, VE().prior_sample((5, 2)), sde=VE(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4.2 and algorithms 2 to 5.
    """
    corrections, ratio, steps, generator = (
        options["corrections"], options["ratio"], options["steps"], options["generator"],
    )  # fmt: skip
    checks.check_count("corrections", corrections)
    if not isinstance(ratio, int | float) or not ratio > 0.0:
        raise ValueError(f"ratio must be a positive number, got {ratio!r}.")
    net, first = _prepared(model, x, options, generator)
    state = checks.widened(net.request.x)
    times = grid(net.sde, steps, first, state)
    for index in range(steps):
        state = _inside(options, _reverse_step(net, state, times[index], times[index + 1], 0.0, generator), state)
        for _ in range(corrections):
            state = _inside(options, _langevin_step(net, state, times[index + 1], ratio, generator), state)
    return _finished(net, state, first, options)


@takes(ProbabilityFlowArguments, steps=100, solver="heun", denoise=True, predicts="score")
@torch.no_grad()
def probability_flow(model: Model, x: Tensor, **options: Unpack[ProbabilityFlowArguments]) -> Tensor:
    """Draw samples by the probability-flow ODE: no randomness but that of the start.

    `dx/dt = f - g^2 s / 2`, from T down to `t_min`.

    Args:
        model: a model as for `elbo_loss`.
        x: where to start, `[B, ...]`: `sde.prior_sample((B, D))`.
        options: keyword arguments of `ProbabilityFlowArguments`.

    Returns:
        Samples, like x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit, x lies outside the domain, or the solver has none.
        ImportError: if torchdiffeq is requested and not installed.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> probability_flow(net, VP().prior_sample((5, 2)), sde=VP(), steps=10).shape
        torch.Size([5, 2])

    Source: Song et al. 2021, section 4.3, equation 13.
    """
    sde, solver, steps = options["sde"], options["solver"], options["steps"]
    checks.check_choice("solver", solver, SOLVERS)
    net, first = _prepared(model, x, options)
    state = checks.widened(net.request.x)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        now = t.expand(len(state))
        return sde.reverse_drift(state, now, net.score(state, now).reshape(state.shape), 1.0)

    keep: Keep | None = None if options["domain"] is None else partial(_inside, options)
    clock = time_density(sde, first=first)
    state = solve(velocity, state, clock, (1.0, 0.0), steps, solver, options["solver_options"], keep)
    return _finished(net, state, first, options)


def last_time(sde: SDE, t_min: float | None) -> float:
    """Return the time at which samplers stop and the flow's likelihood begins."""
    if t_min is None and starts_in_data(sde, sde.start):
        return FLAT * sde.end
    return check_first(sde, t_min)


def _prepared(model: Model, x: Tensor, options: SamplerArguments, generator: object = None) -> tuple[ScoreModel, float]:
    """Check what all samplers take."""
    sde = check_sde(options["sde"])
    checks.check_count("steps", options["steps"])
    checks.check_generator(generator)
    first = last_time(sde, options["t_min"])
    net = score_model(model, x, first, "score", options)
    check_domain(options["domain"], net.request.x.flatten(1))
    if options["domain"] is not None and x.dtype not in DTYPES:
        raise TypeError(f"domain= needs x in float32 or float64, as {x.dtype} rounds samples out of it; use x.float().")
    return net, first


def _inside(options: SamplerArguments, x: Tensor, before: Tensor) -> Tensor:
    """Return states after a step, reflected at the boundary of the domain if there is one."""
    domain = options["domain"]
    return x if domain is None else domain.reflect(x.flatten(1), before.flatten(1)).reshape(x.shape)


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


def _finished(net: ScoreModel, x: Tensor, first: float, options: SamplerArguments) -> Tensor:
    """Return the samples in the dtype of the start, denoised by Tweedie's formula if requested."""
    if options["denoise"] and isinstance(net.sde, LinearSDE):
        t = torch.full_like(x.flatten(1)[:, 0], first)
        score, before = net.score(x, t).reshape(x.shape), x
        x = (x + per_sample(net.sde.std(t).square(), x) * score) / per_sample(net.sde.mean(t), x)
        if options["domain"] is not None:
            x = options["domain"].project(x.flatten(1), before.flatten(1)).reshape(x.shape)
    return x.to(net.request.x.dtype)
