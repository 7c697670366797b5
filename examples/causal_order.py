"""Order the variables of a causal graph by the Jacobian of the score.

In an additive-noise model `x_j = f_j(parents of j) + noise` with normal noise, the entry `ds_j/dx_j` of the score's
Jacobian is constant exactly for the leaves of the graph. So the variable whose entry varies least over the data comes
last; it is removed, and the score of the others is learned anew. The program counts the edges that point against the
order that it finds, and against random orders.

Run `python examples/causal_order.py`. After Rolland et al. 2022, "Score matching enables causal discovery of nonlinear
additive noise models" (SCORE), and Sanchez et al. 2023 (DiffAN).
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Generator, Tensor

import fastssm

DIM, ROWS, FEATURES = 6, 2000, 100


def graph(generator: Generator, dim: int = DIM) -> Tensor:
    """Draw a graph, `[dim, dim]`: entry (i, j) is 1 where i is a parent of j; half of all pairs have an edge."""
    order = torch.randperm(dim, generator=generator)
    return (torch.rand(dim, dim, generator=generator) < 0.5).float().triu(1)[order][:, order]


def sample(edges: Tensor, rows: int, generator: Generator) -> Tensor:
    """Draw rows of an additive-noise model whose functions are drawn from a Gaussian process of length one."""
    x = torch.zeros(rows, len(edges))
    left = set(range(len(edges)))
    while left:
        j = next(j for j in left if not any(edges[i, j] for i in left))  # all its parents are drawn
        frequencies = torch.randn(len(edges), FEATURES, generator=generator) * edges[:, j, None]
        phases = 2 * math.pi * torch.rand(FEATURES, generator=generator)
        amplitudes = torch.randn(FEATURES, generator=generator) * (2 / FEATURES) ** 0.5
        deviation = (0.4 + 0.4 * torch.rand((), generator=generator)).sqrt()
        x[:, j] = (x @ frequencies + phases).cos() @ amplitudes + deviation * torch.randn(rows, generator=generator)
        left.remove(j)
    return x - x.mean(0)


def variances(x: Tensor, steps: int, seed: int) -> Tensor:
    """Learn the score of the rows, and return the variance of each diagonal entry of its Jacobian."""
    torch.manual_seed(seed)
    net = fastssm.nn.MLP(x.shape[1], [64, 64], x.shape[1], "silu")
    objective = fastssm.SlicedScoreLoss(net, kind="score", projection="hadamard", n_projections=2)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = objective(x[torch.randint(len(x), (256,))])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return fastssm.jacobian_diag(net, x, kind="score").var(dim=0)


def ordered(x: Tensor, steps: int) -> tuple[list[int], list[dict[int, float]]]:
    """Return the variables from roots to leaves, and the variances that each choice was made from, leaves first."""
    left, order, seen = list(range(x.shape[1])), [], []
    while len(left) > 1:
        found = variances(x[:, left], steps, len(left))
        seen.append(dict(zip(left, found.tolist(), strict=True)))
        order.append(left.pop(int(found.argmin())))
    return [*left, *reversed(order)], seen


def against(edges: Tensor, order: list[int]) -> int:
    """Count the edges that point from a later to an earlier variable of an order."""
    return int(edges[order][:, order].tril(-1).sum())


def draw(edges: Tensor, order: list[int], seen: list[dict[int, float]], path: Path) -> None:
    """Plot the variances at each choice of one graph, and its edges in the order that was found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained", dpi=90)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for choice, found in enumerate(seen):
        inner = [j for j in found if any(edges[j, k] for k in found)]
        for names, colour, label in ((inner, "#999999", "has children"), ([*set(found) - {*inner}], "#D55E00", "leaf")):
            values = [found[j] for j in names]
            left.scatter([choice + 1] * len(names), values, s=28, color=colour, label=None if choice else label)
    left.set(yscale="log", xlabel="choice", ylabel="variance of the entry over the data", xticks=range(1, len(order)))
    left.legend(frameon=False)
    right.imshow(edges[order][:, order], cmap="Greys", vmax=1.4)
    labels = [f"x{j + 1}" for j in order]
    right.set(title="edges, from row to column", xticks=range(len(order)), yticks=range(len(order)))
    right.set(xticklabels=labels, yticklabels=labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Order the variables of some graphs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/causal_order.png"), help="where the figure goes")
    options = parser.parse_args()
    results, wrong, every, chance = [], 0, 0, 0.0
    for seed in range(1 if options.smoke else 5):
        generator = Generator().manual_seed(seed)
        edges = graph(generator)
        order, seen = ordered(sample(edges, ROWS, generator), 5 if options.smoke else 600)
        results.append((edges, order, seen))
        random = [against(edges, torch.randperm(DIM, generator=generator).tolist()) for _ in range(1000)]
        wrong, every, chance = wrong + against(edges, order), every + int(edges.sum()), chance + sum(random) / 1000
        print(f"graph {seed + 1}: {against(edges, order)} of {int(edges.sum())} edges against the order")
    print(f"together: {wrong} of {every} edges; of random orders, on average: {chance:.1f}")
    draw(*results[0], options.out)


if __name__ == "__main__":
    main()
