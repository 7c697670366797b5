"""Langevin samplers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastssm import backends, checks
from fastssm.directions import gaussian
from fastssm.domains import Domain
from fastssm.errors import FastSSMWarning
from fastssm.noise import check_sigmas, condition_value
from fastssm.options import CONDITIONS, BackendName, Cond, Condition, Kind, Model

DTYPES = (torch.float32, torch.float64)


class Samples(NamedTuple):
    """Final states of Langevin chains.

    Attributes:
        x: the last point of each chain, `[B, ...]`.
        acceptance: fraction of accepted proposals of each chain, `[B]`; 1 without a Metropolis test and a domain.
    """

    x: Tensor
    acceptance: Tensor


@torch.no_grad()
def langevin(
    model: Model,
    x: Tensor,
    *,
    step: float,
    n_steps: int,
    metropolis: bool = False,
    domain: Domain | None = None,
    cond: Cond = None,
    kind: Kind = "auto",
    generator: Generator | None = None,
    backend: BackendName = "auto",
) -> Samples:
    r"""Run Langevin chains from x, unadjusted (ULA) or with a Metropolis test (MALA).

    `y = x + step s(x) + sqrt(2 step) z`, `z ~ N(0, I)`. With `metropolis`, y is accepted with probability
    `min(1, p(y) q(x | y) / (p(x) q(y | x)))`, `q(y | x) = N(y; x + step s(x), 2 step I)`, and the stationary
    distribution is exactly `p`. Without it, the stationary distribution has an error of order `step`: for `N(0, 1)`,
    its variance is `1 / (1 - step / 2)`.

    On a domain, proposals outside are rejected, so that no chain leaves it. With the Metropolis test this is exact for
    the density `p` on the domain.

    Args:
        model: an energy `E` (`log p = -E + const`) or a score; the Metropolis test requires an energy.
        x: starting points `[B, ...]`, float32 or float64, one per chain. Not modified.
        step: `dt` of `dx = s dt + sqrt(2) dW`, in squared units of x. Some papers call `2 dt` the step.
        n_steps: number of steps.
        metropolis: accept or reject each proposal. Proposals with NaN energy are rejected.
        domain: where `p` lives, such as `fastssm.domains.Positive()`; x must lie in it. All of space if None.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score", or "auto" (by the shape of the output).
        generator: source of randomness; the default generator of torch if None.
        backend: "auto" or the name of a backend, as for `fastssm.score`.

    Returns:
        `Samples`: the last point of each chain, without gradients, and the fraction of accepted proposals.

    Raises:
        TypeError: if an argument has the wrong type, or x is in half precision.
        ValueError: if shapes, devices or names do not match, a row of x lies outside the domain, or the Metropolis test
            is used with a score.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

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
    check_domain(domain, request.x.flatten(1))
    chains = _Chains(request, backends.select(request, "score", backend), generator, domain)
    advance = chains.metropolis if metropolis else chains.unadjusted
    state = chains.start(metropolis)
    accepted = torch.zeros_like(state.x[:, 0])
    for _ in range(n_steps):
        state, moved = advance(state, step)
        accepted = accepted + moved
    return Samples(_warn_if_non_finite(state.x).reshape(x.shape), accepted / n_steps)


