"""Samples of a trained model, in the network's units, by the sampler that its loss calls for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from fastssm import composite_sample, score
from fastssm.diffusion import SDE, euler_maruyama
from fastssm.domains import Domain
from fastssm.errors import FastSSMWarning
from fastssm.sampling import annealed_langevin, langevin
from fastssm.training.autoregressive import POINTS, Autoregressive
from fastssm.training.config import TrainConfig
from fastssm.training.facts import Facts

ROUNDS = 20  # how often the step is adapted, during the first half of the steps
TARGET = 0.574  # of the acceptance, where chains with a Metropolis test move fastest
STILL = 0.1  # of the squared distance of independent rows, below which chains hardly moved
LEVEL_STEPS = 10  # steps per noise level, at least


class Trained(Protocol):
    """What a sampler needs of a model."""

    net: nn.Module
    evaluated: nn.Module
    config: TrainConfig
    facts: Facts
    device: torch.device
    dtype: torch.dtype

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the loss, such as its SDE, its noise levels or its domain."""


def draw(model: Trained, count: int, steps: int, generator: Generator) -> Tensor:
    """Return `[count, D]` samples in the network's units."""
    options = model.options
    if isinstance(model.net, Autoregressive):
        return _autoregressive(model.net, count, generator)
    if "sde" in options:
        return _diffusion(model, options["sde"], count, steps, generator)
    if "sigmas" in options:
        return _annealed(model, options, count, steps, generator)
    domain = options.get("domain")
    start = _start(model, count, domain, generator)
    run = _adapted if model.config.kind == "energy" else _unadjusted
    return run(model, start, steps, domain, generator)


def _autoregressive(net: Autoregressive, count: int, generator: Generator) -> Tensor:
    return composite_sample(net.context_net, net.head, count, net.bounds, points=POINTS, generator=generator)


def _diffusion(model: Trained, sde: SDE, count: int, steps: int, generator: Generator) -> Tensor:
    shape = (count, model.facts.features)
    start = sde.prior_sample(shape, dtype=model.dtype, device=model.device, generator=generator)
    kind = model.config.kind
    return euler_maruyama(model.net, start, sde=sde, kind=kind, steps=steps, denoise=False, generator=generator)


def _annealed(model: Trained, options: dict[str, Any], count: int, steps: int, generator: Generator) -> Tensor:
    sigmas = options["sigmas"]
    start = _gaussian(model, count, sigmas[0], generator)
    per_level = max(LEVEL_STEPS, steps // len(sigmas))
    return annealed_langevin(
        model.net,
        start,
        sigmas=sigmas,
        n_steps=per_level,
        condition=options["condition"],
        kind=model.config.kind,
        generator=generator,
    )


def _gaussian(model: Trained, count: int, noise: float, generator: Generator) -> Tensor:
    """Draw from the Gaussian with the mean and the covariance of the training rows, and more noise."""
    facts = model.facts
    variance, axes = torch.linalg.eigh(facts.covariance)
    white = torch.randn(count, facts.features, generator=generator, dtype=torch.float64)
    deviation = (variance.clamp(min=0) + noise**2).sqrt()
    rows: Tensor = facts.mean + (white * deviation) @ axes.T
    return rows.to(model.device, model.dtype)


def _start(model: Trained, count: int, domain: Domain | None, generator: Generator) -> Tensor:
    start = _gaussian(model, count, model.facts.noise, generator)
    if domain is None:
        return start
    low, high = (bound.to(start) for bound in (model.facts.low, model.facts.high))
    return torch.maximum(torch.minimum(start, high), low)


def _adapted(model: Trained, x: Tensor, steps: int, domain: Domain | None, generator: Generator) -> Tensor:
    """Run chains with a Metropolis test; adapt their step during the first half, then leave it."""
    step = _first_step(model, x)
    run: Callable[..., Any] = lambda x, step, count: langevin(  # noqa: E731
        model.evaluated,
        x,
        step=step,
        n_steps=count,
        metropolis=True,
        domain=domain,
        kind="energy",
        generator=generator,
    )
    part = max(1, steps // (2 * ROUNDS))
    for _ in range(ROUNDS):
        x, acceptance = run(x, step, part)
        step *= math.exp(2.0 * (acceptance.mean().item() - TARGET))
    middle = x
    x, _ = run(middle, step, max(1, steps - part * ROUNDS))
    _warn_if_still(model, middle, x)
    return x


def _warn_if_still(model: Trained, before: Tensor, after: Tensor) -> None:
    """Warn if chains are close to where they were, where independent points would be twice the variance apart."""
    variance = model.facts.covariance.trace().item() + model.facts.features * model.facts.noise**2
    moved = (after - before).square().sum(1).mean().item() / (2.0 * variance)
    if moved < STILL:
        warnings.warn(
            f"the chains moved {moved:.1%} of the squared distance between independent rows in the second half of "
            "their steps, so the samples still resemble the Gaussian that they started from; pass more steps.",
            FastSSMWarning,
            stacklevel=5,
        )


def _unadjusted(model: Trained, x: Tensor, steps: int, domain: Domain | None, generator: Generator) -> Tensor:
    """Run chains of a score, which has no test; the step suits the steepest coordinate."""
    for part in (steps // 2, steps - steps // 2):
        if part:
            step = 0.3 * _first_step(model, x)
            x = langevin(
                model.evaluated, x, step=step, n_steps=part, domain=domain, kind="score", generator=generator
            ).x
    return x


def _first_step(model: Trained, x: Tensor) -> float:
    """Return a step in proportion to the smallest variance, which for a Gaussian is `1 / E s_j^2`."""
    steepness = score(model.evaluated, x, kind=model.config.kind).square().mean(0).max().item()
    return 0.1 / steepness if 0 < steepness < math.inf else 1e-3
