"""Learn three rings by denoising score matching at three noise levels, and draw Langevin samples.

Denoising learns the density of the noisy data. A large sigma is easy to learn but blurs the rings; a small sigma is
sharp but has a noisy loss. Sliced score matching on data with the same noise learns the same density.

Run `python examples/denoising.py`.
"""

import argparse
from pathlib import Path

import torch

import fastssm
from fastssm.data import load, prepare
from fastssm.sampling import langevin

SIGMAS = (0.3, 0.1, 0.05)
SIDE = 2.4  # half width of the plot, in standard deviations of the data


def train(objective: torch.nn.Module, rows: torch.Tensor, noise: float, steps: int) -> None:
    """Minimise an objective on rows with added noise of standard deviation `noise`."""
    optimiser = torch.optim.Adam(objective.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (512,))]
        loss = objective(batch + noise * torch.randn_like(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def energy() -> torch.nn.Module:
    """Return a network with fixed initial weights."""
    torch.manual_seed(0)
    return fastssm.nn.MLP(2, [128, 128, 128], activation="silu")


def draw(nets: dict[str, torch.nn.Module], samples: dict[str, torch.Tensor], path: Path) -> None:
    """Plot the learned densities, and samples below them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(nets), 5.4), layout="constrained", dpi=72)
    axis = torch.linspace(-SIDE, SIDE, 160)
    grid = torch.cartesian_prod(axis, axis).flip(1)
    for (above, below), (name, net) in zip(figure.subplots(2, len(nets)).T, nets.items(), strict=True):
        with torch.no_grad():
            density = torch.softmax(-net(grid).flatten(), 0).reshape(160, 160)
        above.imshow(density, origin="lower", extent=(-SIDE, SIDE, -SIDE, SIDE), cmap="viridis")
        above.set_title(name, fontsize=10)
        below.scatter(*samples[name].T, s=1.0, color="#0072B2", linewidths=0)
        below.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
        for panel in (above, below):
            panel.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Train, compare with sliced score matching, and sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/denoising.png"), help="where the figure goes")
    options = parser.parse_args()
    rows = prepare(load("rings"), noise=0.0)
    steps = 20 if options.smoke else 3000
    nets = {}
    for sigma in SIGMAS:
        nets[f"denoising, σ = {sigma}"] = net = energy()
        train(fastssm.DenoisingLoss(net, sigma=sigma), rows.train, 0.0, steps)
    nets["sliced, blurred by 0.1"] = net = energy()
    train(fastssm.SlicedScoreLoss(net), rows.train, 0.1, steps)

    held_out = rows.test + 0.1 * torch.randn(rows.test.shape, generator=torch.Generator().manual_seed(1))
    samples = {}
    for name, net in nets.items():
        with torch.no_grad():
            loss = fastssm.exact_loss(net, held_out)
        start = rows.test[torch.randint(len(rows.test), (3000,))]
        samples[name], acceptance = langevin(
            net, start, step=1e-3, n_steps=5 if options.smoke else 400, metropolis=True,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        print(f"{name:>24}: exact loss on rows blurred by 0.1 {loss:8.2f}, Metropolis accepts {acceptance.mean():.0%}")
    draw(nets, samples, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
