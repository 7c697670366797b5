"""Measure the bias and the noise of the loss with the optimal control variate, with and without weights.

The coefficient comes from the same batch as the loss, so the loss has a bias of order 1/B. Losses of 2,000 batches of
an energy net with random weights on normal data are compared with the exact losses of the same batches. The weights are
`exp(x_1 - 0.5)`, whose mean is one. For comparison, "optimal without weights" weights the samples only after it has
chosen the coefficient.

Run `python -m experiments.control_variate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import fastssm
from bench import experiments

DIM, BATCHES = 10, 2000
FULL, SMOKE = (2, 8, 32, 128), (2, 8)
LOSSES: dict[str, dict[str, Any]] = {
    "SSM": {"variance_reduced": False},
    "SSM-VR": {},
    "optimal": {"control_variate": "optimal"},
}
NAMES = (*LOSSES, "optimal without weights")


def network(seed: int) -> nn.Module:
    """Return an energy with weights of the size that training gives it."""
    torch.manual_seed(seed)
    net = fastssm.nn.MLP(DIM, [64, 64], activation="tanh")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net.double().requires_grad_(False)


def errors(net: nn.Module, batch: int, batches: int, weighted: bool, seed: int) -> dict[str, Tensor]:
    """Return what each loss of a batch differs by from its exact loss."""
    generator = Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES[: 3 + weighted]}
    for _ in range(batches):
        x = torch.randn(batch, DIM, generator=generator, dtype=torch.float64)
        v = torch.randn(batch, DIM, generator=generator, dtype=torch.float64)
        weight = (x[:, 0] - 0.5).exp() if weighted else None
        exact = fastssm.exact_loss(net, x, weight=weight)
        for name, options in LOSSES.items():
            found[name].append(fastssm.sliced_loss(net, x, v=v, weight=weight, **options) - exact)
        if weight is not None:
            each = fastssm.sliced_loss(net, x, v=v, reduction="none", control_variate="optimal")
            found[NAMES[-1]].append((weight * each).mean() - exact)
    return {name: torch.stack(each) for name, each in found.items()}


def rows(seeds: int, sizes: tuple[int, ...], batches: int) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, weights, size of a batch and loss."""
    for seed in range(seeds):
        net = network(seed)
        for weighted in (False, True):
            for batch in sizes:
                for name, each in errors(net, batch, batches, weighted, seed).items():
                    spread = each.std().item()
                    row = {"seed": seed, "weights": "exp(x_1 - 0.5)" if weighted else "none", "B": batch, "loss": name}
                    row |= {"dtype": "float64", "batches": batches, "bias": f"{each.mean().item():.5f}"}
                    row |= {"bias_error": f"{spread / math.sqrt(batches):.5f}", "deviation": f"{spread:.5f}"}
                    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw bias and standard deviation against the size of a batch."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axes, weights in zip(panels, ("none", "exp(x_1 - 0.5)"), strict=True):
        for index, name in enumerate(NAMES):
            mine = [row for row in found if (row["weights"], row["loss"]) == (weights, name)]
            sizes = sorted({row["B"] for row in mine})
            for value, style in (("deviation", "o-"), ("bias", "x--")):
                means = [[float(row[value]) for row in mine if row["B"] == size] for size in sizes]
                axes.loglog(
                    sizes, [abs(sum(m) / len(m)) for m in means], style, color=f"C{index}", label=f"{name}, {value}"
                )
        axes.set(title=f"weights: {weights}", xlabel="B")
    panels[0].legend(fontsize=7)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "control_variate",
        "Bias and noise of the optimal control variate.",
        lambda seeds, smoke: rows(seeds, *((SMOKE, 50) if smoke else (FULL, BATCHES))),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
