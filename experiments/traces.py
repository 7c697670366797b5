"""Estimate traces from equally many products: random directions, Hadamard directions, Hutch++ and XTrace.

The matrices are symmetric of size 256, with random eigenvectors and the spectra of Epperly, Tropp and Webber 2024,
section 3: flat, polynomial, exponential, and one step. The error is the root mean square over 200 estimates, divided by
the trace.

Run `python -m experiments.traces`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Generator, Tensor, nn

from bench import experiments
from fastssm.diagnostics import jacobian_trace
from fastssm.diagnostics.traces import TraceMethod

DIM, REPEATS, METHODS = 256, 200, get_args(TraceMethod)
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda i: 3 - 2 * (i - 1) / (DIM - 1),
    "polynomial": lambda i: i**-2.0,
    "exponential": lambda i: 0.7**i,
    "step": lambda i: torch.where(i <= 12, 1.0, 1e-3).to(i),
}
FULL, SMOKE = (12, 24, 48, 96), (12,)


def matrix(spectrum: str, seed: int) -> Tensor:
    """Return a symmetric matrix with a spectrum."""
    axes = torch.linalg.qr(torch.randn(DIM, DIM, generator=Generator().manual_seed(seed), dtype=torch.float64))[0]
    return axes @ torch.diag(SPECTRA[spectrum](torch.arange(1, DIM + 1, dtype=torch.float64))) @ axes.mT


def rows(seeds: int, products: tuple[int, ...], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, spectrum, number of products and method."""
    for seed in range(seeds):
        for spectrum in SPECTRA:
            field = nn.Linear(DIM, DIM, bias=False, dtype=torch.float64)
            field.weight.data = matrix(spectrum, seed)
            trace, x = field.weight.trace().item(), torch.zeros(repeats, DIM, dtype=torch.float64)
            for count in products:
                for method in METHODS:
                    generator, start = Generator().manual_seed(seed), time.perf_counter()
                    found = jacobian_trace(field, x, n_products=count, method=method, generator=generator)
                    seconds = time.perf_counter() - start
                    error = (found - trace).square().mean().sqrt().item() / trace
                    row = {"seed": seed, "spectrum": spectrum, "D": DIM, "products": count, "method": method}
                    row |= {
                        "dtype": "float64",
                        "repeats": repeats,
                        "relative_error": f"{error:.3e}",
                        "seconds": f"{seconds:.2f}",
                    }
                    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the errors against the number of products, one panel for each spectrum."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(SPECTRA), figsize=(12, 3.2))
    for axes, spectrum in zip(panels, SPECTRA, strict=True):
        for method in METHODS:
            mine = [row for row in found if (row["spectrum"], row["method"]) == (spectrum, method)]
            counts = sorted({int(row["products"]) for row in mine})
            means = [
                [float(row["relative_error"]) for row in mine if int(row["products"]) == count] for count in counts
            ]
            axes.loglog(counts, [sum(m) / len(m) for m in means], "o-", label=method)
        axes.set(title=spectrum, xlabel="products")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
    panels[0].set_ylabel("relative error")
    panels[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "traces",
        "Errors of traces from few products.",
        lambda seeds, smoke: rows(seeds, *((SMOKE, 20) if smoke else (FULL, REPEATS))),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
