"""Train a denoiser as EDM does, and use it as a score: for samples, and for exact log-densities.

A denoiser `D(x; sigma)` estimates the clean data of `x = y + sigma z`, and the score is `(D - x) / sigma^2`. The
functions of `fastssm.diffusion` take `(x - D) / sigma` with `predicts="noise"`. The data are a mixture of normal
distributions, so the score and the density are known at every sigma.

Run `python examples/edm_denoiser.py`. After Karras et al. 2022, "Elucidating the design space of diffusion-based
generative models", table 1.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import fastssm
from fastssm.diffusion import VE, flow_log_prob, probability_flow

SDE = VE(0.02, 20.0)
MODES, RADIUS, WIDTH, SPREAD = 6, 1.0, 0.15, 0.7228  # the last is the deviation of the data


def mixture(sigma: float = 0.0) -> torch.distributions.Distribution:
    """Return the density of data with noise: modes on a circle."""
    angles, deviation = torch.arange(MODES) * (2 * math.pi / MODES), (WIDTH**2 + sigma**2) ** 0.5
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)
    modes = torch.distributions.Independent(torch.distributions.Normal(centres, deviation), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(MODES)), modes)


class Denoiser(nn.Module):
    """`D(x; sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4)`, with the coefficients of EDM."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fastssm.nn.MLP(2, [128, 128, 128], 2, "silu", cond_dim=1, conditioning="film")

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of clean data from noisy ones, `[B, 2]`, for deviations `[B]`."""
        square = sigma[:, None].square() + SPREAD**2
        inner = sigma[:, None] * square.sqrt() / SPREAD * self.net(x / square.sqrt(), sigma.log() / 4)
        return SPREAD**2 / square * (x + inner)


class Noise(nn.Module):
    """A denoiser as a prediction of the noise at a time of the diffusion: for `predicts="noise"`."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `(x - D(x; sigma)) / sigma`."""
        return (x - self.denoiser(x, SDE.std(t))) / SDE.std(t)[:, None]


def train(steps: int) -> nn.Module:
    """Minimise EDM's weighted denoising loss; return the moving average of the weights."""
    torch.manual_seed(0)
    denoiser, data = Denoiser(), mixture()
    mean = torch.optim.swa_utils.AveragedModel(denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        y, sigma = data.sample((512,)), (1.2 * torch.randn(512) - 1.2).exp()
        off = denoiser(y + sigma[:, None] * torch.randn_like(y), sigma) - y
        loss = ((sigma.square() + SPREAD**2) / (sigma * SPREAD).square() * off.square().sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean.update_parameters(denoiser)
    return mean.module


def score_error(denoiser: nn.Module, sigma: float) -> float:
    """Return the relative error in the mean square of the score of data with noise."""
    blurred = mixture(sigma)
    x = blurred.sample((4000,)).requires_grad_()
    (exact,) = torch.autograd.grad(blurred.log_prob(x).sum(), x)
    with torch.no_grad():
        found = (denoiser(x, torch.full((len(x),), sigma)) - x) / sigma**2
    return float((found - exact).square().sum() / exact.square().sum())


def draw(samples: dict[str, Tensor], path: Path) -> None:
    """Plot data and samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(samples), 3.5), layout="constrained", dpi=90)
    for panel, (name, points) in zip(figure.subplots(1, len(samples)), samples.items(), strict=True):
        panel.scatter(*points.T, s=1.5, linewidths=0, color="#0072B2")
        panel.set(title=name, xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Train a denoiser, and compare its scores, log-densities and samples with the exact ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/edm_denoiser.png"), help="where the figure goes")
    chosen = parser.parse_args()
    denoiser, count = (train(5), 50) if chosen.smoke else (train(4000), 3000)
    for sigma in (0.05, 0.2, 1.0):
        print(f"relative squared error of the score at sigma {sigma}: {score_error(denoiser, sigma):.4f}, exact 0")
    blurred, noise = mixture(SDE.sigma_min), Noise(denoiser)
    rows = blurred.sample((count,))
    options = {"sde": SDE, "predicts": "noise", "kind": "score", "steps": 60, "solver": "rk4"}
    found, exact = flow_log_prob(noise, rows, **options).mean(), blurred.log_prob(rows).mean()
    print(f"nats of held-out points: flow {found:.3f}, true density {exact:.3f}")
    samples = probability_flow(noise, SDE.prior_sample((count, 2)), **options)
    draw({"data": rows, "samples of the flow": samples}, chosen.out)


if __name__ == "__main__":
    main()
