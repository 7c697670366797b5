"""Solve Poisson's equation by a physics-informed network, with the Laplacian of fastssm as the residual.

`lap u = f` on the unit square and `u = 0` on its boundary: hard, by the factor `x (1 - x) y (1 - y)` in the network, or
soft, by a penalty on points of the boundary. The exact solution is `sin(pi x) sin(pi y)`. A third network has two
outputs, the solutions of two equations, whose second derivatives `fastssm.basis_terms` finds together.

Run `python examples/poisson.py`.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import fastssm

POINTS, PENALTY = 256, 100.0


def solution(x: Tensor, frequency: int = 1) -> Tensor:
    """Return the exact solution, `sin(pi frequency x) sin(pi y)`, `[B]`."""
    return (math.pi * frequency * x[:, 0]).sin() * (math.pi * x[:, 1]).sin()


def source(x: Tensor, frequency: int = 1) -> Tensor:
    """Return its Laplacian."""
    return -(math.pi**2) * (frequency**2 + 1) * solution(x, frequency)


class Hard(nn.Module):
    """A network times a function that vanishes on the boundary; the output is `[B, outputs]`."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.net = fastssm.nn.MLP(2, [64, 64, 64], outputs, "tanh")

    def forward(self, x: Tensor) -> Tensor:
        """Return the solutions at points `[B, 2]`."""
        return self.net(x) * 16 * (x * (1 - x)).prod(1, keepdim=True)


def boundary(count: int) -> Tensor:
    """Draw points on the four sides."""
    along, side = torch.rand(count), torch.randint(2, (count,)).float()
    points = torch.stack([along, side], 1)
    return torch.where(torch.rand(count, 1) < 0.5, points, points.flip(1))


def residual_loss(u: nn.Module, x: Tensor, outputs: int) -> Tensor:
    """Return the mean square of the equations' residuals; output k solves that of frequency k + 1."""
    if outputs == 1:
        return (fastssm.laplacian(u, x) - source(x)).square().mean()
    axes = torch.eye(2, dtype=x.dtype)[:, None].expand(2, *x.shape)
    second = fastssm.basis_terms(u, x, axes).curvature.sum(0)  # of all outputs, [B, F]
    return (second - torch.stack([source(x, k + 1) for k in range(outputs)], 1)).square().mean()


def train(u: nn.Module, steps: int, penalty: float = 0.0, outputs: int = 1) -> nn.Module:
    """Minimise the residual, and the penalty on the boundary."""
    optimiser = torch.optim.Adam(u.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = residual_loss(u, torch.rand(POINTS, 2), outputs)
        if penalty:
            loss = loss + penalty * u(boundary(POINTS // 4)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return u


def errors(u: nn.Module, grid: Tensor, outputs: int = 1) -> list[float]:
    """Return the relative error in the mean square over a grid, of each output."""
    with torch.no_grad():
        found = u(grid)
    exact = torch.stack([solution(grid, k + 1) for k in range(outputs)], 1)
    return ((found - exact).norm(dim=0) / exact.norm(dim=0)).tolist()


def draw(found: dict[str, nn.Module], grid: Tensor, cells: int, path: Path) -> None:
    """Plot the exact solution and the errors."""
    from matplotlib.figure import Figure

    exact = solution(grid)
    with torch.no_grad():
        panels = {"exact": exact} | {f"{name}: error": u(grid)[:, 0] - exact for name, u in found.items()}
    figure = Figure(figsize=(3.6 * len(panels), 3.1), layout="constrained", dpi=90)
    for panel, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        image = panel.imshow(values.reshape(cells, cells).T, origin="lower", extent=(0, 1, 0, 1))
        figure.colorbar(image, ax=panel, shrink=0.85)
        panel.set(title=title, xticks=[0, 1], yticks=[0, 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Solve the equation three times, and compare with the exact solution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/poisson.png"), help="where the figure goes")
    options = parser.parse_args()
    steps, cells = (3, 11) if options.smoke else (2500, 101)
    line = torch.linspace(0, 1, cells)
    grid = torch.cartesian_prod(line, line)
    torch.manual_seed(0)
    hard = train(Hard(), steps)
    soft = train(fastssm.nn.MLP(2, [64, 64, 64], 1, "tanh"), steps, PENALTY)
    both = train(Hard(2), steps, outputs=2)
    print("relative error of the solution, exact 0")
    for name, u, outputs in (("hard boundary", hard, 1), ("soft boundary", soft, 1), ("two outputs", both, 2)):
        print(f"{name:>14}: {', '.join(f'{error:.2%}' for error in errors(u, grid, outputs))}")
    draw({"hard": hard, "soft": soft}, grid, cells, options.out)


if __name__ == "__main__":
    main()
