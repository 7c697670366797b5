"""Fit truncated densities by generalised score matching.

Standard score matching is biased for data with mass at a boundary; a weight that vanishes there removes the bias. The
example estimates the precision matrix of a Gaussian truncated to a box, the positive orthant and the simplex, and then
trains a network on a density on a disc.

Run `python examples/truncated.py`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

import fastssm
from fastssm.domains import Ball, Box, Domain, Positive, Simplex, Weight

Loss = Callable[[nn.Module, Tensor], Tensor]
GAUSSIANS: dict[str, tuple[Domain, list[float], list[list[float]]]] = {
    "box [-1, 1]^2": (Box(-1.0, 1.0), [0.3, -0.2], [[2.0, 0.8], [0.8, 1.5]]),
    "positive orthant": (Positive(), [0.3, 0.5], [[2.0, 0.8], [0.8, 1.5]]),
    "simplex, 3 parts": (Simplex(), [0.3, 0.2], [[30.0, 8.0], [8.0, 20.0]]),
}


class Quadratic(nn.Module):
    """`E = x^T K x / 2 - eta^T x`, a (truncated) Gaussian."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.k, self.eta = nn.Parameter(torch.eye(dim).double()), nn.Parameter(torch.zeros(dim).double())

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        return ((x @ (self.k + self.k.T) / 2) * x).sum(1) / 2 - x @ self.eta


def truncated(domain: Domain, mean: Tensor, precision: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw `count` points from a Gaussian, and keep those in the domain."""
    z = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    x = mean + torch.linalg.solve_triangular(torch.linalg.cholesky(precision).mT, z.mT, upper=True).mT
    return x[domain.contains(x)]


def fitted(loss_of: Loss, x: Tensor) -> Tensor:
    """Return the precision matrix at the minimum of a loss, which is quadratic in the parameters."""
    model = Quadratic(x.shape[1])
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        return float(loss.detach())

    optimiser.step(closure)
    return ((model.k + model.k.T) / 2).detach()


def table(samples: int, generator: Generator) -> None:
    """Print the relative error of the precision matrix with and without the weight."""
    print(f"relative error of the precision matrix   {'unweighted':>10}   {'weighted':>8}")
    for name, (domain, mean, precision) in GAUSSIANS.items():
        k = torch.tensor(precision).double()
        x = truncated(domain, torch.tensor(mean).double(), k, samples, generator)
        losses = (fastssm.exact_loss, partial(fastssm.domain_loss, domain=domain, exact=True))
        errors = [float((fitted(loss, x) - k).norm() / k.norm()) for loss in losses]
        print(f"  {name:18} ({len(x):6} of {samples}) {errors[0]:17.3f}   {errors[1]:8.3f}")


def log_density(x: Tensor) -> Tensor:
    """Return the log-density on the disc up to a constant: two modes, truncated at the boundary."""
    modes = [-(x - torch.tensor(centre)).square().sum(1) / 0.3 for centre in ([0.9, 0.2], [-0.7, -0.6])]
    return torch.logaddexp(*modes)


def disc(count: int, generator: Generator) -> Tensor:
    """Draw points on the disc by rejection sampling."""
    x = 2 * torch.rand(8 * count, 2, generator=generator) - 1
    kept = Ball(1.0).contains(x) & (torch.rand(len(x), generator=generator).log() < log_density(x))
    return x[kept][:count]


def trained(loss_of: Loss, rows: Tensor, steps: int, generator: Generator) -> nn.Module:
    """Train an energy on batches of rows."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [64, 64, 64], activation="silu")
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = loss_of(net, rows[torch.randint(len(rows), (512,), generator=generator)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net


def densities(nets: dict[str, nn.Module], size: int = 200) -> dict[str, Tensor]:
    """Return the true and learned densities on a grid over the disc, NaN outside."""
    axis = torch.linspace(-1, 1, size)
    grid = torch.cartesian_prod(axis, axis).flip(1)
    with torch.no_grad():
        logs = {"truth": log_density(grid)} | {name: -net(grid).flatten() for name, net in nets.items()}
    inside = Ball(1.0).contains(grid)
    cell = (axis[1] - axis[0]) ** 2
    found = {name: torch.softmax(torch.where(inside, log, -torch.inf), 0) / cell for name, log in logs.items()}
    return {name: torch.where(inside, p, torch.nan).reshape(size, size) for name, p in found.items()}


def draw(found: dict[str, Tensor], rows: Tensor, path: Path) -> None:
    """Plot the data and the densities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.9), layout="constrained", dpi=110)
    data, *panels = figure.subplots(1, 1 + len(found))
    data.scatter(*rows[:3000].T, s=1.5, color="#0072B2", linewidths=0)
    data.set_title("data")
    top = float(found["truth"].nan_to_num().max())
    for panel, (name, density) in zip(panels, found.items(), strict=True):
        image = panel.imshow(density, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis", vmin=0, vmax=top)
        panel.set_title(name)
    for panel in (data, *panels):
        panel.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    figure.colorbar(image, ax=panels, label="density")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Estimate three Gaussians, learn a density on a disc, and plot it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/truncated.png"), help="where the figure goes")
    options = parser.parse_args()
    generator = Generator().manual_seed(0)
    table(2000 if options.smoke else 100_000, generator)

    rows, steps = disc(20_000, generator), 20 if options.smoke else 3000
    weighted = partial(fastssm.domain_loss, domain=Ball(1.0), h=Weight("power"))
    losses = {"unweighted": fastssm.sliced_loss, "weighted": weighted}
    found = densities({name: trained(loss, rows, steps, generator) for name, loss in losses.items()})
    cell = (2 / 199) ** 2
    for name in losses:
        distance = float((found[name] - found["truth"]).abs().nansum() * cell / 2)
        print(f"on the disc, {name:10}: total variation from the truth {distance:.3f}")
    try:
        draw(found, rows, options.out)
    except ImportError:
        print("no figure was drawn: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
