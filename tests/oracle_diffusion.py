"""Diffusions and their bound by plain autograd and quadrature, as the papers print them; nothing of fastssm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests import oracle, oracle_noise


class Kernel(NamedTuple):
    """`x_t = mean x + sqrt(var) z` of `dx = rate x dt + sqrt(square) dw`, and the deviation of the prior."""

    mean: Callable[[Tensor], Tensor]
    var: Callable[[Tensor], Tensor]
    rate: Callable[[Tensor], Tensor]
    square: Callable[[Tensor], Tensor]
    prior: float


def integral(t: Tensor) -> Tensor:
    return 0.1 * t + 9.95 * t**2


def beta(t: Tensor) -> Tensor:
    return 0.1 + 19.9 * t


def exploding(low: float, high: float) -> Kernel:
    def var(t: Tensor) -> Tensor:
        return low**2 * (high / low) ** (2 * t)

    return Kernel(torch.ones_like, var, torch.zeros_like, lambda t: var(t) * 2 * (math.log(high) - math.log(low)), high)


def reciprocal(low: float, high: float, eta: float, eps: float) -> Kernel:
    """Kim et al.'s constants by their names; `g^2` is the derivative of the variance."""
    span = 1.0 / eps - 1.0
    base, base_2 = (eta / high) ** (1.0 / span), 1.01 ** (-1.0 / (2.0 * span))
    const, const_2 = high**2 / base**2, -(1.01 ** ((1.0 / eps) / span)) * (eta**2 - low**2)

    def var(t: Tensor) -> Tensor:
        return const * base ** (2.0 / t) + const_2 * base_2 ** (2.0 / t)

    def square(t: Tensor) -> Tensor:
        first = const * math.log(base) * base ** (2.0 / t)
        return -2.0 / t**2 * (first + const_2 * math.log(base_2) * base_2 ** (2.0 / t))

    return Kernel(torch.ones_like, var, torch.zeros_like, square, math.sqrt(const * base**2 + const_2 * base_2**2))


KERNELS = {
    "VP": Kernel(
        lambda t: torch.exp(-0.5 * integral(t)),
        lambda t: 1.0 - torch.exp(-integral(t)),
        lambda t: -0.5 * beta(t),
        beta,
        1.0,
    ),
    "SubVP": Kernel(
        lambda t: torch.exp(-0.5 * integral(t)),
        lambda t: (1.0 - torch.exp(-integral(t))) ** 2,
        lambda t: -0.5 * beta(t),
        lambda t: beta(t) * (1.0 - torch.exp(-2.0 * integral(t))),
        1.0,
    ),
    "VE": exploding(0.02, 8.0),
    "ReciprocalVE": reciprocal(0.02, 8.0, 0.01, 0.01),
}


def legendre(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of Gauss and Legendre's rule on an interval."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    half = (high - low) / 2
    return low + half * (torch.from_numpy(nodes) + 1.0), half * torch.from_numpy(weights)


def hermite(count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for the mean over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def integrate(f: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """Integrate by Gauss and Legendre's rule on pieces that shrink towards 0."""
    edges = torch.linspace(math.log(low), math.log(high), 40).exp().tolist() if low > 0 else [low, high]
    edges[0], edges[-1] = low, high
    pieces = [legendre(a, b, 20) for a, b in pairwise(edges)]
    return float(sum((f(t) * w).sum() for t, w in pieces))


def density(kernel: Kernel, t: Tensor, first: float, floor: float | None) -> Tensor:
    """Return `q(t) ~ g^2 / var`, constant below `floor`, normalised by quadrature."""
    start = first if floor is None else floor

    def ratio(t: Tensor) -> Tensor:
        return kernel.square(t) / kernel.var(t)

    level = float(ratio(torch.tensor(start, dtype=torch.float64)))
    total = integrate(ratio, start, 1.0) + level * (start - first)
    return torch.where(t < start, torch.full_like(t, level), ratio(t)) / total


def bound(
    kernel: Kernel,
    model: nn.Module,
    x: Tensor,
    t: Tensor,
    z: Tensor,
    v: Tensor | None,
    q: Tensor | float,
    *,
    energy: bool = False,
    noise: bool = False,
    reduced: bool = True,
    first: float | None = None,
    cond: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return prior, path and decoder of Huang's bound, `a = g s`; v of `[M, B, D]` is sliced, None is denoising."""
    dim = x.shape[1]

    def score(x: Tensor, t: Tensor) -> Tensor:
        out = oracle_noise.score(model, x, energy=energy, cond=[*cond, t])
        return -out / kernel.var(t)[:, None] ** 0.5 if noise else out

    y = kernel.mean(t)[:, None] * x + kernel.var(t)[:, None] ** 0.5 * z
    y = y if y.requires_grad else y.requires_grad_()
    g = kernel.square(t)[:, None] ** 0.5
    a = g * score(y, t)
    if v is None:
        path = (
            0.5 * (a + g * z / kernel.var(t)[:, None] ** 0.5) ** 2 - 0.5 * (g * z) ** 2 / kernel.var(t)[:, None]
        ).sum(1)
    else:
        along = torch.stack([(oracle.derivative((g * a * u).sum(), y) * u).sum(1) for u in v]).mean(0)
        square = (a**2).sum(1) if reduced else ((v * a).sum(2) ** 2).mean(0)
        path = along + square / 2
    end = torch.ones(1, dtype=x.dtype)
    mean, var, prior = kernel.mean(end), kernel.var(end), kernel.prior**2
    lp = -dim / 2 * math.log(2 * math.pi * prior) - (mean**2 * (x**2).sum(1) + dim * var) / (2 * prior)
    decoder = torch.zeros_like(lp)
    if first is not None:
        e = torch.full_like(t, first)
        std = kernel.var(e)[:, None] ** 0.5
        y = kernel.mean(e)[:, None] * x + std * z
        decoder = ((z**2).sum(1) - ((z + std * score(y, e)) ** 2).sum(1)) / 2
    return lp + dim * mean.log(), path / q, decoder
