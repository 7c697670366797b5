"""Estimate the weights of two modes by plain, annealed and tempered score matching and by maximum likelihood.

The data are a mixture of two Gaussians of deviation 1 with the weights 0.8 and 0.2, whose centres lie some deviations
apart. `mixture` fits weights and centres of such a mixture, from a start with equal weights and the true centres;
all its noise levels share these parameters. `network` fits the energy of an MLP, whose normaliser is unknown, so there
is no maximum likelihood.

Run `python -m experiments.tempered`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

import fastssm
from bench import experiments

WEIGHT, LEVELS, WIDTHS, BATCH = 0.8, 10, (64, 64, 64), 256
LOSSES = ("plain", "annealed", "tempered", "maximum likelihood")


class Setting(NamedTuple):
    """One mixture and the number of its samples."""

    n: int
    separation: float
    dim: int


class Size(NamedTuple):
    """What a run costs."""

    mixture: tuple[Setting, ...]
    network: tuple[Setting, ...]
    networks: int  # seeds of the networks
    steps: int


MIXTURES = (
    *(Setting(n, 6.0, 2) for n in (100, 500)),
    Setting(2000, 6.0, 1),
    *(Setting(2000, separation, 2) for separation in (2.0, 4.0, 6.0, 8.0, 10.0)),
    *(Setting(2000, 6.0, dim) for dim in (5, 10)),
    Setting(10_000, 6.0, 2),
)
NETWORKS = (
    *(Setting(10_000, separation, 2) for separation in (8.0, 12.0)),
    Setting(10_000, 8.0, 10),
)
FULL = Size(MIXTURES, NETWORKS, 2, 2000)
SMOKE = Size((Setting(60, 4.0, 1),), (Setting(60, 8.0, 1),), 1, 5)


def centres(setting: Setting) -> Tensor:
    """Return the two centres, on both sides of the origin."""
    first = torch.zeros(setting.dim, dtype=torch.float64)
    first[0] = setting.separation / 2
    return torch.stack([-first, first])


def samples(setting: Setting, generator: Generator) -> Tensor:
    """Draw the data."""
    second = (torch.rand(setting.n, generator=generator, dtype=torch.float64) > WEIGHT).long()
    noise = torch.randn(setting.n, setting.dim, generator=generator, dtype=torch.float64)
    return centres(setting)[second] + noise


class Mixture(nn.Module):
    """Two Gaussians of deviation 1, whose weights and centres are learned."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.centres = nn.Parameter(centres(setting))

    def log_prob(self, x: Tensor, noise: Tensor | float) -> Tensor:
        """Return the log density of data with noise of a variance `[B]`."""
        variance = 1.0 + noise
        logs = nn.functional.logsigmoid(torch.stack([self.logit, -self.logit]))
        square = (x[:, None] - self.centres).square().sum(2).mT
        found = torch.logsumexp(logs[:, None] - 0.5 * square / variance, 0)
        scale = variance.log() if isinstance(variance, Tensor) else math.log(variance)
        return found - 0.5 * x.shape[1] * (math.log(2 * math.pi) + scale)


def levels_of(setting: Setting) -> fastssm.GeometricTempering:
    """Return noise up to the distance of the modes."""
    return fastssm.GeometricTempering(1.0, setting.separation**2)


def objective(mixture: Mixture, how: str, x: Tensor, setting: Setting, generator: Generator) -> Callable[[], Tensor]:
    """Return the loss as a function of the parameters: all that is random is drawn here, every sample at ten levels."""
    if how == "maximum likelihood":
        return lambda: -mixture.log_prob(x, 0.0).mean()
    if how == "plain":
        return lambda: fastssm.exact_loss(lambda x: -mixture.log_prob(x, 0.0), x, kind="energy")
    copies = x.repeat(LEVELS, 1)
    level = torch.arange(LEVELS).repeat_interleave(len(x))
    exact = {"noise": torch.randn(copies.shape, generator=generator, dtype=x.dtype), "kind": "energy"}
    exact |= {"projection": "basis", "n_projections": setting.dim}
    if how == "annealed":
        sigmas = torch.logspace(-1, math.log10(setting.separation), LEVELS, dtype=x.dtype)
        return lambda: fastssm.annealed_sliced_loss(
            lambda x, sigma: -mixture.log_prob(x, sigma.square()), copies, sigmas=sigmas, level=level, **exact
        )
    tempering = levels_of(setting)
    within = torch.rand(len(copies), generator=generator, dtype=x.dtype)
    beta = (level + within) / LEVELS * tempering.largest
    return lambda: fastssm.tempered_loss(
        lambda joint: -mixture.log_prob(joint[:, :-1], tempering.variance(joint[:, -1])), copies, tempering=tempering,
        beta=beta, **exact,
    )  # fmt: skip


