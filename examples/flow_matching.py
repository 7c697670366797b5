"""Train a flow by flow matching, and compute its likelihood by torchdiffeq with the divergence of fastssm.

Flow matching regresses the velocity `v(x, t)` on `x_1 - x_0` at `x_t = (1 - t) x_0 + t x_1`, from noise to data, and
needs no derivatives. The density does: `log p(x_1) = log N(x_0; 0, I) - int_0^1 div v dt` along the path back.
`fastssm.divergence` returns v and its exact divergence in one pass. The data are a mixture of normal distributions,
whose density is known, and the density of the flow must integrate to one.

Run `pip install torchdiffeq`, then `python examples/flow_matching.py`. Without torchdiffeq it takes Runge-Kutta steps.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastssm

MODES, RADIUS, WIDTH = 6, 2.0, 0.3
SIDE = 5.0  # half width of the grid


def mixture() -> torch.distributions.Distribution:
    """Return the density of the data: modes on a circle."""
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)
    modes = torch.distributions.Independent(torch.distributions.Normal(centres, WIDTH), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(MODES)), modes)


def train(data: torch.distributions.Distribution, steps: int) -> torch.nn.Module:
    """Minimise the flow matching loss; return the moving average of the weights."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [128, 128, 128], 2, "silu", fourier_time=True)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        end, start, t = data.sample((512,)), torch.randn(512, 2), torch.rand(512, 1)
        loss = (net((1 - t) * start + t * end, t) - (end - start)).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean.update_parameters(net)
    return mean.module


def solved(change: Callable[[Tensor, Tensor], Tensor], state: Tensor) -> Tensor:
    """Return the state at t = 0 of an equation that starts at t = 1."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        for t in torch.linspace(1.0, 0.02, 50):
            a = change(t, state)
            b = change(t - 0.01, state - 0.01 * a)
            c = change(t - 0.01, state - 0.01 * b)
            d = change(t - 0.02, state - 0.02 * c)
            state = state - 0.02 / 6 * (a + 2 * b + 2 * c + d)
        return state
    found: Tensor = odeint(change, state, torch.tensor([1.0, 0.0]), method="dopri5", rtol=1e-4, atol=1e-5)[-1]
    return found


@torch.no_grad()
def log_prob(net: torch.nn.Module, x: Tensor) -> Tensor:
    """Return the log-density of the flow, `[B]`; the last column of the state gathers the divergence."""

    def change(t: Tensor, state: Tensor) -> Tensor:
        velocity, divergence = fastssm.divergence(net, state[:, :-1], cond=t.expand(len(state)), return_value=True)
        return torch.cat([velocity, divergence[:, None]], 1)

    start = solved(change, torch.cat([x, torch.zeros_like(x[:, :1])], 1))
    noise = torch.distributions.Normal(0.0, 1.0).log_prob(start[:, :-1]).sum(1)
    return noise + start[:, -1]  # the column holds minus the integral from 0 to 1


def draw(densities: dict[str, Tensor], path: Path) -> None:
    """Plot the true density and that of the flow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(densities), 3.4), layout="constrained", dpi=90)
    for panel, (name, density) in zip(figure.subplots(1, len(densities)), densities.items(), strict=True):
        panel.imshow(density, origin="lower", extent=(-SIDE, SIDE, -SIDE, SIDE), vmax=densities["data"].max())
        panel.set(title=f"density of the {name}", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Train, integrate the density over a grid, and compare it with the true one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/flow_matching.png"), help="where the figure goes")
    options = parser.parse_args()
    data = mixture()
    net = train(data, 10 if options.smoke else 5000)

    cells = 21 if options.smoke else 161
    line = torch.linspace(-SIDE, SIDE, cells)
    grid = torch.cartesian_prod(line, line).flip(1)
    density = log_prob(net, grid).exp()
    print(f"integral of the flow's density: {density.sum() * (2 * SIDE / (cells - 1)) ** 2:.5f}, exact 1")
    held_out = data.sample((50 if options.smoke else 4000,))
    exact, found = data.log_prob(held_out), log_prob(net, held_out)
    error = (exact - found).std() / len(found) ** 0.5
    print(f"nats of held-out points: flow {found.mean():.4f}, true density {exact.mean():.4f}")
    print(f"Kullback-Leibler divergence of the flow from the data: {(exact - found).mean():.4f} ± {error:.4f}, exact 0")
    shown = {"data": data.log_prob(grid).exp(), "flow": density}
    draw({name: values.reshape(cells, cells) for name, values in shown.items()}, options.out)


if __name__ == "__main__":
    main()
