"""Gaussian data along a diffusion, for D = 1: the true score, and expected losses by quadrature."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastssm.diffusion import VE, VP, LinearSDE, ReciprocalVE, SubVP, TimeSampling, elbo_loss
from fastssm.diffusion.times import time_density
from tests.oracle_diffusion import hermite, legendre

SDES: dict[str, LinearSDE] = {
    "VP": VP(),
    "SubVP": SubVP(),
    "VE": VE(0.02, 8.0),
    "ReciprocalVE": ReciprocalVE(0.02, 8.0, eta=0.01, eps=0.01),
}
MEAN, VARIANCE = 1.5, 0.4
ENTROPY = -0.5 * math.log(2 * math.pi * math.e * VARIANCE)  # E log p


class Gaussian(nn.Module):
    """The true score of `N(MEAN, VARIANCE)` data along a diffusion, times a factor, for D = 1."""

    def __init__(self, sde: LinearSDE, factor: float = 1.0) -> None:
        super().__init__()
        self.sde, self.factor = sde, factor

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        t = time_told(self.sde, told)
        mean, var = self.sde.mean(t) * MEAN, self.sde.mean(t).square() * VARIANCE + self.sde.std(t).square()
        return self.factor * -(x - mean[:, None]) / var[:, None]


@torch.no_grad()
def expected_loss(
    model: nn.Module, sde: LinearSDE, pieces: list[tuple[float, float]], count: int = 40, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return the mean loss, and the mean of its path, over data, noise and times, by quadrature of polynomials."""
    (z, wz), (e, we) = hermite(4), hermite(4)
    rules = [legendre(a, b, count) for a, b in pieces]
    u, wu = torch.cat([nodes for nodes, _ in rules]), torch.cat([weights for _, weights in rules])
    t, x, noise = (grid.flatten() for grid in torch.meshgrid(u, MEAN + VARIANCE**0.5 * e, z, indexing="ij"))
    weight = torch.einsum("i,j,k->ijk", wu, we, wz).flatten()
    each, terms = elbo_loss(
        model, x[:, None], sde=sde, t=t, noise=noise[:, None], kind="score", reduction="none", return_terms=True,
        **({"form": "exact", "times": TimeSampling("uniform")} | options),
    )  # fmt: skip
    span = wu.sum()
    return (each * weight).sum() / span, (terms.path * weight).sum() / span


def terminal_divergence(sde: LinearSDE) -> float:
    """`KL(x_T || prior)`."""
    end = torch.tensor(sde.end, dtype=torch.float64)
    mean = float(sde.mean(end)) * MEAN
    ratio = (float(sde.mean(end)) ** 2 * VARIANCE + float(sde.std(end)) ** 2) / sde.prior_std**2
    return 0.5 * (ratio - 1 - math.log(ratio) + mean**2 / sde.prior_std**2)


def time_told(sde: LinearSDE, told: Tensor) -> Tensor:
    """Return the time of what a model was told of it."""
    if not isinstance(sde, ReciprocalVE):
        return told
    low, high = torch.full_like(told, math.log(sde.start)), torch.zeros_like(told)
    for _ in range(80):
        middle = (low + high) / 2
        below = sde.condition(middle.exp()) < told
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low.exp()


@torch.no_grad()
def mean_path(model: nn.Module, sde: LinearSDE, times: TimeSampling) -> float:
    """Return the mean of the path's term over times drawn from their density, by quadrature over its quantiles."""
    t_min, total = times.earliest(sde), 0.0
    q = time_density(sde, times.density, t_min)
    edges = [t_min * (1.0 / t_min) ** (k / 4) for k in range(5)]
    for low, high in pairwise(edges):
        t, weight = legendre(low, high, 16)
        (z, wz), (e, we) = hermite(3), hermite(3)
        nodes = torch.meshgrid(t, MEAN + VARIANCE**0.5 * e, z, indexing="ij")
        time, x, noise = (n.flatten() for n in nodes)
        _, terms = elbo_loss(
            model, x[:, None], sde=sde, form="denoising", times=times, t=time, noise=noise[:, None],
            kind="score", reduction="none", decoder=False, return_terms=True,
        )  # fmt: skip
        mass = torch.einsum("i,j,k->ijk", weight / q.inverse(t), we, wz).flatten()
        total += float((terms.path * mass).sum())
    return total
