"""Infer the parameters of a simulator from its output, by the score of the posterior.

Neural posterior score estimation draws pairs of parameters from the prior and of outputs of the simulator, and learns
the score of the parameters given the output by sliced score matching: `fastssm.sliced_loss(score, theta, cond=x)`.
Langevin chains with that score then sample the posterior of any observation, without another simulation. Here the
simulator is `x = A theta + noise` with normal noise and a standard normal prior, so the exact posterior is normal.

Run `python examples/simulation_inference.py`. After Sharrock et al. 2024, "Sequential neural score estimation".
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

import fastssm
from fastssm.sampling import langevin

MATRIX = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
DEVIATION = 0.7
COVARIANCE = torch.linalg.inv(torch.eye(2) + MATRIX.mT @ MATRIX / DEVIATION**2)  # of the posterior of any observation


def prior(count: int, generator: Generator) -> Tensor:
    """Draw parameters, `[count, 2]`."""
    return torch.randn(count, 2, generator=generator)


def simulate(theta: Tensor, generator: Generator) -> Tensor:
    """Run the simulator, `[B, 3]`."""
    return theta @ MATRIX.mT + DEVIATION * torch.randn(len(theta), 3, generator=generator)


def posterior_mean(x: Tensor) -> Tensor:
    """Return the exact mean of the posterior of each observation, `[B, 2]`."""
    return x @ MATRIX @ COVARIANCE / DEVIATION**2


def train(steps: int, generator: Generator) -> nn.Module:
    """Learn the score of the parameters given the output of the simulator."""
    torch.manual_seed(0)
    score = fastssm.nn.MLP(2, [64, 64], 2, "silu", cond_dim=3)
    objective = fastssm.SlicedScoreLoss(score, kind="score", projection="hadamard", n_projections=2)
    optimiser = torch.optim.Adam(score.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        theta = prior(512, generator)
        loss = objective(theta, cond=simulate(theta, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return score


def posterior(score: nn.Module, x: Tensor, count: int, steps: int, generator: Generator) -> Tensor:
    """Draw samples of the posterior of one observation, `[count, 2]`, by Langevin chains from the prior."""
    start, given = prior(count, generator), x.expand(count, -1)
    return langevin(score, start, cond=given, kind="score", step=2e-3, n_steps=steps, generator=generator).x


def draw(found: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """Plot samples of posteriors, and the exact ellipses of two deviations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.2), layout="constrained", dpi=90)
    panel = figure.subplots()
    angle = torch.linspace(0, 2 * math.pi, 100)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], 1) @ torch.linalg.cholesky(COVARIANCE).mT
    for number, (mean, samples) in enumerate(found):
        panel.scatter(
            *samples[:1000].T, s=2, linewidths=0, label="samples" if number == 0 else None, color=f"C{number}"
        )
        panel.plot(*(mean + circle).T, color="k", lw=1, label="exact, two deviations" if number == 0 else None)
    panel.set(xlabel="first parameter", ylabel="second parameter", aspect="equal")
    panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Learn the score, and compare posteriors of new observations with the exact ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/simulation_inference.png"), help="of the figure")
    options = parser.parse_args()
    count, steps = (50, 10) if options.smoke else (4000, 2000)
    generator = Generator().manual_seed(0)
    score = train(5 if options.smoke else 5000, generator)

    theta = prior(count, generator)
    x = simulate(theta, generator)
    exact = -(theta - posterior_mean(x)) @ torch.linalg.inv(COVARIANCE)
    with torch.no_grad():
        error = (score(theta, x) - exact).square().sum() / exact.square().sum()
    print(f"relative squared error of the posterior's score on new simulations: {error:.4f}, exact 0")
    found, deviations = [], COVARIANCE.diag().sqrt()
    for number, x in enumerate(simulate(torch.tensor([[1.0, 1.0], [-1.5, 0.0], [1.0, -1.0]]), generator)):
        samples = posterior(score, x, count, steps, generator)
        mean, spread = samples.mean(0), samples.std(0) / deviations
        off = (mean - posterior_mean(x)) / deviations
        print(
            f"observation {number + 1}: mean off by {', '.join(f'{d:+.3f}' for d in off.tolist())} exact deviations,",
            end=" ",
        )
        print(f"deviation {', '.join(f'{s:.3f}' for s in spread.tolist())} of the exact ones")
        found.append((posterior_mean(x), samples))
    draw(found, options.out)


if __name__ == "__main__":
    main()
