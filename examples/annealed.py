"""Learn the score of eight unequal Gaussians at many noise levels, and sample it by annealed Langevin dynamics.

Plain Langevin chains do not cross the empty space between distant modes, so they keep their initial mode weights.
Chains that start at a large noise level and anneal it recover the mode weights. The noise-conditional network is
trained both by sliced score matching and by denoising.

Run `python examples/annealed.py`.
"""

import argparse
from pathlib import Path

import torch

import fastssm
from fastssm.diagnostics import loss_per_level
from fastssm.sampling import annealed_langevin, langevin

SHARES = torch.tensor([8.0, 1.0, 4.0, 1.0, 2.0, 1.0, 4.0, 1.0]) / 22
ANGLES = torch.arange(8) * (torch.pi / 4)
CENTRES = 4 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
SIGMAS = torch.logspace(0.7, -1, 10)  # 5 to 0.1
NOISE = {"sigmas": SIGMAS, "condition": "log_sigma"}


def mixture(count: int) -> torch.Tensor:
    """Draw points from eight Gaussians of standard deviation 0.3 on a circle, with unequal weights."""
    return CENTRES[torch.multinomial(SHARES, count, replacement=True)] + 0.3 * torch.randn(count, 2)


def shares(x: torch.Tensor) -> torch.Tensor:
    """Return the fraction of points nearest to each centre."""
    return torch.cdist(x, CENTRES).argmin(1).bincount(minlength=8) / len(x)


def train(loss_type: type, steps: int) -> torch.nn.Module:
    """Train a score network conditioned on the logarithm of the noise level."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [128, 128, 128], 2, "silu", cond_dim=1)
    objective = loss_type(net, **NOISE)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = objective(mixture(512))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net


def draw(panels: dict[str, torch.Tensor], path: Path) -> None:
    """Plot points, and the fraction of points in each mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(panels), 3.2), layout="constrained", dpi=100)
    for axes, (name, x) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.scatter(*x.T, s=1.0, color="#0072B2", alpha=0.5, linewidths=0)
        for centre, share in zip(CENTRES, shares(x).tolist(), strict=True):
            axes.text(*(1.45 * centre), f"{share:.0%}", ha="center", va="center", fontsize=8)
        axes.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal", xticks=[], yticks=[])
        axes.set_title(name, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Train with both losses, sample, and compare the mode weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/annealed.png"), help="where the figure goes")
    options = parser.parse_args()
    steps, length = (20, 5) if options.smoke else (4000, 100)
    torch.manual_seed(0)
    panels = {"data": mixture(4000)}
    start = SIGMAS[0] * torch.randn(4000, 2)
    for name, loss_type in {"sliced": fastssm.AnnealedSlicedLoss, "denoising": fastssm.AnnealedDenoisingLoss}.items():
        net = train(loss_type, steps)
        panels[f"annealed, {name}"] = annealed_langevin(net, start, n_steps=length, **NOISE)
        print(f"{name}\n{loss_per_level(net, panels['data'], **NOISE)}\n")
    sharp = net.at(SIGMAS[-1:].log())  # an unconditional network at the smallest level
    panels["plain Langevin"] = langevin(sharp, start, step=1e-3, n_steps=10 * length).x
    for name, x in panels.items():
        wrong = (shares(x) - SHARES).abs().sum() / 2
        print(f"{name:>20}: {wrong:.1%} of the points in the wrong mode")
    draw(panels, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
