"""Learn the energy of a two-dimensional ring by sliced score matching, and plot it in the terminal.

Run `python examples/energy_2d.py`, and with `--figure ring.png` (needs matplotlib) to plot data and density.
"""

import argparse

import torch

import fastssm


def ring(samples: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `[samples, 2]` points around a circle of radius 2, with radial noise of standard deviation 0.2."""
    angle = 2 * torch.pi * torch.rand(samples, generator=generator)
    radius = 2 + 0.2 * torch.randn(samples, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def train(net: torch.nn.Module, steps: int, generator: torch.Generator) -> None:
    """Minimise the sliced score matching loss on fresh samples."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        loss = fastssm.sliced_loss(net, ring(512, generator), generator=generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % max(1, steps // 5) == 0:
            print(f"step {step:5d}   loss {loss.item():8.3f}")


def picture(net: torch.nn.Module, size: int = 24) -> str:
    """Render exp(-E) on [-3, 3]^2 as text."""
    axis = torch.linspace(-3, 3, size)
    grid = torch.cartesian_prod(-axis[::2], axis).flip(1)  # half as many rows, because characters are tall
    with torch.no_grad():
        energy = net(grid).squeeze(1)
    density = (energy.min() - energy).exp().reshape(-1, size)
    return "\n".join("".join(" .:-=+*#%@"[int(9 * p)] * 2 for p in row) for row in density.tolist())


def draw(net: torch.nn.Module, data: torch.Tensor, path: str) -> None:
    """Plot the data, and the learned density."""
    from matplotlib.figure import Figure

    axis = torch.linspace(-3, 3, 200)
    with torch.no_grad():
        energy = net(torch.cartesian_prod(axis, axis)).reshape(200, 200)
    figure = Figure(figsize=(7, 3.5), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*data.T, s=1.5, color="#0072B2", alpha=0.5, linewidths=0)
    right.imshow((energy.min() - energy).exp().T, origin="lower", extent=(-3, 3, -3, 3), cmap="Blues")
    left.set(title="data", aspect="equal")
    right.set(title="learned density")
    figure.savefig(path)


def main() -> None:
    """Train, evaluate the exact loss, and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", help="path of the figure (default: no figure)")
    options = parser.parse_args()
    steps = 20 if options.smoke else 1000

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = fastssm.nn.MLP(2, [64, 64], activation="softplus")
    train(net, steps, generator)

    with torch.no_grad():
        exact = fastssm.exact_loss(net, ring(4096, generator))
    print(f"exact score matching loss on fresh samples: {exact.item():.3f}\n")
    print(picture(net))
    if options.figure:
        draw(net, ring(3000, generator), options.figure)


if __name__ == "__main__":
    main()
