"""Train a NICE flow and a convolutional energy on the digits by score matching, and the flow by maximum likelihood.

The digits have 8 x 8 pixels, grey values dequantised by uniform noise and mapped to (0, 1), and normal noise of
deviation 0.1, so that all methods learn the density of the same blurred digits. The flow is judged by its exact
log-likelihood, both models by the exact score matching loss of test rows. Samples come from the inverse of the flow,
and by annealed Langevin dynamics from an energy of the picture and the noise level, trained at eight levels.

Run `python -m experiments.image_models`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import softplus

import fastssm
from bench import experiments
from experiments.soft_truncation import energy_distance
from fastssm import data
from fastssm.sampling import annealed_langevin

NOISE, BATCH, RATE, CHECKS, SIDE = 0.1, 128, 2e-3, 4, 8
SIGMAS = torch.logspace(math.log10(2.0), math.log10(NOISE), 8).tolist()
CHANNELS = (16, 32)


class Size(NamedTuple):
    """What a run costs."""

    steps: dict[str, int]
    layers: int
    width: int
    samples: int
    langevin: int


FULL = Size({"NICE": 700, "energy": 500, "annealed energy": 600}, 6, 128, 1000, 20)
SMOKE = Size({"NICE": 4, "energy": 4, "annealed energy": 4}, 2, 8, 20, 2)


class Moments(NamedTuple):
    """Mean and variance of each pixel of the training rows, without the noise."""

    mean: Tensor
    variance: Tensor


class Nice(nn.Module):
    """A flow of additive coupling layers (Dinh, Krueger and Bengio 2014), as an energy: `-log p(x)`.

    Pixels are standardised. The even and the odd ones in turn move by a perceptron of the others; all are then scaled.
    The result has independent logistic coordinates.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, moments: Moments, layers: int, width: int) -> None:
        super().__init__()
        dim = len(moments.mean)
        self.register_buffer("mean", moments.mean)
        self.register_buffer("deviation", (moments.variance + NOISE**2).sqrt())
        self.couplings = nn.ModuleList(self._coupling(dim // 2, width) for _ in range(layers))
        self.log_scale = nn.Parameter(torch.full((dim,), math.log(math.pi / math.sqrt(3))))  # to a variance of one

    @staticmethod
    def _coupling(half: int, width: int) -> nn.Sequential:
        last = nn.Linear(width, half)
        for p in last.parameters():  # the flow starts at independent pixels
            nn.init.zeros_(p)
        return nn.Sequential(nn.Linear(half, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(), last)

    def latent(self, x: Tensor) -> Tensor:
        """Map pictures to logistic coordinates, the even ones first."""
        y = (x - self.mean) / self.deviation
        halves = [y[:, ::2], y[:, 1::2]]
        for place, move in enumerate(self.couplings):
            halves[place % 2] = halves[place % 2] + move(halves[1 - place % 2])
        return torch.cat(halves, 1) * self.log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        z = self.latent(x)
        return (softplus(z) + softplus(-z)).sum(1) - self.log_scale.sum() + self.deviation.log().sum()

    @torch.no_grad()
    def pictures(self, z: Tensor) -> Tensor:
        """Return what `latent` maps to z."""
        halves = list((z / self.log_scale.exp()).chunk(2, 1))
        for place, move in reversed(list(enumerate(self.couplings))):
            halves[place % 2] = halves[place % 2] - move(halves[1 - place % 2])
        return torch.stack(halves, 2).flatten(1) * self.deviation + self.mean


class Convolutional(nn.Module):
    """An energy of pictures, at one noise level or at the level of each row.

    `E(x; sigma) = sum_j (x_j - mean_j)^2 / (2 (variance_j + sigma^2)) + f(x; sigma) / sigma`: normal pixels, and a
    convolutional net whose score has the size of that of the noise.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.register_buffer("mean", moments.mean)
        self.register_buffer("variance", moments.variance)
        self.level = nn.Linear(1, sum(CHANNELS))
        self.first = nn.Conv2d(1, CHANNELS[0], 3, padding=1)
        self.second = nn.Conv2d(*CHANNELS, 3, 2, padding=1)
        flat = CHANNELS[1] * (SIDE // 2) ** 2
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(flat, 64), nn.Softplus(), nn.Linear(64, 1))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the energy."""
        sigma = x.new_full((1, 1), NOISE) if sigma is None else sigma[:, None]
        variance, off = self.variance + sigma.square(), x - self.mean
        first, second = self.level(sigma.log())[:, :, None, None].split(CHANNELS, 1)
        h = softplus(self.first((off / variance.sqrt()).reshape(-1, 1, SIDE, SIDE)) + first)
        h = softplus(self.second(h) + second)
        return 0.5 * (off.square() / variance).sum(1) + (self.head(h) / sigma).squeeze(1)


Loss = Callable[[nn.Module, Tensor], Tensor]


def blurred(x: Tensor) -> Tensor:
    """Return rows with new noise."""
    return x + NOISE * torch.randn_like(x)


LOSSES: dict[str, Loss] = {
    "SSM": lambda net, x: fastssm.sliced_loss(net, blurred(x), variance_reduced=False),
    "SSM-VR": lambda net, x: fastssm.sliced_loss(net, blurred(x)),
    "FD-SSM": lambda net, x: fastssm.finite_difference_loss(net, blurred(x)),
    "DSM": lambda net, x: fastssm.denoising_loss(net, x, sigma=NOISE),
    "maximum likelihood": lambda net, x: net(blurred(x)).mean(),
}
ANNEALED: dict[str, Loss] = {
    "SSM-VR": lambda net, x: fastssm.annealed_sliced_loss(net, x, sigmas=SIGMAS),
    "DSM": lambda net, x: fastssm.annealed_denoising_loss(net, x, sigmas=SIGMAS),
}
MODELS = {
    "NICE": LOSSES,
    "energy": {name: loss for name, loss in LOSSES.items() if name != "maximum likelihood"},
    "annealed energy": ANNEALED,
}


@torch.no_grad()
def exact(net: nn.Module, x: Tensor) -> Tensor:
    """Return the exact score matching loss."""
    return fastssm.exact_loss(net, x)


@torch.no_grad()
def mean_energy(net: nn.Module, x: Tensor) -> Tensor:
    """Return the mean energy of rows, for a flow minus their log-likelihood."""
    energies: Tensor = net(x)
    return energies.mean()


def at_noise(net: nn.Module, x: Tensor) -> Tensor:
    """Return the exact score matching loss of an energy of the level, at the noise of the rows."""
    with torch.no_grad():
        return fastssm.exact_loss(net, x, cond=torch.full((len(x),), NOISE))


def trained(net: nn.Module, loss: Loss, judge: Loss, sets: data.Prepared, steps: int) -> nn.Module:
    """Train a model, and return the best of a few checkpoints by the validation rows."""
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, least = net, math.inf
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        loss(net, sets.train[torch.randint(len(sets.train), (BATCH,))]).backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // CHECKS) == 0 and (value := judge(net, sets.validation).item()) < least:
            best, least = copy.deepcopy(net), value
    return best


def drawn(net: nn.Module, size: Size) -> Tensor | None:
    """Return samples, the same random numbers for every model; None of an energy at one level."""
    generator = Generator().manual_seed(1)
    if isinstance(net, Nice):
        uniform = torch.rand(size.samples, len(net.mean), generator=generator, dtype=torch.float64)
        return net.pictures(uniform.logit(eps=1e-12).float())
    start = net.mean + SIGMAS[0] * torch.randn(size.samples, SIDE**2, generator=generator)
    return annealed_langevin(net, start, sigmas=SIGMAS, n_steps=size.langevin, generator=generator)


def result(loss: Tensor, log: Tensor | None, samples: Tensor | None, test: Tensor) -> dict[str, str]:
    """Return the columns of a model: its loss, log-likelihoods of the test rows, and distance of samples to them."""
    found = {"loss": f"{loss.item():.2f}"}
    if log is not None:
        found |= {"nats": f"{log.mean():.3f}", "nats_error": f"{log.std() / math.sqrt(len(log)):.3f}"}
    return found | ({} if samples is None else {"energy_distance": f"{energy_distance(samples, test):.5f}"})


Pictures = dict[str, Tensor]


def learned(model: str, method: str, sets: data.Prepared, size: Size, pictures: Pictures | None) -> dict[str, str]:
    """Train and judge one model."""
    moments = Moments(sets.train.mean(0), sets.train.var(0))
    net: nn.Module = Nice(moments, size.layers, size.width) if model == "NICE" else Convolutional(moments)
    judge = at_noise if model == "annealed energy" else exact
    chooser = mean_energy if method == "maximum likelihood" else judge
    net = trained(net, MODELS[model][method], chooser, sets, size.steps[model])
    with torch.no_grad():
        log = -net(sets.test) if model == "NICE" else None
    samples = None if model == "energy" else drawn(net, size)
    if samples is not None and pictures is not None:
        pictures[f"{model}, {method}"] = samples[:12]
    return result(judge(net, sets.test), log, samples, sets.test)


def references(sets: data.Prepared, size: Size, pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Yield the rows of a normal density with the covariance of the training rows, and of these rows themselves."""
    torch.manual_seed(0)
    covariance = sets.train.T.cov() + NOISE**2 * torch.eye(SIDE**2)
    normal = MultivariateNormal(sets.train.mean(0), covariance)
    loss = fastssm.exact_loss(lambda x: -normal.log_prob(x), sets.test)
    found = result(loss, normal.log_prob(sets.test), normal.sample((size.samples,)), sets.test)
    yield {"model": "normal density", "method": "maximum likelihood"} | found
    distance = energy_distance(blurred(sets.train), sets.test)
    yield {"model": "training rows", "method": "none", "energy_distance": f"{distance:.5f}"}
    pictures["test digits"] = sets.test[:12]


def rows(seeds: int, size: Size, pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Yield the rows of the references, and one per seed, model and method."""
    sets = data.prepare(data.load("digits"), noise=NOISE)
    shared = {"D": SIDE**2, "n": len(sets.train), "test_rows": len(sets.test), "batch": BATCH}
    for row in references(sets, size, pictures):
        yield {"seed": 0} | row | shared
    for seed in range(seeds):
        for model, methods in MODELS.items():
            for method in methods:
                torch.manual_seed(seed)
                found = {"seed": seed, "model": model, "method": method, "steps": size.steps[model]} | shared
                yield found | learned(model, method, sets, size, None if seed else pictures)


def draw_figure(found: list[dict[str, Any]], pictures: Pictures, out: Path) -> None:
    """Draw the losses and likelihoods of all seeds, and samples of the first."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5.5), width_ratios=(1, 1, 2.6))
    for axes, value in ((left, "loss"), (middle, "nats")):
        mine = [row for row in found if value in row]
        axes.plot([float(row[value]) for row in mine], [f"{r['model']}, {r['method']}" for r in mine], "o", alpha=0.6)
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    left.set(xlabel="exact score matching loss of test rows")
    middle.set(xlabel="log-likelihood of test rows (nats)")
    framed = nn.functional.pad  # one grey line below and to the right of each picture
    lines = [framed(shown.reshape(-1, SIDE, SIDE), (0, 1, 0, 1), value=0.5) for shown in pictures.values()]
    right.imshow(
        torch.cat([line.transpose(0, 1).flatten(1) for line in lines]).clamp(0, 1), cmap="gray_r", vmin=0, vmax=1
    )
    right.set(xticks=[], yticks=[i * (SIDE + 1) + SIDE / 2 for i in range(len(lines))], yticklabels=list(pictures))
    experiments.save(figure, out, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("image_models", "A flow and an energy of digits by score matching.", seeds=3)
    found, pictures = list[dict[str, Any]](), Pictures()
    last = ("annealed energy", [*ANNEALED][-1])  # of a seed
    for row in rows(chosen.seeds, SMOKE if chosen.smoke else FULL, pictures):
        print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
        found.append(row)
        experiments.write(found, chosen.csv)
        if chosen.figure and (row["model"], row["method"]) == last:
            draw_figure(found, pictures, chosen.figure)


if __name__ == "__main__":
    main()