@torch.no_grad()
def annealed_langevin(
    model: Model,
    x: Tensor,
    *,
    sigmas: Sequence[float] | Tensor,
    step: float = 0.1,
    n_steps: int = 100,
    condition: Condition = "sigma",
    denoise: bool = False,
    domain: Domain | None = None,
    cond: Cond = None,
    kind: Kind = "auto",
    generator: Generator | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """Run Langevin chains of a noise-conditional model from its largest noise level down to its smallest.

    At each level `sigma`, `n_steps` times `x <- x + a s(x; sigma) + sqrt(2 a) z` with `a = step sigma^2`.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)` with `sigma` `[B]`, as in training.
        x: starting points `[B, ...]`, float32 or float64, for example noise of the largest sigma. Not modified.
        sigmas: noise levels, decreasing; numbers or a tensor `[L]`.
        step: step size in units of `sigma^2`; `epsilon / (2 sigma_L^2)` in the paper, which uses 0.1.
        n_steps: number of steps per level.
        condition: what the model receives: "sigma", "log_sigma" or "level", as in training.
        denoise: finally replace x by its denoised mean, `x + sigma_L^2 s(x; sigma_L)`.
        domain: where the data live; proposals outside are rejected, and denoised points outside are left as they were.
        cond: further arguments, before the level.
        kind: "energy", "score", or "auto" (by the shape of the output).
        generator: source of randomness; the default generator of torch if None.
        backend: "auto" or the name of a backend, as for `fastssm.score`.

    Returns:
        The last point of each chain, in the shape of x, without gradients.

    Raises:
        TypeError: if an argument has the wrong type, or x is in half precision.
        ValueError: if shapes, devices or names do not match, the levels do not decrease, or a row of x lies outside the
            domain.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [64], 2, "silu", cond_dim=1)
        >>> annealed_langevin(net, torch.randn(16, 2), sigmas=[1.0, 0.3, 0.1], n_steps=5).shape
        torch.Size([16, 2])

    Source: Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", algorithm 1;
    Jolicoeur-Martineau et al. 2021 (the denoising step).
    """
    checks.check_data(x)
    checks.check_choice("condition", condition, CONDITIONS)
    levels = check_sigmas(sigmas, x)
    if not bool((levels.diff() < 0).all()):
        given = ", ".join(f"{sigma:g}" for sigma in levels.tolist())
        raise ValueError(f"sigmas must decrease, got {given}; sort them from largest to smallest.")
    conditions = [_condition_values(condition, levels, index, x) for index in range(len(levels))]
    request = _request(model, x, cond, kind, conditions[0])
    _check_step("step", step)
    checks.check_count("n_steps", n_steps)
    checks.check_generator(generator)
    check_domain(domain, request.x.flatten(1))
    chosen = backends.select(request, "score", backend)
    point = request.x.flatten(1)
    for sigma, value in zip(levels.tolist(), conditions, strict=True):
        chains = _Chains(request._replace(cond=(*request.cond[:-1], value)), chosen, generator, domain)
        for _ in range(n_steps):
            point = chains.unadjusted(_State(point), step * sigma**2)[0].x
    if denoise:
        point = chains.inside(point + sigma**2 * chains.score(point), point)[0]
    return _warn_if_non_finite(point).reshape(x.shape)


class _State(NamedTuple):
    """Points `[B, D]`, with their energies `[B]` and scores if a Metropolis test needs them."""

    x: Tensor
    energy: Tensor | None = None
    score: Tensor | None = None


class _Chains(NamedTuple):
    """Langevin chains of one model with fixed conditioning."""

    request: backends.Request
    backend: backends.Backend
    generator: Generator | None
    domain: Domain | None

    def at(self, x: Tensor) -> backends.Request:
        """Return the request at other points."""
        return self.request._replace(x=x.reshape(self.request.x.shape))

    def score(self, x: Tensor) -> Tensor:
        """Return the score `[B, D]`."""
        return self.backend.score(self.at(x))

    def energy(self, x: Tensor) -> Tensor:
        """Return the energy `[B]`."""
        request = self.at(x)
        output = request.output()
        checks.check_output(output)
        kind = checks.kind_of_output(output.shape, request.x.shape, request.kind)
        if kind != "energy":
            raise ValueError("metropolis=True requires an energy, got a score; omit it, or train an energy.")
        return output.reshape(x.shape[0])

    def start(self, metropolis: bool) -> _State:
        """Return the initial state."""
        x = self.request.x.flatten(1)
        return _State(x, self.energy(x), self.score(x)) if metropolis else _State(x)

    def proposal(self, x: Tensor, score: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Return `y = x + step s + sqrt(2 step) z`, and z."""
        noise = gaussian((1, *x.shape), x, self.generator)[0]
        return x + step * score + math.sqrt(2 * step) * noise, noise

    def unadjusted(self, state: _State, step: float) -> tuple[_State, Tensor]:
        """Take one step and accept every proposal in the domain."""
        x, moved = self.inside(self.proposal(state.x, self.score(state.x), step)[0], state.x)
        return _State(x), moved.to(x.dtype)

    def inside(self, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """Return new points `[B, D]`, the old ones in place of those outside the domain, and which are new, `[B]`."""
        if self.domain is None:
            return new, torch.ones_like(new[:, 0], dtype=torch.bool)
        moved = self.domain.contains(new)
        return torch.where(moved[:, None], new, old), moved

    def metropolis(self, state: _State, step: float) -> tuple[_State, Tensor]:
        """Take one step with a Metropolis-Hastings test; return the state and which chains moved, `[B]`."""
        assert state.energy is not None
        assert state.score is not None
        x, noise = self.proposal(state.x, state.score, step)
        new = _State(x, self.energy(x), self.score(x))
        assert new.energy is not None
        assert new.score is not None
        reverse = (state.x - new.x - step * new.score).square().sum(1) / (4 * step)
        log_ratio = state.energy - new.energy + noise.square().sum(1) / 2 - reverse
        moved = self._uniform(log_ratio).log() < log_ratio  # False for NaN
        if self.domain is not None:
            moved = moved & self.domain.contains(new.x)
        kept = [
            torch.where(moved if a.ndim == 1 else moved[:, None], a, b)
            for a, b in zip((new.x, new.energy, new.score), (state.x, state.energy, state.score), strict=True)
        ]
        return _State(*kept), moved.to(x.dtype)

    def _uniform(self, like: Tensor) -> Tensor:
        if self.generator is None:
            return torch.rand_like(like)
        drawn = torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=self.generator.device)
        return drawn.to(like.device)


def _request(model: Model, x: Tensor, cond: object, kind: Kind, last: Tensor | None = None) -> backends.Request:
    request = backends.make_request(model, x, cond, kind, last=last)
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32 or float64 to accumulate small steps, got {x.dtype}; use x.float().")
    return request._replace(x=request.x.detach())


def _check_step(name: str, step: object) -> None:
    if isinstance(step, bool) or not isinstance(step, int | float):
        raise TypeError(f"{name} must be a positive number, got {type(step).__name__}.")
    if not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {step}.")


def check_domain(domain: object, x: Tensor) -> None:
    """Raise unless a sampler's domain is None, or one that its starting points `[B, D]` lie in."""
    if domain is None:
        return
    if not isinstance(domain, Domain):
        raise TypeError(f"domain must be a domain of fastssm.domains, such as Positive(), got {type(domain).__name__}.")
    domain.check_width(x.shape[1])
    checks.check_rows(domain.contains(x), f"x must start in the domain {type(domain).__name__}", domain.advice)


def _condition_values(condition: Condition, levels: Tensor, index: int, x: Tensor) -> Tensor:
    """Return the condition `[B]` of the model if every sample has the same level."""
    level = torch.full((x.shape[0],), index, dtype=torch.int64, device=x.device)
    return condition_value(condition, levels[level], level, x)


def _warn_if_non_finite(x: Tensor) -> Tensor:
    diverged = int((~x.isfinite()).any(1).sum())
    if diverged:
        warnings.warn(
            f"{diverged} of {len(x)} Langevin chains became non-finite; use a smaller step or metropolis=True.",
            FastSSMWarning,
            stacklevel=3,
        )
    return x
