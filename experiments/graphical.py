"""Recover the graphs of truncated densities by generalised score matching with an l1 penalty (Yu, Drton, Shojaie).

Every seed is one graph of 20 variables in two groups, with the interactions of the papers: within a group, each pair
interacts with probability 0.2, with a strength from U[0.5, 1], and the diagonal makes 0.1 the least eigenvalue of K.
The data are Gaussian, truncated to a domain, or follow the exponential square-root model, drawn by Gibbs sampling. A
curve of true against false positives comes from the graphs of a path of penalties, or from the order of the entries of
|K|.

Run `python -m experiments.graphical` from the root of the repository.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from bench.experiments import mean, options, write
from fastssm import graphical
from fastssm.domains import Domain, Intersection, Intervals, OutsideBall, Positive, Weight

VARIABLES, GROUPS, PROBABILITY = 20, 2, 0.2
RATES = np.linspace(0, 1, 101)
Ends = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Row = dict[str, Any]
Curve = tuple[np.ndarray, np.ndarray]


class Setting(NamedTuple):
    """A family on a domain.

    Attributes:
        domain: where the data live.
        family: of `fastssm.graphical`.
        ends: the ends `[B, K]` of the intervals that form the section of a coordinate, from points `[B, m]`.
        weights: h by the name of an estimator.
    """

    domain: Domain
    family: str
    ends: Ends
    weights: dict[str, Weight]


def fixed(*intervals: tuple[float, float]) -> Ends:
    """Return ends that are the same for all points and coordinates."""
    lower, upper = torch.tensor(intervals).double().T
    return lambda x, j: (lower.expand(len(x), -1), upper.expand(len(x), -1))


def outside(radius: float) -> Ends:
    """Return the ends of what a line has in the positive orthant outside a ball."""

    def ends(x: Tensor, j: int) -> tuple[Tensor, Tensor]:
        chord = (radius**2 - x.square().sum(1) + x[:, j].square()).clamp(min=0).sqrt()
        return chord[:, None], torch.full((len(x), 1), math.inf).double()

    return ends


MIN = {"min(t, 1)": Weight("power", cap=1.0), "none": Weight("one")}
SETTINGS = {
    "positive": Setting(Positive(), "gaussian", fixed((0.0, math.inf)), {**MIN, "t^2": Weight("power", 2.0)}),
    "intervals": Setting(Intervals((0.0, 0.5), (1.0, 2.0)), "gaussian", fixed((0.0, 0.5), (1.0, 2.0)), MIN),
    "outside a ball": Setting(Intersection(Positive(), OutsideBall(3.0)), "gaussian", outside(3.0), MIN),
    "square root": Setting(Positive(), "exponential_square_root", fixed((0.0, math.inf)), MIN),
}


def interactions(generator: Generator) -> Tensor:
    """Return a random matrix K whose graph has two groups without edges between them."""
    size = VARIABLES // GROUPS
    blocks = []
    for _ in range(GROUPS):
        strength, there = torch.rand(2, size, size, generator=generator, dtype=torch.float64)
        lower = torch.where(there < PROBABILITY, 0.5 + strength / 2, 0.0).tril(-1)
        both = lower + lower.T
        blocks.append(both + (0.1 - torch.linalg.eigvalsh(both)[0]) * torch.eye(size))
    return torch.block_diag(*blocks)


def truncated_normal(mean: Tensor, scale: float, lower: Tensor, upper: Tensor, generator: Generator) -> Tensor:
    """Draw from normal densities `[B]` on unions of intervals with ends `[B, K]`, by inverse distribution functions."""
    a, b = ((end - mean[:, None]) / scale for end in (lower, upper))
    flipped = a > 0  # the lower tail has more digits
    low, high = (torch.special.ndtr(end) for end in (torch.where(flipped, -b, a), torch.where(flipped, -a, b)))
    share = (high - low).cumsum(1)
    place, within = torch.rand(2, len(mean), 1, generator=generator, dtype=torch.float64)
    which = (place * share[:, -1:] > share[:, :-1]).sum(1, keepdim=True)
    low, high, flipped, lower, upper = (t.gather(1, which)[:, 0] for t in (low, high, flipped, lower, upper))
    z = torch.special.ndtri(low + (high - low) * within[:, 0])
    return torch.minimum(torch.maximum(mean + scale * torch.where(flipped, -z, z), lower), upper)


def draw(k: Tensor, setting: Setting, count: int, sweeps: int, generator: Generator) -> Tensor:
    """Draw points `[count, m]` with `eta = 0` by Gibbs sampling, one chain each.

    The roots y of the square-root model have the density `y exp(-y^T K y)` in each coordinate: given `v ~ U[0, y]`, it
    is normal above v.
    """
    root = setting.family == "exponential_square_root"
    x = torch.rand(count, VARIABLES, generator=generator, dtype=torch.float64) / 2 + (0.0 if root else 1.0)
    for _, j in itertools.product(range(sweeps), range(VARIABLES)):
        centre = -(x @ k[:, j] - k[j, j] * x[:, j]) / k[j, j]
        lower, upper = setting.ends(x, j)
        if root:
            lower = lower + (torch.rand(count, generator=generator, dtype=torch.float64) * x[:, j])[:, None]
        x[:, j] = truncated_normal(centre, float((2 * k[j, j] if root else k[j, j]) ** -0.5), lower, upper, generator)
    return x.square() if root else x


def rates(found: Tensor, edges: Tensor) -> Curve:
    """Return the rates of false and true positives of graphs `[L, m, m]`, from none to all."""
    pairs = torch.triu_indices(VARIABLES, VARIABLES, 1)
    found, edges = found[:, pairs[0], pairs[1]], edges[pairs[0], pairs[1]]
    false, true = ((found & which).sum(1).double() / which.sum() for which in (~edges, edges))
    ends = (np.concatenate([[0.0], rate.numpy(), [1.0]]) for rate in (false, true))
    false, true = (np.maximum.accumulate(rate) for rate in ends)
    return false, true


def results(x: Tensor, setting: Setting, k: Tensor) -> Iterator[tuple[Row, Curve]]:
    """Yield the results of every estimator, and its curve."""
    edges = k.ne(0) & ~torch.eye(VARIABLES, dtype=torch.bool)
    few = len(x) < 1000
    for (name, h), eta in itertools.product(setting.weights.items(), ("zero", "free")):
        family = dataclasses.replace(graphical.FAMILIES[setting.family], linear=eta == "free")
        loss = graphical.quadratic(x, family, domain=setting.domain, h=h)
        row = {"n": len(x), "weight": name, "eta": eta}
        for how, diagonal in [("l1", 1.0), ("l1, multiplier", graphical.multiplier(len(x), VARIABLES))][: 1 + few]:
            path = graphical.path(loss, diagonal=diagonal)
            best = path.best()
            false, true = rates(best.edges[None], edges)
            errors = {"true": true[1], "false": false[1], "error": float((best.k - k).norm() / k.norm())}
            curve = rates(path.edges, edges)
            yield (
                row | {"how": how, "auc": area(curve)} | {f"ebic_{what}": value for what, value in errors.items()},
                curve,
            )
        if not few:
            size = loss.split(loss.solve())[0].abs()
            levels = size[~torch.eye(VARIABLES, dtype=torch.bool)].sort(descending=True).values
            curve = rates(size >= levels[:, None, None], edges)
            yield row | {"how": "order of |K|", "auc": area(curve)}, curve


def area(curve: Curve) -> float:
    """Return the area under a curve."""
    return float(np.trapezoid(curve[1], curve[0]))


def draw_figure(curves: dict[tuple[str, str, str], list[np.ndarray]], path: Path) -> None:
    """Plot the mean curves at n = 1000."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.0), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    colours = {"min(t, 1)": "#0072B2", "none": "#D55E00", "t^2": "#009E73"}
    for panel, setting in zip(panels, SETTINGS, strict=True):
        for (name, weight, eta), found in curves.items():
            if name == setting:
                label = f"weight {weight}, {'eta = 0' if eta == 'zero' else 'eta free'}"
                panel.plot(RATES, np.mean(found, 0), "-" if eta == "zero" else ":", color=colours[weight], label=label)
        panel.plot([0, 1], [0, 1], color="0.8", linewidth=0.8, zorder=0)
        panel.set(title=setting, xlabel="false positives", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    panels[0].set_ylabel("true positives")
    panels[0].legend(fontsize=6.5, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Recover graphs from every setting and number of rows."""
    chosen = options("graphical", str(__doc__).splitlines()[0], seeds=50)
    sweeps = 3 if chosen.smoke else 400
    rows, curves = list[Row](), dict[tuple[str, str, str], list[np.ndarray]]()
    for seed, (name, setting) in itertools.product(range(chosen.seeds), SETTINGS.items()):
        generator = Generator().manual_seed(seed)
        k = interactions(generator)
        x = draw(k, setting, 1000, sweeps, generator)
        for count in (80, 1000) if name == "positive" else (1000,):
            for row, curve in results(x[:count], setting, k):
                rows.append({"seed": seed, "dtype": "float64", "domain": name, "m": VARIABLES} | row)
                if count == 1000 and row["how"] == "l1":
                    found = curves.setdefault((name, row["weight"], row["eta"]), [])
                    found.append(np.interp(RATES, *curve))
    keys = ("domain", "n", "weight", "eta", "how")
    for key in dict.fromkeys(tuple(row[part] for part in keys) for row in rows):
        print(*key, "AUC", mean([row["auc"] for row in rows if tuple(row[part] for part in keys) == key]))
    write(rows, chosen.csv)
    if chosen.figure:
        draw_figure(curves, chosen.figure)


if __name__ == "__main__":
    main()
