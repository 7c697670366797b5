"""Estimate the weights of distant modes by tempered score matching.

The score is the gradient of log p. There are no data between distant modes, so score matching does not determine
their relative weights. Tempered score matching adds noise at a continuum of levels, up to one at which all modes merge,
and also learns the derivative with respect to the level. This determines the weights. Sliced score matching at ten
levels (`annealed`), with a network conditioned on the level, learns each level separately and relies on the continuity
of the network.

Run `python examples/tempered_mixture.py`, and with `--csv` (and the repository on the path) to write one row per seed.
"""

import argparse
import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

import fastssm

DEVIATION, SAMPLES, BATCH, WIDTHS = 0.5, 10_000, 256, (64, 64, 64)


class Mixture(NamedTuple):
    """A mixture of isotropic Gaussians of standard deviation 0.5."""

    centres: Tensor
    weights: Tensor

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw points `[count, D]`."""
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        shape = (count, self.centres.shape[1])
        return self.centres[mode] + DEVIATION * torch.randn(shape, generator=generator)


def embed(weights: list[float], places: list[list[float]], dim: int) -> Mixture:
    """Return a mixture in `dim` dimensions with centres given in the first coordinates."""
    places = [[*place, *[0.0] * (dim - len(place))] for place in places]
    return Mixture(torch.tensor(places), torch.tensor(weights))


SETTINGS = {
    "two modes": embed([0.8, 0.2], [[-4.0], [4.0]], 2),
    "three modes": embed([0.6, 0.3, 0.1], [[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]], 2),
    "ten dimensions": embed([0.8, 0.2], [[-4.0], [4.0]], 10),
}


def span(mixture: Mixture) -> float:
    """Return the largest distance between two modes, also the standard deviation of the strongest noise."""
    return float(torch.cdist(mixture.centres, mixture.centres).max())


def train(objective: nn.Module, rows: Tensor, steps: int, generator: Generator) -> None:
    """Minimise an objective on batches of rows."""
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = objective(rows[torch.randint(len(rows), (BATCH,), generator=generator)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


Energy = Callable[[Tensor], Tensor]


def plain(mixture: Mixture, rows: Tensor, steps: int, generator: Generator) -> Energy:
    """Learn `E(x)` by sliced score matching."""
    net = fastssm.nn.MLP(rows.shape[1], WIDTHS, activation="silu")
    train(fastssm.SlicedScoreLoss(net), rows, steps, generator)
    return net


def tempered(mixture: Mixture, rows: Tensor, steps: int, generator: Generator) -> Energy:
    """Learn `E(x, level)`, and return it at level 0, without noise."""
    levels = fastssm.GeometricTempering(DEVIATION**2, span(mixture) ** 2)
    net = fastssm.nn.MLP(rows.shape[1] + 1, WIDTHS, activation="silu")
    train(fastssm.TemperedLoss(net, tempering=levels), rows, steps, generator)
    return lambda x: net(nn.functional.pad(x, (0, 1)))


def annealed(mixture: Mixture, rows: Tensor, steps: int, generator: Generator) -> Energy:
    """Learn `E(x; level)` at ten separate levels, and return it at the smallest."""
    net = fastssm.nn.MLP(rows.shape[1], WIDTHS, activation="silu", cond_dim=1)
    sigmas = torch.logspace(math.log10(DEVIATION / 10), math.log10(span(mixture)), 10)
    train(fastssm.AnnealedSlicedLoss(net, sigmas=sigmas, condition="log_sigma"), rows, steps, generator)
    return net.at(sigmas[:1, None].log())


METHODS = {"sliced": plain, "annealed": annealed, "tempered": tempered}


@torch.no_grad()
def weights_of(energy: Energy, mixture: Mixture, points: int = 20_000) -> Tensor:
    """Return the fraction of the mass of `exp(-E)` around each centre, by importance sampling."""
    offsets = 1.5 * DEVIATION * torch.randn(points, mixture.centres.shape[1], generator=Generator().manual_seed(0))
    log_proposal = -offsets.square().sum(1) / (2 * (1.5 * DEVIATION) ** 2)
    energies = torch.stack([energy(centre + offsets).flatten() for centre in mixture.centres])
    return torch.softmax(torch.logsumexp((-energies - log_proposal).double(), 1), 0)


def experiment(name: str, method: str, seed: int, steps: int) -> tuple[dict[str, Any], Energy]:
    """Learn one mixture with one loss and seed, and return the row and the energy."""
    torch.manual_seed(seed)
    mixture, generator = SETTINGS[name], Generator().manual_seed(seed)
    energy = METHODS[method](mixture, mixture.draw(SAMPLES, generator), steps, generator)
    found = weights_of(energy, mixture)
    row = {
        "threads": torch.get_num_threads(),
        "setting": name,
        "D": mixture.centres.shape[1],
        "modes": len(mixture.weights),
        "samples": SAMPLES,
        "widths": "x".join(map(str, WIDTHS)),
        "steps": steps,
        "B": BATCH,
        "loss": method,
        "seed": seed,
        "true_weights": " ".join(f"{w:.3f}" for w in mixture.weights.tolist()),
        "learnt_weights": " ".join(f"{w:.3f}" for w in found.tolist()),
        "largest_error": f"{float((found - mixture.weights).abs().max()):.4f}",
    }
    return row, energy


def place(row: dict[str, Any]) -> tuple[int, int]:
    """Return the sort key of a row."""
    return [*SETTINGS].index(row["setting"]), [*METHODS].index(row["loss"])


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows, with the commit, date and machine."""
    from bench.harness import environment

    shared = environment()
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*shared, *rows[0]])
        table.writeheader()
        table.writerows(shared | row for row in sorted(rows, key=place))


