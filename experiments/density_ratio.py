"""Estimate divergences of up to 80 nats between normal densities by time scores.

`p0 = N(0, I)`. Shifted: p1 has eight coordinates, variances from 0.5 to 2 along random axes, and a mean far away.
Correlated: p1 has pairs of coordinates of correlation 0.9, 0.83 nats per pair, as in the experiments on mutual
information of Rhodes et al. 2020, Choi et al. 2022 and Yu et al. 2025.

The time score of such a path is a quadratic form of the data, and so is the model: products of two affine maps that
change in time. Fresh samples are drawn at every step. A classifier with the same quadratic form, trained on as many
samples, is for comparison.

Run `python -m experiments.density_ratio`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.distributions import MultivariateNormal

import fastssm
from bench import experiments

CORRELATION, TIMES, TEST, SHIFTED = 0.9, 6, 4000, 8
SIGMA = {"shifted": 1.0, "correlated": 0.5}
PER_PAIR = -0.5 * math.log(1 - CORRELATION**2)


class Size(NamedTuple):
    """What a run costs."""

    nats: tuple[float, ...]
    pairs: dict[str, tuple[int, ...]]
    steps: dict[str, int]
    batch: int


STEPS = {"conditional": 3000, "implicit": 1500, "classifier": 1500}  # the implicit objective costs most
PAIRS = {"conditional": (12, 24, 48), "implicit": (12,), "classifier": (12, 24)}
FULL = Size((20.0, 80.0), PAIRS, STEPS, 1024)
SMOKE = Size((10.0,), dict.fromkeys(STEPS, (2,)), dict.fromkeys(STEPS, 40), 64)


class Quadratic(nn.Module):
    """`(A(t) y + a(t)) (B(t) y + b(t)) + c(t)`, coordinate by coordinate, whose entries are polynomials of t.

    y is x less the path's mean at t, estimated once from samples.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        dim = len(mean)
        self.register_buffer("mean", mean)
        self.maps = nn.Parameter(torch.zeros(2, TIMES, dim, dim + 1))
        self.constant = nn.Parameter(torch.zeros(TIMES, dim))
        with torch.no_grad():
            self.maps[:, 0, :, :dim] = 0.1 * torch.eye(dim) + 0.01 * torch.randn(2, dim, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return one value per coordinate."""
        basis = (torch.arange(TIMES) * torch.arccos(2 * t[:, None] - 1)).cos()  # Chebyshev's polynomials
        row = torch.cat([x - t[:, None] * self.mean, torch.ones_like(x[:, :1])], 1)
        spread = (basis[:, :, None] * row[:, None, :]).flatten(1)
        first, second = (spread @ self.maps.transpose(2, 3).flatten(1, 2)).unbind(0)
        return first * second + basis @ self.constant


def divergence(p: MultivariateNormal, base: MultivariateNormal) -> float:
    """Return the divergence of a normal density from another."""
    return float(torch.distributions.kl_divergence(p, base))


def shifted(nats: float, seed: int) -> MultivariateNormal:
    """Return a density whose mean is so far away that its divergence is as given."""
    generator = Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(SHIFTED, SHIFTED, generator=generator))[0]
    covariance = axes @ torch.diag(torch.linspace(math.log(0.5), math.log(2.0), SHIFTED).exp()) @ axes.mT
    away = nn.functional.normalize(torch.randn(SHIFTED, generator=generator), dim=0)
    rest = divergence(MultivariateNormal(torch.zeros(SHIFTED), covariance), standard(SHIFTED))
    return MultivariateNormal(math.sqrt(2 * (nats - rest)) * away, covariance)


def correlated(pairs: int) -> MultivariateNormal:
    """Return a density whose coordinates are correlated in pairs."""
    covariance = torch.eye(2 * pairs)
    covariance += CORRELATION * (torch.eye(2 * pairs).roll(pairs, 1))
    return MultivariateNormal(torch.zeros(2 * pairs), covariance)


def standard(dim: int) -> MultivariateNormal:
    """Return the base."""
    return MultivariateNormal(torch.zeros(dim), torch.eye(dim))


def loss_of(model: nn.Module, how: str, x: Tensor, base: Tensor, sigma: float) -> Tensor:
    """Return the loss of a batch."""
    if how == "classifier":
        logits = [model(rows, torch.zeros(len(rows))).sum(1) for rows in (x, base)]
        return nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
    return fastssm.density_ratio_loss(model, x, base=base, objective=how, sigma=sigma)


def run(how: str, p: MultivariateNormal, seed: int, sigma: float, size: Size) -> dict[str, Any]:
    """Train one model, and compare its ratios with the true ones."""
    torch.manual_seed(seed)
    base = standard(len(p.mean))
    model, start = Quadratic(p.sample((TEST,)).mean(0)), time.perf_counter()
    optimiser = torch.optim.Adam(model.parameters(), lr=min(1e-2, 0.3 / len(p.mean)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, size.steps[how])
    for _ in range(size.steps[how]):
        optimiser.zero_grad()
        loss_of(model, how, p.sample((size.batch,)), torch.randn(size.batch, len(p.mean)), sigma).backward()
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - start
    test = p.sample((TEST,))
    with torch.no_grad():
        logit = model(test, torch.zeros(TEST)).sum(1)
        found = logit if how == "classifier" else fastssm.log_density_ratio(model, test)
    error = (found - (p.log_prob(test) - base.log_prob(test))).square().mean().sqrt()
    return {"estimate": f"{found.mean():.3f}", "error": f"{error:.3f}", "seconds": f"{seconds:.1f}"}


def rows(seeds: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, pair of densities and objective."""
    for seed in range(seeds):
        for how in size.steps:
            cases = [("shifted", shifted(nats, seed)) for nats in size.nats]
            cases += [("correlated", correlated(count)) for count in size.pairs[how]]
            for setting, p in cases:
                row = {"seed": seed, "setting": setting, "D": len(p.mean)}
                row |= {"nats": f"{divergence(p, standard(len(p.mean))):.1f}", "objective": how}
                row |= {"steps": size.steps[how], "batch": size.batch, "sigma": SIGMA[setting]}
                row |= run(how, p, seed, SIGMA[setting], size)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the estimates against the true divergences."""
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 4))
    for axes, setting in zip(both, ("shifted", "correlated"), strict=True):
        mine = [row for row in found if row["setting"] == setting]
        true = sorted({float(row["nats"]) for row in mine})
        axes.plot(true, true, color="black", linewidth=1, label="true")
        for name in STEPS:
            points = [(float(r["nats"]), float(r["estimate"])) for r in mine if r["objective"] == name]
            axes.plot(*zip(*points, strict=True), "o", alpha=0.6, label=name)
        axes.set(xlabel="true divergence (nats)", ylabel="estimate (nats)", title=setting, ylim=(0, 1.4 * true[-1]))
    both[0].legend()
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "density_ratio",
        "Divergences of up to 80 nats by time scores.",
        lambda seeds, smoke: rows(seeds, SMOKE if smoke else FULL),
        draw_figure,
        seeds=2,
    )


if __name__ == "__main__":
    main()
