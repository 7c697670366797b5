"""Estimate divergences of up to 80 nats between normal densities by time scores.

`p1` has pairs of coordinates of correlation 0.9, `p0 = N(0, I)`, so the divergence is 0.83 nats per pair, as in the
experiments on mutual information of Rhodes et al. 2020, Choi et al. 2022 and Yu et al. 2025, which have up to 80 nats.
The time score of such a path is a quadratic form, and so is the model: products of two linear maps that change in time.
Fresh samples are drawn at every step. A classifier with the same quadratic forms, trained on as many samples,
is for comparison.

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

import fastssm
from bench import experiments

CORRELATION, TIMES, TEST, RATE = 0.9, 6, 4000, 1e-2
PER_PAIR = -0.5 * math.log(1 - CORRELATION**2)
NAMES = {"conditional": "conditional", "implicit": "implicit (DRE-∞)", "classifier": "one classifier"}


class Size(NamedTuple):
    """What a run costs."""

    pairs: tuple[int, ...]
    steps: int
    batch: int


FULL, SMOKE = Size((12, 24, 48, 96), 4000, 256), Size((2, 4), 40, 64)


class Quadratic(nn.Module):
    """`(A(t) x) (B(t) x) + c(t)`, coordinate by coordinate, whose entries are polynomials of t."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(2, TIMES, dim, dim))
        self.constant = nn.Parameter(torch.zeros(TIMES, dim))
        with torch.no_grad():
            self.maps[:, 0] = 0.1 * torch.eye(dim) + 0.01 * torch.randn(2, dim, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return one value per coordinate."""
        basis = (torch.arange(TIMES) * torch.arccos(2 * t[:, None] - 1)).cos()  # Chebyshev's polynomials
        spread = (basis[:, :, None] * x[:, None, :]).flatten(1)
        first, second = (spread @ self.maps.transpose(2, 3).flatten(1, 2)).unbind(0)
        return first * second + basis @ self.constant


def draw(pairs: int, count: int, generator: Generator) -> Tensor:
    """Draw rows of p1: the second half of the coordinates is correlated with the first."""
    first, noise = torch.randn(2, count, pairs, generator=generator)
    return torch.cat([first, CORRELATION * first + math.sqrt(1 - CORRELATION**2) * noise], 1)


def true_log_ratio(x: Tensor) -> Tensor:
    """Return `log p1 - log p0`."""
    first, second = x.double().chunk(2, 1)
    conditional = torch.distributions.Normal(CORRELATION * first, math.sqrt(1 - CORRELATION**2))
    return (conditional.log_prob(second) - torch.distributions.Normal(0.0, 1.0).log_prob(second)).sum(1)


def loss_of(model: nn.Module, how: str, x: Tensor, base: Tensor, generator: Generator) -> Tensor:
    """Return the loss of a batch."""
    if how == "classifier":
        logits = [model(rows, torch.zeros(len(rows))).sum(1) for rows in (x, base)]
        return nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
    return fastssm.density_ratio_loss(model, x, base=base, objective=how, generator=generator)


def run(how: str, pairs: int, seed: int, size: Size) -> dict[str, Any]:
    """Train one model, and compare its ratios with the true ones."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    model, start = Quadratic(2 * pairs), time.perf_counter()
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, size.steps)
    for _ in range(size.steps):
        x, base = draw(pairs, size.batch, generator), torch.randn(size.batch, 2 * pairs, generator=generator)
        optimiser.zero_grad()
        loss_of(model, how, x, base, generator).backward()
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - start
    test = draw(pairs, TEST, Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        found = model(test, torch.zeros(TEST)).sum(1) if how == "classifier" else fastssm.log_density_ratio(model, test)
    truth = true_log_ratio(test)
    return {
        "seed": seed, "objective": NAMES[how], "D": 2 * pairs, "steps": size.steps, "batch": size.batch,
        "true": f"{PER_PAIR * pairs:.1f}", "estimate": f"{found.double().mean():.3f}",
        "error": f"{(found.double() - truth).square().mean().sqrt():.3f}", "seconds": f"{seconds:.1f}",
    }  # fmt: skip


def rows(seeds: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, dimension and objective."""
    for seed in range(seeds):
        for pairs in size.pairs:
            for how in NAMES:
                row = run(how, pairs, seed, size)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the estimates against the true divergences."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4))
    true = sorted({float(row["true"]) for row in found})
    axes.plot(true, true, color="black", linewidth=1, label="true")
    for name in NAMES.values():
        mine = [row for row in found if row["objective"] == name]
        axes.plot([float(r["true"]) for r in mine], [float(r["estimate"]) for r in mine], "o", alpha=0.6, label=name)
    axes.set(xlabel="true divergence (nats)", ylabel="estimate (nats)")
    axes.legend()
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("density_ratio", "Divergences of up to 80 nats by time scores.", seeds=3)
    found = list(rows(chosen.seeds, SMOKE if chosen.smoke else FULL))
    experiments.write(found, chosen.csv)
    if chosen.figure:
        draw_figure(found, chosen.figure)


if __name__ == "__main__":
    main()
