"""Learn the score of a Gaussian mixture with a score network, then sample by Langevin dynamics.

Run `python examples/score_net.py`, and with `--figure scores.png` (needs matplotlib) to plot scores and samples.
"""

import argparse

import torch

import fastssm

CENTRES = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 1.5]])
WIDTH = 0.5


def mixture(samples: int) -> torch.Tensor:
    """Draw `[samples, 2]` points from three Gaussians of equal weight."""
    return CENTRES[torch.randint(len(CENTRES), (samples,))] + WIDTH * torch.randn(samples, 2)


def true_score(x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the log-density of the mixture at `x`."""
    offsets = CENTRES - x[:, None]
    responsibility = torch.softmax(-offsets.square().sum(2) / (2 * WIDTH**2), dim=1)
    return (responsibility[..., None] * offsets).sum(1) / WIDTH**2


def langevin(net: torch.nn.Module, x: torch.Tensor, steps: int, size: float = 0.02) -> torch.Tensor:
    """Integrate `dx = s(x) dt + sqrt(2) dW` from `x`."""
    with torch.no_grad():
        for _ in range(steps):
            x = x + size * net(x) + (2 * size) ** 0.5 * torch.randn_like(x)
    return x


def draw(net: torch.nn.Module, samples: torch.Tensor, path: str) -> None:
    """Plot data with the learned scores, and Langevin samples."""
    from matplotlib.figure import Figure

    axis = torch.linspace(-3.2, 3.2, 17)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        arrows = net(grid)
    figure = Figure(figsize=(7, 3.5), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, rows, title in ((left, mixture(2000), "data and learned scores"), (right, samples, "Langevin samples")):
        panel.scatter(*rows.T, s=1.5, color="#0072B2", alpha=0.5, linewidths=0)
        panel.set(title=title, aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4))
    left.quiver(*grid.T, *arrows.T, color="#D55E00", width=0.004)
    figure.savefig(path)


def main() -> None:
    """Train, compare with the true score, and sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", help="path of the figure (default: no figure)")
    options = parser.parse_args()
    steps = 20 if options.smoke else 1500

    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [64, 64], out_features=2, activation="silu")
    print(fastssm.explain(net, mixture(4)))

    objective = fastssm.SlicedScoreLoss(net, n_projections=2)  # a module that contains the net
    optimiser = torch.optim.Adam(objective.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = objective(mixture(512))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    x = mixture(4096)
    with torch.no_grad():
        error = (net(x) - true_score(x)).square().sum(1).mean() / true_score(x).square().sum(1).mean()
    print(f"relative squared error of the score: {error:.3f}")

    samples = langevin(net, 2 * torch.randn(2000, 2), steps=min(steps, 300))
    shares = torch.cdist(samples, CENTRES).argmin(1).bincount(minlength=len(CENTRES)) / len(samples)
    print(f"share of Langevin samples near each centre: {[round(share, 2) for share in shares.tolist()]}")
    if options.figure:
        draw(net, samples, options.figure)


if __name__ == "__main__":
    main()
