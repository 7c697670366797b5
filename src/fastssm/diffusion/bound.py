"""The terms of the evidence bound of a diffusion model, each per sample."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.diffusion.model import ScoreModel
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE, normal_like
from fastssm.diffusion.simulation import drift_and_divergence, simulated
from fastssm.diffusion.times import Times, TimeSampling, starts_in_data
from fastssm.directions import Directions
from fastssm.losses.reduction import Reducer, reduce, scaled
from fastssm.losses.sliced import sliced_of


class Noised(NamedTuple):
    """A batch of data at random times.

    Attributes:
        state: `x_t = mean(t) x + std(t) z`.
        z: the noise.
        times: the times, and the weights of their losses.
    """

    state: Tensor
    z: Tensor
    times: Times


class Simulated(NamedTuple):
    """A batch of simulated paths at random times.

    Attributes:
        state: `x_t`.
        end: the state at the last time.
        times: the times, and the weights of their losses.
    """

    state: Tensor
    end: Tensor
    times: Times


def noised(
    sde: LinearSDE | CustomSDE, x: Tensor, sampling: TimeSampling, t: Tensor | None, noise: Tensor | None,
    generator: Generator | None,
) -> Noised | Simulated:  # fmt: skip
    """Take data to random times, or to those given."""
    times = sampling.draw(sde, x, t, generator)
    if isinstance(sde, CustomSDE):
        return Simulated(*simulated(sde, x, times.t, noise, generator), times)
    z = normal_like(x, generator) if noise is None else checks.outside_inference(noise).to(checks.widened(x).dtype)
    return Noised(sde.perturb(x, times.t, z), z, times)


def denoising_path(net: ScoreModel, at: Noised | Simulated) -> Tensor:
    """Return `g^2 (s . z / std + |s|^2 / 2)`, weighted, `[B]`, from `std s`, which neither vanishes nor explodes."""
    sde, t = net.sde, at.times.t
    assert isinstance(sde, LinearSDE)
    assert isinstance(at, Noised)
    scaled = sde.std(t)[:, None] * net.score(at.state, t)
    return at.times.weights * sde.noise_ratio_rate(t) * (0.5 * scaled.square() + scaled * at.z.flatten(1)).sum(1)


def sliced_path(
    net: ScoreModel, at: Noised | Simulated, directions: Directions, variance_reduced: bool, reduced: Reducer,
    return_terms: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return `g^2 (v^T J v + |s|^2 / 2)`, weighted: reduced, and of every sample where `return_terms` asks for it."""
    t, weights = at.times.t, at.times.weights * net.sde.diffusion(at.times.t).square()
    if net.predicts == "score":
        found = sliced_of(
            net.backend, net.at(at.state, t), directions, variance_reduced, scaled(reduced, weights), return_terms
        )
        if isinstance(found, tuple):
            return found[0], weights * (found[1].projected_jacobian + found[1].square)
        return found, found
    terms = net.terms(at.state, t, directions)
    square = terms.score.square().sum(1) if variance_reduced else terms.projected_score.square().mean(0)
    each = weights * (terms.projected_jacobian + 0.5 * square)
    return reduce(each, reduced), each


def prior(sde: SDE, x: Tensor, at: Noised | Simulated, directions: Directions | None) -> Tensor:
    """Return the prior's log density at the last time and the drift's divergence, which do not need the network, `[B]`.

    `E log N(x_T; 0, prior_std^2 I) + D log mean(T)`, where the noise is integrated out; of a simulated path
    `log N(x_T; 0, prior_std^2 I) + v^T (df/dx) v / q(t)`, at its end and at its time.
    """
    if isinstance(at, Simulated):
        assert directions is not None
        divergence = drift_and_divergence(sde, at.state, at.times.t, directions)[1]
        return sde.prior_log_prob(at.end) + (sde.end - at.times.first) * divergence
    assert isinstance(sde, LinearSDE)
    wide = checks.widened(x).flatten(1)
    end = torch.full_like(wide[:, 0], sde.end)
    mean, std = sde.mean(end), sde.std(end) / sde.prior_std
    constant = mean.log() - 0.5 * std.square() - 0.5 * math.log(2.0 * math.pi) - math.log(sde.prior_std)
    return constant * wide.shape[1] - 0.5 * (mean / sde.prior_std).square() * wide.square().sum(1)


def decoder(net: ScoreModel, x: Tensor, at: Noised | Simulated) -> Tensor:
    """`(|z|^2 - |z + std s|^2) / 2` at the earliest time: Gaussian decoding by one step of denoising."""
    sde = net.sde
    if starts_in_data(sde, at.times.first):
        return torch.zeros_like(at.times.t)
    assert isinstance(sde, LinearSDE)
    assert isinstance(at, Noised)
    z = at.z.flatten(1)
    t = torch.zeros_like(at.times.t) + at.times.first
    scaled = sde.std(t)[:, None] * net.score(sde.perturb(x, t, at.z), t)
    return -(scaled * z + 0.5 * scaled.square()).sum(1)
