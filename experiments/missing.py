"""Recover models from tables of which 10 to 50 % are missing completely at random.

Normal: mean and precision of five columns. Quartic: `E = x K x / 2 + sum_j (x_j / 2)^4`, four columns, whose K is
learned, from samples of a long Langevin chain with Metropolis tests. The estimators are score matching of the rows
without gaps, of rows whose gaps are filled with the column's mean, `missing_loss` with 8 fillings, and for the normal
density with its own marginals; and score matching of the table before values were removed.

Run `python -m experiments.missing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import fastssm
from bench import experiments
from fastssm.sampling import langevin

FULL, SMOKE, FILLINGS = ((0.1, 0.3, 0.5), 2000), ((0.3,), 200), 8
Fit = Callable[[nn.Module], Tensor]


class Normal(nn.Module):
    """A normal energy; with a mask, that of the marginal density of the observed columns."""

    def __init__(self, precision: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(precision.clone())
        self.mean = nn.Parameter(torch.zeros(len(precision), dtype=precision.dtype))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the energy."""
        off, matrix = x - self.mean, (self.matrix + self.matrix.mT) / 2
        if mask is None:
            return 0.5 * (off @ matrix * off).sum(1)
        off = off * mask
        block = torch.linalg.inv(matrix) * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(1 - mask)
        return 0.5 * (off * torch.linalg.solve(block, off[:, :, None])[:, :, 0]).sum(1)


class Quartic(nn.Module):
    """A quadratic energy plus a fixed quartic one."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        symmetric = (self.matrix + self.matrix.mT) / 2
        return 0.5 * (x @ symmetric * x).sum(1) + (x / 2).pow(4).sum(1)


def chain(dim: int) -> Tensor:
    """Return a symmetric matrix with neighbours coupled."""
    side = torch.diag(torch.full((dim - 1,), 0.6, dtype=torch.float64), 1)
    return torch.eye(dim, dtype=torch.float64) - side - side.mT


def normal_data(seed: int, count: int) -> tuple[nn.Module, Tensor]:
    """Return the true model, and a table."""
    truth = Normal(chain(5) + 0.5 * torch.eye(5).double())
    root = torch.linalg.cholesky(torch.linalg.inv(truth.matrix.detach()))
    z = torch.randn(count, 5, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return truth, z @ root.mT + 1.0


def quartic_data(seed: int, count: int) -> tuple[nn.Module, Tensor]:
    """Return the true model, and a table."""
    truth, generator = Quartic(chain(4)), Generator().manual_seed(seed)
    start = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return truth, langevin(truth, start, step=0.15, n_steps=400, metropolis=True, generator=generator).x


def minimised(model: nn.Module, loss: Fit) -> Tensor:
    """Return the matrix with the least loss."""
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(model)
        value.backward()
        return value

    optimiser.step(closure)
    matrix = model.get_parameter("matrix").detach()
    return (matrix + matrix.mT) / 2


def estimators(table: Tensor, holes: Tensor, seed: int, normal: bool) -> dict[str, Fit]:
    """Return the losses of a table without and with holes."""
    gappy = torch.where(holes, math.nan, table)
    filled = torch.where(holes, gappy.nanmean(0), table)
    whole = table[~holes.any(1)]
    proposal = fastssm.GaussianProposal.fit(gappy)

    def weighted(model: nn.Module) -> Tensor:
        generator = Generator().manual_seed(seed)
        options = {"n_imputations": FILLINGS, "exact": True, "generator": generator}
        return fastssm.missing_loss(model, gappy, proposal=proposal, **options)

    found: dict[str, Fit] = {
        "no gaps": lambda model: fastssm.exact_loss(model, table),
        "whole rows": lambda model: fastssm.exact_loss(model, whole),
        "filled with means": lambda model: fastssm.exact_loss(model, filled),
        "missing_loss": weighted,
    }
    if normal:
        found["missing_loss, marginal"] = lambda model: fastssm.missing_loss(model, gappy, exact=True)
    return found


def rows(seeds: int, shares: tuple[float, ...], count: int) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, model, share of gaps and estimator."""
    for seed in range(seeds):
        for name, make in (("normal", normal_data), ("quartic", quartic_data)):
            truth, table = make(seed, count)
            matrix = truth.get_parameter("matrix").detach()
            for share in shares:
                holes = torch.rand(table.shape, generator=Generator().manual_seed(100 + seed)) < share
                for estimator, loss in estimators(table, holes, seed, name == "normal").items():
                    start = (Normal if name == "normal" else Quartic)(torch.eye(len(matrix), dtype=matrix.dtype))
                    error = (minimised(start, loss) - matrix).norm() / matrix.norm()
                    row = {"seed": seed, "model": name, "n": count, "missing": f"{share:.0%}", "estimator": estimator}
                    row |= {"whole_rows": int((~holes.any(1)).sum()), "dtype": "float64", "error": f"{error:.4f}"}
                    print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the errors against the share of gaps."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axes, name in zip(panels, ("normal", "quartic"), strict=True):
        for estimator in dict.fromkeys(row["estimator"] for row in found if row["model"] == name):
            mine = [row for row in found if (row["model"], row["estimator"]) == (name, estimator)]
            shares = list(dict.fromkeys(row["missing"] for row in mine))
            errors = [[float(row["error"]) for row in mine if row["missing"] == share] for share in shares]
            axes.semilogy(shares, [sum(e) / len(e) for e in errors], "o-", label=estimator)
        axes.set(title=name, xlabel="missing")
    panels[0].set_ylabel("relative error of the matrix")
    panels[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "missing",
        "Models from tables with gaps.",
        lambda seeds, smoke: rows(seeds, *(SMOKE if smoke else FULL)),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