def fitted_mixture(how: str, setting: Setting, seed: int) -> float:
    """Return the weight of the first mode at the minimum of a loss."""
    generator = Generator().manual_seed(seed)
    mixture = Mixture(setting)
    loss_of = objective(mixture, how, samples(setting, generator), setting, generator)
    optimiser = torch.optim.LBFGS(
        mixture.parameters(), max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss_of()
        value.backward()
        return value

    optimiser.step(closure)
    return float(mixture.logit.detach().sigmoid())


def trained(loss: nn.Module, rows: Tensor, steps: int, generator: Generator) -> None:
    """Minimise a loss on batches of rows."""
    optimiser = torch.optim.Adam(loss.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        value = loss(rows[torch.randint(len(rows), (BATCH,), generator=generator)])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()


def fitted_network(how: str, setting: Setting, seed: int, steps: int) -> float:
    """Return the weight of the first mode of an energy without noise."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    rows = samples(setting, generator).float()
    if how == "plain":
        net = fastssm.nn.MLP(setting.dim, WIDTHS, activation="silu")
        trained(fastssm.SlicedScoreLoss(net, kind="energy"), rows, steps, generator)
        return weight_of(net, setting)
    if how == "annealed":
        net = fastssm.nn.MLP(setting.dim, WIDTHS, activation="silu", cond_dim=1)
        sigmas = torch.logspace(-1, math.log10(setting.separation), LEVELS)
        trained(
            fastssm.AnnealedSlicedLoss(net, sigmas=sigmas, condition="log_sigma", kind="energy"), rows, steps, generator
        )
        return weight_of(net.at(sigmas[:1, None].log()), setting)
    net = fastssm.nn.MLP(setting.dim + 1, WIDTHS, activation="silu")
    trained(fastssm.TemperedLoss(net, tempering=levels_of(setting), kind="energy"), rows, steps, generator)
    return weight_of(lambda x: net(nn.functional.pad(x, (0, 1))), setting)


@torch.no_grad()
def weight_of(energy: Callable[[Tensor], Tensor], setting: Setting, points: int = 20_000) -> float:
    """Return the share of the mass of `exp(-E)` around the first centre, by importance sampling around both.

    The points around one centre must not reach the other mode, so the centres should be at least 8 deviations apart.
    """
    offsets = 1.3 * torch.randn(points, setting.dim, generator=Generator().manual_seed(0))
    log_proposal = -offsets.square().sum(1) / (2 * 1.3**2)
    energies = torch.stack([energy(centre + offsets).flatten() for centre in centres(setting).float()])
    return float(torch.softmax(torch.logsumexp((-energies - log_proposal).double(), 1), 0)[0])


def rows(seeds: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, setting and loss."""
    for model, settings, count in (("mixture", size.mixture, seeds), ("network", size.network, size.networks)):
        for seed in range(min(count, seeds)):
            for setting in settings:
                for how in LOSSES if model == "mixture" else LOSSES[:3]:
                    found = (
                        fitted_mixture(how, setting, seed)
                        if model == "mixture"
                        else fitted_network(how, setting, seed, size.steps)
                    )
                    row = {"seed": seed, "model": model, "n": setting.n, "separation": f"{setting.separation:g}"}
                    row |= {"D": setting.dim, "loss": how, "dtype": "float64" if model == "mixture" else "float32"}
                    row |= {"weight": f"{found:.5f}", "error": f"{abs(found - WEIGHT):.5f}"}
                    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the errors against the separation, n and D, and those of the networks."""
    import matplotlib.pyplot as plt

    centre = {"n": "2000", "separation": "6", "D": "2"}
    panels = [("mixture", axis, {k: v for k, v in centre.items() if k != axis}) for axis in ("separation", "n", "D")]
    panels.append(("network", "separation", {"n": "10000", "D": "2"}))
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), sharey=True)
    for panel, (model, axis, fixed) in zip(axes, panels, strict=True):
        mine = [r for r in found if r["model"] == model and all(str(r[k]) == v for k, v in fixed.items())]
        for how in dict.fromkeys(row["loss"] for row in mine):
            places = sorted({float(row[axis]) for row in mine})
            errors = [[float(r["error"]) for r in mine if r["loss"] == how and float(r[axis]) == p] for p in places]
            means = [sum(e) / len(e) for e in errors]
            bars = [torch.tensor(e).std().item() / math.sqrt(len(e)) if len(e) > 1 else 0.0 for e in errors]
            panel.errorbar(places, means, bars, fmt="o-", capsize=2, label=how)
        rest = ", ".join(f"{k} = {v}" for k, v in fixed.items())
        panel.set(yscale="log", xlabel=axis, title=f"{model}, {rest}")
        if axis == "n":
            panel.set_xscale("log")
    axes[0].set_ylabel("error of the weight")
    axes[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "tempered",
        "Weights of two modes by four losses.",
        lambda seeds, smoke: rows(seeds, SMOKE if smoke else FULL),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