def draw(rows: list[dict[str, Any]], energies: dict[str, Energy], path: Path) -> None:
    """Plot log-densities along the line through two modes, and the weight of the first mode for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.6), layout="constrained", dpi=110)
    left, *panels = figure.subplots(1, 1 + len(SETTINGS), width_ratios=[1.8, *[1.0] * len(SETTINGS)])
    mixture = SETTINGS["two modes"]
    line = nn.functional.pad(torch.linspace(-6.5, 6.5, 400)[:, None], (0, 1))
    distance = torch.cdist(line, mixture.centres).square() / (2 * DEVIATION**2)
    truth = torch.logsumexp(mixture.weights.log() - distance, 1)
    left.plot(line[:, 0], truth - truth.max(), color="k", lw=2.5, alpha=0.4, label="truth")
    for (name, energy), colour in zip(energies.items(), COLOURS, strict=True):
        with torch.no_grad():
            log_density = -energy(line).flatten()
        log_density = log_density - log_density[line[:, 0] < 0].max() + mixture.weights[0].log() - truth.max()
        left.plot(line[:, 0], log_density, color=colour, lw=1.4, label=f"{name}, seed 0")
    left.set(ylim=(-9, 6), xlabel="$x_1$", ylabel="log density", title="two modes, level at the left one")
    left.legend(frameon=False, fontsize=8)
    for panel, name in zip(panels, SETTINGS, strict=True):
        panel.axhline(float(SETTINGS[name].weights[0]), color="k", lw=2.5, alpha=0.4)
        for place, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
            shares = [
                float(r["learnt_weights"].split()[0]) for r in rows if (r["setting"], r["loss"]) == (name, method)
            ]
            panel.plot([place] * len(shares), shares, "o", color=colour, alpha=0.7)
        panel.set_xticks(range(len(METHODS)), METHODS, fontsize=8)
        panel.set(xlim=(-0.5, len(METHODS) - 0.5), ylim=(-0.03, 1.03))
        panel.set_title(f"{name}:\nweight of the first", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


COLOURS = ("#D55E00", "#666666", "#0072B2")


def main() -> None:
    """Learn every mixture with every loss and several seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("runs/tempered.png"), help="where the figure goes")
    parser.add_argument("--csv", type=Path, help="path of the CSV file")
    options = parser.parse_args()
    seeds, steps = (1, 20) if options.smoke else (options.seeds, options.steps)
    rows, energies = [], {}
    for seed, name, method in itertools.product(range(seeds), SETTINGS, METHODS):
        row, energy = experiment(name, method, seed, steps)
        rows.append(row)
        energies |= {method: energy} if (name, seed) == ("two modes", 0) else {}
        print(f"seed {seed}, {name:15} {method:9} {row['learnt_weights']} for {row['true_weights']}", flush=True)
        if options.csv:
            write(rows, options.csv)
    try:
        draw(rows, energies, options.out)
    except ImportError:
        print("no figure was drawn: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
