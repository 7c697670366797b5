"""Learn densities by composite score matching, and draw samples from them coordinate by coordinate.

The data are rings and a checkerboard in two dimensions, and white-wine. The held-out log-likelihood is compared with
that of a Gaussian. Every conditional density is normalised by quadrature, so the log-densities are exact up to its
error.

Run `python examples/composite_density.py`, or with `--figure composite.png` to plot the samples.
"""

import argparse

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import fastssm
from fastssm.data import Prepared, load, prepare
from fastssm.nn import MLP, MADEContext

CONTEXT = 16
NOISE = {"rings": 0.15, "checkerboard": 0.1, "white-wine": None}  # on the scaled rows; None for the data set's default
STEPS = {"rings": 3000, "checkerboard": 3000, "white-wine": 600}  # white-wine has few rows and overfits with more steps


def fit(prepared: Prepared, steps: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Train a context net and a head; return the moving average of both."""
    torch.manual_seed(0)
    dim = prepared.train.shape[1]
    objective = fastssm.CompositeLoss(
        MADEContext(dim, CONTEXT, [128, 128]), MLP(1, [128] * 3, activation="silu", residual=True, cond_dim=CONTEXT)
    )
    mean = torch.optim.swa_utils.AveragedModel(objective, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimiser = torch.optim.Adam(objective.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = prepared.train[torch.randint(len(prepared.train), (512,))]
        loss = objective(rows + prepared.noise * torch.randn_like(rows))  # the same noise as in held-out rows
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean.update_parameters(objective)
    return mean.module.context_net, mean.module.model


def bounds_of(prepared: Prepared) -> Tensor:
    """Return `[2, D]`, the range of all rows, extended by a quarter on either side."""
    low, high = torch.cat([prepared.train, prepared.validation, prepared.test]).aminmax(dim=0)
    margin = 0.25 * (high - low)
    return torch.stack([low - margin, high + margin])


def gaussian_log_prob(prepared: Prepared) -> Tensor:
    """Return the log-density of the test rows under a Gaussian fitted to the training rows."""
    train = prepared.train.double()
    covariance = torch.cov(train.T) + prepared.noise**2 * torch.eye(train.shape[1], dtype=train.dtype)
    return MultivariateNormal(train.mean(0), covariance).log_prob(prepared.test.double())


def draw(found: list[tuple[Prepared, Tensor]], path: str) -> None:
    """Plot two-dimensional data above, and samples below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 6.8), layout="constrained", dpi=100)
    axes = figure.subplots(2, len(found), squeeze=False)
    generator = torch.Generator().manual_seed(0)
    for (prepared, samples), above, below in zip(found, axes[0], axes[1], strict=True):
        data = prepared.train[: len(samples)]
        data = data + prepared.noise * torch.randn(data.shape, generator=generator)
        for panel, rows, title in ((above, data, f"{prepared.dataset.name}: data"), (below, samples, "samples")):
            panel.scatter(rows[:, 0], rows[:, 1], s=1.5, color="#0072B2", alpha=0.5, linewidths=0)
            panel.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), title=title)
            panel.set_box_aspect(1)
    figure.savefig(path)


def main() -> None:
    """Train on each data set, compare log-likelihoods, and sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", help="path of the figure (default: no figure)")
    chosen = parser.parse_args()
    count = 50 if chosen.smoke else 3000

    found = []
    print("mean log-density of held-out rows, in nats (higher is better)")
    for name, noise in NOISE.items():
        prepared = prepare(load(name), noise=noise)
        nets, bounds = fit(prepared, 20 if chosen.smoke else STEPS[name]), bounds_of(prepared)
        test = prepared.test[: 50 if chosen.smoke else None]
        log_prob = fastssm.composite_log_prob(*nets, test, bounds)
        error = log_prob.std() / len(log_prob) ** 0.5
        print(f"{name:>14}: {log_prob.mean():8.3f} ± {error:.3f}   Gaussian {gaussian_log_prob(prepared).mean():8.3f}")
        samples = fastssm.composite_sample(*nets, count, bounds, generator=torch.Generator().manual_seed(1))
        found += [(prepared, samples)] if samples.shape[1] == 2 else []
    if chosen.figure:
        draw(found, chosen.figure)
        print(f"figure: {chosen.figure}")


if __name__ == "__main__":
    main()
