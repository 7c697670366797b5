"""Langevin samplers: a look at what a model has learnt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from fastssm import backends, checks
from fastssm.directions import gaussian
from fastssm.errors import FastSSMWarning
from fastssm.noise import CONDITIONS, check_sigmas, told

DTYPES = (torch.float32, torch.float64)


class Samples(NamedTuple):
    """Where chains ended.

    Attributes:
        x: the last point of each chain, `[B, ...]`.
        acceptance: the share of each chain's proposals that was accepted, `[B]`; ones without a Metropolis test.
    """

    x: Tensor
    acceptance: Tensor


@torch.no_grad()
def langevin(
    model: nn.Module,
    x: Tensor,
    *,
    step: float,
    n_steps: int,
    metropolis: bool = False,
    cond: Tensor | tuple[Tensor, ...] | None = None,
    kind: str = "auto",
    generator: Generator | None = None,
    backend: str = "auto",
) -> Samples:
    r"""Run Langevin chains from x, unadjusted (ULA) or with a Metropolis test (MALA).

    `y = x + step s(x) + sqrt(2 step) z`, `z ~ N(0, I)`. With `metropolis`, y is accepted with probability
    `min(1, p(y) q(x | y) / (p(x) q(y | x)))`, `q(y | x) = N(y; x + step s(x), 2 step I)`: then `p` is exactly the
    stationary law. Without, the law is off by an error of order `step`: `N(0, 1)` comes out with variance
    `1 / (1 - step / 2)`.

    Args:
        model: an energy `E` (`log p = -E + const`) or a score; the Metropolis test needs an energy.
        x: starting points `[B, ...]`, float32 or float64, one chain each. Never changed.
        step: `dt` of `dx = s dt + sqrt(2) dW`, in squared units of x; half of what some papers call the step.
        n_steps: how many.
        metropolis: accept or reject every proposal. Proposals where the energy is not a number are rejected.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score", or "auto" by the shape of the output.
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run, as for `fastssm.score`.

    Returns:
        `Samples`: the last point of each chain, without gradients, and the share of accepted proposals.

    Raises:
        TypeError: if an argument has the wrong type, or the points are of half precision.
        ValueError: if shapes, devices or names do not fit, or a Metropolis test is asked of a score.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> langevin(net, torch.randn(16, 2), step=0.01, n_steps=10, metropolis=True).x.shape
        torch.Size([16, 2])

    Source: Roberts and Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete
    approximations", section 1.
    """
    request = _request(model, x, cond, kind)
    _check_step("step", step)
    checks.check_count("n_steps", n_steps)
    checks.check_generator(generator)
    walk = _Walk(request, backends.select_for_score(request, backend), generator)
    advance = walk.tested if metropolis else walk.free
    state = walk.start(metropolis)
    accepted = torch.zeros_like(state.x[:, 0])
    for _ in range(n_steps):
        state, passed = advance(state, step)
        accepted = accepted + passed
    return Samples(_finished(state.x).reshape(x.shape), accepted / n_steps)


@torch.no_grad()
def annealed_langevin(
    model: nn.Module,
    x: Tensor,
    *,
    sigmas: Sequence[float] | Tensor,
    step: float = 0.1,
    n_steps: int = 100,
    condition: str = "sigma",
    denoise: bool = False,
    cond: Tensor | tuple[Tensor, ...] | None = None,
    kind: str = "auto",
    generator: Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Run Langevin chains of a noise-conditional model from its largest noise level down to its smallest.

    At each level `sigma`, `n_steps` times `x <- x + a s(x; sigma) + sqrt(2 a) z` with `a = step sigma^2`.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)` with `sigma` `[B]`, as in training.
        x: starting points `[B, ...]`, float32 or float64: say noise of the largest deviation. Never changed.
        sigmas: the levels, from the largest to the smallest; numbers or a tensor `[L]`.
        step: in units of `sigma^2`; the paper's `epsilon / (2 sigma_L^2)`, and 0.1 is its choice.
        n_steps: how many at each level.
        condition: what the model is told: "sigma", "log_sigma" or "level", as in training.
        denoise: move at last to the mean of what could have been blurred to x, `x + sigma_L^2 s(x; sigma_L)`.
        cond: further arguments, before the level.
        kind: "energy", "score", or "auto" by the shape of the output.
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run, as for `fastssm.score`.

    Returns:
        The last point of each chain, in the shape of x, without gradients.

    Raises:
        TypeError: if an argument has the wrong type, or the points are of half precision.
        ValueError: if shapes, devices or names do not fit, or the levels do not fall.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [64], 2, "silu", cond_dim=1)
        >>> annealed_langevin(net, torch.randn(16, 2), sigmas=[1.0, 0.3, 0.1], n_steps=5).shape
        torch.Size([16, 2])

    Source: Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", algorithm 1;
    the last step: Jolicoeur-Martineau et al. 2020.
    """
    checks.check_data(x)
    checks.check_choice("condition", condition, CONDITIONS)
    levels = check_sigmas(sigmas, x)
    if not bool((levels.diff() < 0).all()):
        given = ", ".join(f"{sigma:g}" for sigma in levels.tolist())
        raise ValueError(f"sigmas must fall from the largest to the smallest, got {given}.")
    conds = [_told_all(condition, levels, index, x) for index in range(len(levels))]
    request = _request(model, x, (*checks.check_cond(cond, x), conds[0]), kind)
    _check_step("step", step)
    checks.check_count("n_steps", n_steps)
    checks.check_generator(generator)
    chosen = backends.select_for_score(request, backend)
    point = request.x.flatten(1)
    for sigma, told_level in zip(levels.tolist(), conds, strict=True):
        walk = _Walk(request._replace(cond=(*request.cond[:-1], told_level)), chosen, generator)
        for _ in range(n_steps):
            point = walk.proposal(point, walk.score(point), step * sigma**2)[0]
    if denoise:
        point = point + sigma**2 * walk.score(point)
    return _finished(point).reshape(x.shape)


