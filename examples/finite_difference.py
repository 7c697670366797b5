"""Learn the pinwheel by finite-difference score matching, and compare with exact derivatives.

The gradient has a truncation error of order `step^2` and a rounding error of order `1 / step^2`. The figure shows the
total error in float32 and float64, and the densities learned with the exact and the finite-difference loss.

Run `python examples/finite_difference.py`.
"""

import argparse
from pathlib import Path

import torch

import fastssm
from fastssm.data import load, prepare

SIDE = 3.0  # half width of the plot, in standard deviations of the data


def train(loss_of, rows: torch.Tensor, steps: int) -> torch.nn.Module:
    """Fit an energy to rows with a loss; all losses see the same batches."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [96, 96, 96], activation="silu")
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (256,))]
        loss = loss_of(net, batch + 0.1 * torch.randn_like(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net


def gradient(loss: torch.Tensor, net: torch.nn.Module) -> torch.Tensor:
    """Return the gradient of a loss with respect to all parameters, flat, in float64."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).double()


def errors(net: torch.nn.Module, x: torch.Tensor, steps: torch.Tensor) -> dict[str, list[float]]:
    """Return the relative error of the finite-difference gradient for each step and precision."""
    v = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(0))
    exact = gradient(fastssm.sliced_loss(net.double(), x.double(), v=v.double(), variance_reduced=False), net)
    found = {}
    for dtype in (torch.float32, torch.float64):
        net.to(dtype)
        losses = (fastssm.finite_difference_loss(net, x.to(dtype), v=v.to(dtype), step=s) for s in steps.tolist())
        found[str(dtype)[6:]] = [float((gradient(loss, net) - exact).norm() / exact.norm()) for loss in losses]
    net.float()
    return found


def draw(steps: torch.Tensor, found: dict[str, list[float]], nets: dict[str, torch.nn.Module], path: Path) -> None:
    """Plot the errors and the two densities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained", dpi=110)
    curves, *pictures = figure.subplots(1, 3)
    for (name, values), colour in zip(found.items(), ("#D55E00", "#0072B2"), strict=True):
        curves.loglog(steps, values, "o-", ms=3, color=colour, label=name)
        default = fastssm.losses.finite_difference.STEPS[getattr(torch, name)]
        curves.axvline(default, color=colour, ls=":", lw=1)
    curves.set(xlabel="step (dotted: the defaults)", ylabel="relative error of the gradient", ylim=(1e-8, 10))
    curves.legend(frameon=False)
    axis = torch.linspace(-SIDE, SIDE, 160)
    grid = torch.cartesian_prod(axis, axis).flip(1)
    for panel, (name, net) in zip(pictures, nets.items(), strict=True):
        with torch.no_grad():
            density = torch.softmax(-net(grid).flatten(), 0).reshape(160, 160)
        panel.imshow(density, origin="lower", extent=(-SIDE, SIDE, -SIDE, SIDE), cmap="viridis")
        panel.set(title=name, xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Train with both losses, compare and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/finite_difference.png"), help="where the figure goes")
    options = parser.parse_args()
    prepared = prepare(load("pinwheel"))
    losses = {
        "exact: sliced_loss": lambda net, x: fastssm.sliced_loss(net, x, variance_reduced=False),
        "finite_difference_loss": fastssm.finite_difference_loss,
    }
    nets = {name: train(loss, prepared.train, 20 if options.smoke else 3000) for name, loss in losses.items()}
    for name, net in nets.items():
        with torch.no_grad():
            held_out = fastssm.exact_loss(net, prepared.test)
        print(f"{name:>24}: exact loss of held-out rows {held_out:.3f}")
    steps = torch.logspace(-5, 0, 6 if options.smoke else 26)
    net, x = nets["exact: sliced_loss"], prepared.test[:256]
    found = errors(net, x, steps)
    for name, values in found.items():
        best = min(range(len(values)), key=values.__getitem__)
        print(f"{name:>24}: least relative error of the gradient {values[best]:.1e}, at step {steps[best]:.1e}")
        default = fastssm.losses.finite_difference.STEPS[getattr(torch, name)]
        print(f"{'':>24}  at the default step, {default:g}: {errors(net, x, torch.tensor([default]))[name][0]:.1e}")
    draw(steps, found, nets, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
