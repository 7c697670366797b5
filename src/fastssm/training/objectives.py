"""The losses that `fastssm train --loss` knows: one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from fastssm import (
    AnnealedDenoisingLoss,
    AnnealedSlicedLoss,
    CompositeLoss,
    DenoisingLoss,
    DomainLoss,
    ExactScoreLoss,
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    GeometricTempering,
    PreconditionedLoss,
    SlicedScoreLoss,
    TemperedLoss,
)
from fastssm.diffusion import VE, ElboLoss
from fastssm.directions import draw
from fastssm.domains import Box
from fastssm.losses.module import ScoreLoss
from fastssm.nn import MLP
from fastssm.options import NETWORK_KINDS, BackendName, NetworkKind
from fastssm.training.autoregressive import Autoregressive
from fastssm.training.evaluate import COMPOSITE, EXACT, Measure
from fastssm.training.facts import Facts

KINDS = NETWORK_KINDS
LEVELS = 10  # of the noise-conditional losses
LARGEST_SIGMA = 2.0  # of them, in units of the scaled data; the smallest is the data's own noise
TEMPERING = GeometricTempering(lambda_min=0.01, largest_variance=LARGEST_SIGMA**2)  # of the scaled data


class Settings(Protocol):
    """What an objective reads of the settings of a training, `fastssm.training.TrainConfig`."""

    @property
    def kind(self) -> NetworkKind:
        """Kind of network."""

    @property
    def backend(self) -> BackendName:
        """Backend of the loss."""

    @property
    def projections(self) -> int:
        """Directions per row."""

    @property
    def batch(self) -> int:
        """Rows per step, over all ranks together."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""

    @property
    def activation(self) -> str:
        """Name of the activation."""


class Batch(NamedTuple):
    """What the tensors of one batch are drawn for: the rows of all ranks together, of which `share` is ours."""

    config: Settings
    features: int
    share: slice
    device: torch.device
    generator: Generator


Draw = Callable[[Batch], Tensor]
"""Draws a tensor for the whole batch from its generator, the same on every rank, and returns this rank's share."""


def directions(batch: Batch) -> Tensor:
    """Draw `[M, B, D]` random signs."""
    shape = (batch.config.projections, batch.config.batch, batch.features)
    return draw("rademacher", shape, device=batch.device, generator=batch.generator)[:, batch.share]


def normal(batch: Batch) -> Tensor:
    """Draw `[B, D]` standard normal noise."""
    noise = torch.randn(batch.config.batch, batch.features, generator=batch.generator)
    return noise[batch.share].to(batch.device)


def levels(batch: Batch) -> Tensor:
    """Draw `[B]` indices of noise levels."""
    return torch.randint(LEVELS, (batch.config.batch,), generator=batch.generator)[batch.share].to(batch.device)


def temperatures(batch: Batch) -> Tensor:
    """Draw `[B]` levels of the tempered loss."""
    whole = TEMPERING.sample(torch.empty(batch.config.batch, 1), batch.generator)
    return whole[batch.share].to(batch.device)


def times(batch: Batch) -> Tensor:
    """Draw `[B]` times of a variance-exploding diffusion, at which importance sampling is uniform."""
    return torch.rand(batch.config.batch, generator=batch.generator)[batch.share].to(batch.device)


def perceptron(config: Settings, features: int) -> nn.Module:
    """Return an MLP of the configured shape for an energy or a score."""
    return MLP(features, config.hidden, 1 if config.kind == "energy" else features, config.activation)


def noise_conditional(config: Settings, features: int) -> nn.Module:
    """Return the same, which also gets the logarithm of the noise level."""
    return MLP(features, config.hidden, 1 if config.kind == "energy" else features, config.activation, cond_dim=1)


def at_smallest_level(net: nn.Module, config: Settings, facts: Facts) -> nn.Module:
    """Return what a noise-conditional network is at the noise that the held-out rows carry."""
    assert isinstance(net, MLP)
    return net.at(torch.full((1, 1), math.log(_noise(facts))).to(net.readout.weight))


def at_the_start(net: nn.Module, config: Settings, facts: Facts) -> nn.Module:
    """Return what a network that gets the time is at time 0, where a diffusion has the held-out rows' noise."""
    assert isinstance(net, MLP)
    return net.at(torch.zeros(1, 1).to(net.readout.weight))


def with_level(config: Settings, features: int) -> nn.Module:
    """Return the same with the level of the tempered loss for one more coordinate."""
    return perceptron(config, features + 1)


def at_level_zero(net: nn.Module, config: Settings, facts: Facts) -> nn.Module:
    """Return what such a network is without noise: its last coordinate, taken for a conditioning argument, at zero."""
    assert isinstance(net, MLP)
    conditional = MLP(facts.features, config.hidden, 1, config.activation, cond_dim=1).to(net.readout.weight)
    conditional.load_state_dict(net.state_dict())
    return conditional.at(torch.zeros(1, 1).to(net.readout.weight))


def autoregressive(config: Settings, features: int) -> nn.Module:
    """Return an autoregressive model with a conditional energy of the configured shape."""
    return Autoregressive(features, config.hidden, config.activation)


def normalised(net: nn.Module, config: Settings, facts: Facts) -> nn.Module:
    """Return an autoregressive model that knows where its conditionals have to be normalised."""
    assert isinstance(net, Autoregressive)
    net.include(facts.low, facts.high)
    return net


def _noise(facts: Facts) -> float:
    if facts.noise <= 0:
        raise ValueError("this loss learns from noise on the rows, and there is none; pass --noise, say 0.1")
    return facts.noise


def _sigma(config: Settings, facts: Facts) -> dict[str, Any]:
    return {"sigma": _noise(facts)}