class _State(NamedTuple):
    """A point `[B, D]`, and its energy `[B]` and score where a Metropolis test needs them."""

    x: Tensor
    energy: Tensor | None = None
    score: Tensor | None = None


class _Walk(NamedTuple):
    """One model at one conditioning, to walk on."""

    request: backends.Request
    backend: backends.Backend
    generator: Generator | None

    def at(self, x: Tensor) -> backends.Request:
        """Return the call at other points."""
        return self.request._replace(x=x.reshape(self.request.x.shape))

    def score(self, x: Tensor) -> Tensor:
        """Return the score `[B, D]`."""
        return self.backend.score(self.at(x))

    def energy(self, x: Tensor) -> Tensor:
        """Return the energy `[B]`."""
        request = self.at(x)
        output: Tensor = request.model(request.x, *request.cond)
        checks.check_output(output)
        kind = checks.kind_of_output(output.shape, request.x.shape, request.kind)
        if kind != "energy":
            raise ValueError(
                "metropolis=True compares densities and needs an energy, got a score; leave it out, or train an energy."
            )
        return output.reshape(x.shape[0])

    def start(self, metropolis: bool) -> _State:
        """Return the state that the call begins with."""
        x = self.request.x.flatten(1)
        return _State(x, self.energy(x), self.score(x)) if metropolis else _State(x)

    def proposal(self, x: Tensor, score: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Return `y = x + step s + sqrt(2 step) z`, and z."""
        noise = gaussian((1, *x.shape), x, self.generator)[0]
        return x + step * score + math.sqrt(2 * step) * noise, noise

    def free(self, state: _State, step: float) -> tuple[_State, Tensor]:
        """Take every proposal."""
        x, _ = self.proposal(state.x, self.score(state.x), step)
        return _State(x), torch.ones_like(x[:, 0])

    def tested(self, state: _State, step: float) -> tuple[_State, Tensor]:
        """Take a proposal or stay, as Metropolis and Hastings say; return also who moved, `[B]`."""
        assert state.energy is not None
        assert state.score is not None
        x, noise = self.proposal(state.x, state.score, step)
        new = _State(x, self.energy(x), self.score(x))
        assert new.energy is not None
        assert new.score is not None
        back = (state.x - new.x - step * new.score).square().sum(1) / (4 * step)
        log_ratio = state.energy - new.energy + noise.square().sum(1) / 2 - back
        moves = self._uniform(log_ratio).log() < log_ratio  # never where that is not a number
        kept = [
            torch.where(moves if a.ndim == 1 else moves[:, None], a, b)
            for a, b in zip((new.x, new.energy, new.score), (state.x, state.energy, state.score), strict=True)
        ]
        return _State(*kept), moves.to(x.dtype)

    def _uniform(self, like: Tensor) -> Tensor:
        if self.generator is None:
            return torch.rand_like(like)
        drawn = torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=self.generator.device)
        return drawn.to(like.device)


def _request(model: nn.Module, x: Tensor, cond: object, kind: str) -> backends.Request:
    request = backends.make_request(model, x, cond, kind)
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32 or float64 to add up small steps, got {x.dtype}; use x.float().")
    return request._replace(x=request.x.detach())


def _check_step(name: str, step: object) -> None:
    if isinstance(step, bool) or not isinstance(step, int | float):
        raise TypeError(f"{name} must be a positive number, got {type(step).__name__}.")
    if not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {step}.")


def _told_all(condition: str, levels: Tensor, index: int, x: Tensor) -> Tensor:
    """Return what the model is told when every sample is at one level, `[B]`."""
    level = torch.full((x.shape[0],), index, dtype=torch.int64, device=x.device)
    return told(condition, levels[level], level, x)


def _finished(x: Tensor) -> Tensor:
    lost = int((~x.isfinite()).any(1).sum())
    if lost:
        warnings.warn(
            f"{lost} of {len(x)} Langevin chains left the numbers; take a smaller step, or a Metropolis test.",
            FastSSMWarning,
            stacklevel=3,
        )
    return x
