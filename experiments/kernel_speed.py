"""Time a step of training a deep kernel exponential family against the dimension of the data.

A step finds alpha from 100 normal samples and differentiates the loss of 100 others through it, with 100 inducing
points, by each method of `experiments/kernel_families.py`.

Run `python -m experiments.kernel_speed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import experiments
from bench.measure import interleaved
from experiments.kernel_families import METHODS, Method
from fastssm.nn import KernelExpFamily

FULL, SMOKE = ((10, 30, 100, 300, 1000), 100, 4.0), ((3, 5), 10, 0.1)
EXACT_UP_TO = 100  # coordinates of the exact loss: 100 samples along 300 of them take more memory than is useful
TIMED = ("SSM", "SSM-VR", "DSM, sigma 0.2", "CP", "exact")


def step_of(method: Method, dim: int, count: int) -> Callable[[], None]:
    """Return one step."""
    family, ridge = KernelExpFamily(torch.randn(count, dim)), torch.tensor(-4.0, requires_grad=True)
    fit, judge = torch.randn(2, count, dim)

    def step() -> None:
        for parameter in family.parameters():
            parameter.grad = None
        method.loss(family, judge, method.coefficients(family, fit, ridge)).backward()

    return step


def rows(seeds: int, dims: tuple[int, ...], count: int, budget: float) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, dimension and method."""
    for seed in range(seeds):
        for dim in dims:
            torch.manual_seed(seed)
            labels = [label for label in TIMED if label != "exact" or dim <= EXACT_UP_TO]
            times = interleaved({label: step_of(METHODS[label], dim, count) for label in labels}, budget)
            for label, timing in times.items():
                name = label.partition(",")[0]
                row = {"seed": seed, "D": dim, "method": name, "samples": count, "points": count, "dtype": "float32"}
                row |= {"ms": f"{timing.median_ms:.2f}"}
                print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the times against the dimension."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.6))
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        dims = sorted({row["D"] for row in mine})
        times = [[float(row["ms"]) for row in mine if row["D"] == dim] for dim in dims]
        axes.loglog(dims, [sum(t) / len(t) for t in times], "o-", label=method)
    axes.set(xlabel="dimension", ylabel="milliseconds of a step")
    axes.legend()
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "kernel_speed",
        "Steps of deep kernel families against the dimension.",
        lambda seeds, smoke: rows(seeds, *(SMOKE if smoke else FULL)),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