def _sigmas(config: Settings, facts: Facts) -> dict[str, Any]:
    smallest = _noise(facts)
    ratio = (max(LARGEST_SIGMA, smallest) / smallest) ** (1 / (LEVELS - 1))
    return {"sigmas": [smallest * ratio**power for power in reversed(range(LEVELS))], "condition": "log_sigma"}


def _exploding(config: Settings, facts: Facts) -> dict[str, Any]:
    smallest = _noise(facts)
    return {"sde": VE(smallest, max(LARGEST_SIGMA, 2.0 * smallest))}


def _box(config: Settings, facts: Facts) -> dict[str, Any]:
    return {"domain": Box(facts.low, facts.high)}


def _covariance(config: Settings, facts: Facts) -> dict[str, Any]:
    blur = max(facts.noise, 1e-3) ** 2 * torch.eye(facts.features, dtype=facts.covariance.dtype)
    return {"precond": facts.covariance + blur}


def _no_options(config: Settings, facts: Facts) -> dict[str, Any]:
    return {}


def _itself(net: nn.Module, config: Settings, facts: Facts) -> nn.Module:
    return net


def _alone(net: nn.Module) -> tuple[nn.Module, ...]:
    return (net,)


def _context_and_head(net: nn.Module) -> tuple[nn.Module, ...]:
    assert isinstance(net, Autoregressive)
    return net.context_net, net.head


@dataclass(frozen=True)
class Objective:
    """How one loss is trained from the command line.

    Args:
        twin: the loss as a module that owns the network; it is built with `options`, and the settings' `kind` and
            `backend` where it has such options.
        about: what it is, in a phrase.
        kinds: the kinds of network that it trains.
        draws: the random tensors of a batch, by their names in the twin's `forward`.
        blurs: whether the loss adds the data's noise itself, or wants none; it then gets clean rows.
        options: further options of the twin, from the settings and the data.
        network: makes the network, from the settings and the number of features.
        evaluated: from the trained network to the energy or score whose loss is measured, and which is drawn.
        measure: what it is measured by.
        parts: from the network to the networks that the twin takes.
    """

    twin: type[ScoreLoss]
    about: str
    kinds: tuple[NetworkKind, ...] = KINDS
    draws: Mapping[str, Draw] = field(default_factory=dict)
    blurs: bool = False
    options: Callable[[Settings, Facts], dict[str, Any]] = _no_options
    network: Callable[[Settings, int], nn.Module] = perceptron
    evaluated: Callable[[nn.Module, Settings, Facts], nn.Module] = _itself
    measure: Measure = EXACT
    parts: Callable[[nn.Module], tuple[nn.Module, ...]] = _alone

    def module(self, net: nn.Module, config: Settings, facts: Facts) -> ScoreLoss:
        """Return the loss that owns `net`."""
        settings = {name: getattr(config, name) for name in ("kind", "backend") if name in self.twin.option_names()}
        twin: Callable[..., ScoreLoss] = self.twin
        return twin(*self.parts(net), **settings, **self.options(config, facts))


_NOISE_CONDITIONAL: dict[str, Any] = {
    "blurs": True,
    "options": _sigmas,
    "network": noise_conditional,
    "evaluated": at_smallest_level,
}
OBJECTIVES: dict[str, Objective] = {
    "sliced": Objective(
        SlicedScoreLoss, "variance-reduced sliced score matching on random directions", draws={"v": directions}
    ),
    "exact": Objective(ExactScoreLoss, "score matching with the exact trace"),
    "finite-difference": Objective(
        FiniteDifferenceLoss, "sliced score matching by finite differences", draws={"v": directions}
    ),
    "denoising": Objective(
        DenoisingLoss,
        "denoising score matching at the data's noise",
        draws={"noise": normal},
        blurs=True,
        options=_sigma,
    ),
    "finite-difference-denoising": Objective(
        FiniteDifferenceDenoisingLoss,
        "the same by finite differences",
        kinds=("energy",),
        draws={"noise": normal, "v": directions},
        blurs=True,
        options=_sigma,
    ),
    "annealed-denoising": Objective(
        AnnealedDenoisingLoss,
        "denoising at many noise levels, by a network that gets the level",
        draws={"level": levels, "noise": normal},
        **_NOISE_CONDITIONAL,
    ),
    "annealed-sliced": Objective(
        AnnealedSlicedLoss,
        "sliced score matching at many noise levels",
        draws={"level": levels, "noise": normal, "v": directions},
        **_NOISE_CONDITIONAL,
    ),
    "likelihood": Objective(
        ElboLoss,
        "the bound on the likelihood of a diffusion, by a network that gets the time",
        draws={"t": times, "noise": normal, "v": directions},
        blurs=True,
        options=_exploding,
        network=noise_conditional,
        evaluated=at_the_start,
    ),
    "domain": Objective(
        DomainLoss,
        "score matching on the box that the training rows fill",
        draws={"v": directions},
        blurs=True,  # noise would carry rows out of the box
        options=_box,
    ),
    "preconditioned": Objective(
        PreconditionedLoss,
        "sliced score matching in the metric of the rows' covariance",
        draws={"v": directions},
        options=_covariance,
    ),
    "tempered": Objective(
        TemperedLoss,
        "score matching over data and noise level together, for modes far apart",
        kinds=("energy",),
        draws={"beta": temperatures, "noise": normal, "v": directions},
        options=lambda config, facts: {"tempering": TEMPERING},
        network=with_level,
        evaluated=at_level_zero,
    ),
    "composite": Objective(
        CompositeLoss,
        "score matching of each coordinate given those before it, by an autoregressive model",
        kinds=("energy",),
        network=autoregressive,
        evaluated=normalised,
        measure=COMPOSITE,
        parts=_context_and_head,
    ),
}
LOSSES = tuple(OBJECTIVES)
