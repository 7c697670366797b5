"""The terms of the evidence bound of a diffusion model, each per sample."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.diffusion.model import ScoreModel
from fastssm.diffusion.sde import LinearSDE, normal_like
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


def noised(
    sde: LinearSDE, x: Tensor, sampling: TimeSampling, t: Tensor | None, noise: Tensor | None,
    generator: Generator | None,
) -> Noised:  # fmt: skip
    """Take data to random times, or to those given."""
    times = sampling.draw(sde, x, t, generator)
    z = normal_like(x, generator) if noise is None else checks.outside_inference(noise).to(checks.widened(x).dtype)
    return Noised(sde.perturb(x, times.t, z), z, times)


def denoising_path(net: ScoreModel, sde: LinearSDE, at: Noised) -> Tensor:
    """Return `g^2 (s . z / std + |s|^2 / 2)`, weighted, `[B]`, from `std s`, which neither vanishes nor explodes."""
    t = at.times.t
    scaled = sde.std(t)[:, None] * net.score(at.state, t)
    return at.times.weights * sde.noise_ratio_rate(t) * (0.5 * scaled.square() + scaled * at.z.flatten(1)).sum(1)


def sliced_path(
    net: ScoreModel, at: Noised, directions: Directions, variance_reduced: bool, reduced: Reducer, return_terms: bool
) -> tuple[Tensor, Tensor]:
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


def prior(sde: LinearSDE, x: Tensor) -> Tensor:
    """`E log N(x_T; 0, prior_std^2 I) + D log mean(T)`, `[B]`: the noise is integrated out."""
    wide = checks.widened(x).flatten(1)
    end = torch.full_like(wide[:, 0], sde.end)
    mean, std = sde.mean(end), sde.std(end) / sde.prior_std
    constant = mean.log() - 0.5 * std.square() - 0.5 * math.log(2.0 * math.pi) - math.log(sde.prior_std)
    return constant * wide.shape[1] - 0.5 * (mean / sde.prior_std).square() * wide.square().sum(1)


def decoder(net: ScoreModel, sde: LinearSDE, x: Tensor, at: Noised) -> Tensor:
    """`(|z|^2 - |z + std s|^2) / 2` at the earliest time: Gaussian decoding by one step of denoising."""
    z = at.z.flatten(1)
    if starts_in_data(sde, at.times.first):
        return torch.zeros_like(z[:, 0])
    t = torch.zeros_like(z[:, 0]) + at.times.first
    scaled = sde.std(t)[:, None] * net.score(sde.perturb(x, t, at.z), t)
    return -(scaled * z + 0.5 * scaled.square()).sum(1)
