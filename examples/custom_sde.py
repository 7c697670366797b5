"""Learn the scores of a diffusion without a closed-form kernel: an SDE with rotation.

The drift `beta(t) / 2 (-x + w(|x|) J x)` contracts and rotates points; the rotation is faster near the origin. The
rotation has no divergence and moves points only along circles. So `N(0, I)` remains stationary, and the process
converges to it as fast as without rotation. The density of x_t given x_0 has no closed form, so denoising score
matching has no target. The sliced loss needs only samples.

Run `python examples/custom_sde.py`, and with `--figure rotation.png` (needs matplotlib) to plot the process and its
reverse.
"""

import argparse
from pathlib import Path

import torch

import fastssm
import fastssm.data
from fastssm.diffusion import CustomSDE, SlicedDiffusionLoss, euler_maruyama, flow_log_prob

ROTATION = torch.tensor([[0.0, -1.0], [1.0, 0.0]])


def noise_variance(t: torch.Tensor) -> torch.Tensor:
    """Return the approximate variance of the noise at time t; its log-odds grow linearly from -6 to 4.6."""
    return torch.sigmoid(10.6 * t - 6.0)


def beta(t: torch.Tensor) -> torch.Tensor:
    """Return the noise rate that gives this variance."""
    return 10.6 * noise_variance(t)


def drift(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the drift."""
    speed = 3.0 / (1.0 + x.square().sum(1, keepdim=True))
    return 0.5 * beta(t)[:, None] * (speed * (x @ ROTATION.T) - x)


SDE = CustomSDE(drift, lambda t: beta(t).sqrt(), steps=25)


def train(rows: torch.Tensor, steps: int) -> torch.nn.Module:
    """Minimise the sliced loss along the process."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [128, 128, 128], 2, "silu", fourier_time=True)
    objective = SlicedDiffusionLoss(
        net, sde=SDE, weighting=lambda t: noise_variance(t) + 0.01, projection="hadamard", n_projections=2
    )
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        loss = objective(rows[torch.randint(len(rows), (512,))])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            print(f"step {step:5d}   loss {loss.item():8.3f}")
    return net


def draw(net: torch.nn.Module, rows: torch.Tensor, samples: torch.Tensor, path: Path) -> None:
    """Plot the process from data to noise, and its reverse."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 5.4), layout="constrained", dpi=80)
    axes = figure.subplots(2, 4)
    times = (0.0, 0.25, 0.5, 1.0)
    start = SDE.prior_sample((2000, 2))
    colour = torch.atan2(rows[:2000, 1], rows[:2000, 0])
    for column, time in enumerate(times):
        t = torch.full((2000,), time)
        upper = SDE.perturb(rows[:2000], t)
        lower = start if time == 1.0 else samples[:2000] if time == 0.0 else euler_maruyama(
            net, start, sde=SDE, steps=300, t_min=time)  # fmt: skip
        axes[0, column].scatter(*upper.T, s=2, linewidths=0, c=colour, cmap="twilight")
        axes[1, column].scatter(*lower.T, s=2, linewidths=0, color="#D55E00")
        axes[0, column].set_title(f"data at t = {time:g}")
        axes[1, column].set_title(f"samples at t = {time:g}")
    for panel in axes.flat:
        panel.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
        panel.set_box_aspect(1)
        panel.tick_params(labelbottom=False, labelleft=False, length=0)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Train, evaluate and sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", type=Path, help="path of a PNG file")
    arguments = parser.parse_args()
    steps, test = (5, 20) if arguments.smoke else (5000, 300)

    prepared = fastssm.data.prepare(fastssm.data.load("moons"))
    net = train(prepared.train, steps)
    rows = prepared.test[:test]
    likely = flow_log_prob(net, rows, sde=SDE, steps=100)
    fitted = torch.distributions.MultivariateNormal(prepared.train.mean(0), torch.cov(prepared.train.T))
    usual = fitted.log_prob(rows)
    print(f"held-out nats, median row: flow {likely.median():.3f}, fitted Gaussian {usual.median():.3f}")
    samples = euler_maruyama(net, SDE.prior_sample((2000, 2)), sde=SDE, steps=10 if arguments.smoke else 500)
    far = torch.cdist(samples, rows).amin(1).median()
    print(f"median distance of a sample to the nearest held-out row: {far:.3f}")
    if arguments.figure:
        draw(net, prepared.train, samples, arguments.figure)


if __name__ == "__main__":
    main()
