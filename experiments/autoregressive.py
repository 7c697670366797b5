"""Learn digits pixel by pixel by composite score matching: likelihoods, samples, and denoising.

Each pixel of the digits of 8 x 8 pixels has a density in one variable, given the pixels before it in the order of
reading. A context net sees the pixels before it: masked perceptrons (MADE), masked convolutions, or the linear map of a
multivariate Gaussian. A head is the energy of a pixel given its context: a perceptron, a mixture of Gaussians, or one
Gaussian. Composite score matching trains the first two, maximum likelihood the last two. A quadrature on a grid
normalises every density in the same way. The rows have the library's noise of 0.1, and denoising removes that noise in
one step: `x + noise^2 s(x)`, with the score of the joint density, or with the conditional scores alone.

Run `python -m experiments.autoregressive`.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import fastssm.data
from bench import experiments
from experiments.soft_truncation import energy_distance
from fastssm.nn import MLP, MADEContext

SCALE, COMPONENTS = 4.0, 5  # the networks see SCALE * (pixel - 1/2), in (-2, 2) but for the noise
SHOWN, CHUNK = 8, 1024  # digits in the figure; pixels at a time
LIKELIHOOD, MATCHING = "maximum likelihood", "score matching"
MODELS = [
    ("Gaussian", LIKELIHOOD, "linear"),
    *(
        (head, loss, context)
        for head, loss in (
            ("Gaussian", LIKELIHOOD), ("mixture", LIKELIHOOD), ("mixture", MATCHING), ("energy", MATCHING),
        )
        for context in ("MADE", "convolutional")
    ),
]  # fmt: skip


class Size(NamedTuple):
    """What a run costs.

    Attributes:
        steps: of training.
        batch: rows of each.
        width: of the hidden layers of MADE.
        channels: of the convolutions.
        layers: of them, after the first.
        features: of a pixel's context, for the head that is a perceptron.
        rows: test rows at most.
        samples: drawn from each model.
        points: of the grid.
    """

    steps: int
    batch: int
    width: int
    channels: int
    layers: int
    features: int
    rows: int
    samples: int
    points: int


FULL, SMOKE = Size(800, 64, 256, 24, 3, 16, 179, 200, 128), Size(3, 8, 16, 4, 3, 4, 10, 8, 32)


class Digits(NamedTuple):
    """Rows `[n, D]`: for training, without noise; for the test, without and with it; and its deviation."""

    train: Tensor
    clean: Tensor
    test: Tensor
    noise: float


def digits(count: int) -> Digits:
    """Return the library's digits, dequantised, with its split and its noise."""
    prepared = fastssm.data.prepare(fastssm.data.load("digits"))
    clean = prepared.scaler.scale(prepared.dataset.rows[prepared.test_index]).float()
    train, clean, test = (SCALE * (rows - 0.5) for rows in (prepared.train, clean, prepared.test))
    return Digits(train, clean[:count], test[:count], SCALE * prepared.noise)


class MaskedConv(nn.Conv2d):
    """A convolution that sees the pixels before the centre in the order of reading; the centre too, if it may."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, *, centre: bool) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        seen = torch.arange(size * size) < size * size // 2 + int(centre)
        self.register_buffer("mask", seen.float().view(size, size), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Return the masked convolution."""
        return functional.conv2d(h, self.weight * self.mask, self.bias, padding=self.padding)


class ConvContext(nn.Module):
    """Contexts `[B, D, C]` by masked convolutions, as in PixelCNN (van den Oord et al. 2016), with a bias per pixel."""

    def __init__(self, side: int, features: int, channels: int, layers: int) -> None:
        super().__init__()
        self.first = MaskedConv(1, channels, 7, centre=False)
        self.place = nn.Parameter(torch.zeros(channels, side, side))
        self.later = nn.ModuleList(MaskedConv(channels, channels, 3, centre=True) for _ in range(layers))
        self.last = nn.Conv2d(channels, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the contexts of rows `[B, D]`."""
        h = self.first(x.reshape(-1, 1, *self.place.shape[1:])) + self.place
        for layer in self.later:
            h = h + layer(functional.silu(h))
        out: Tensor = self.last(functional.silu(h))
        return out.flatten(2).transpose(1, 2)


class LinearContext(nn.Module):
    """Contexts of a multivariate Gaussian: a zero, the conditional mean, and the log of the conditional deviation."""

    mean: Tensor
    weight: Tensor
    log_deviation: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        root = torch.linalg.cholesky(covariance)
        deviation = root.diagonal()
        self.register_buffer("mean", mean)
        self.register_buffer("weight", -(deviation[:, None] * torch.linalg.inv(root)).tril(-1))
        self.register_buffer("log_deviation", deviation.log())

    def forward(self, x: Tensor) -> Tensor:
        """Return the contexts of rows `[B, D]`."""
        means = self.mean + (x - self.mean) @ self.weight.mT
        return torch.stack([torch.zeros_like(means), means, self.log_deviation.expand_as(means)], 2)


class Mixture(nn.Module):
    """The energy `-log p(y | c)` of a mixture of Gaussians: c has its logits, means and logs of deviations."""

    centres: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        apart = torch.linspace(-SCALE / 2, SCALE / 2, components + 2)[1:-1]  # one centre is at zero
        self.register_buffer("centres", apart, persistent=False)

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        """Return the energies `[N, 1]` of points `[N, 1]`."""
        logits, means, logs = c.chunk(3, 1)
        z = (y - means - self.centres) * (-logs).exp()
        parts = logits.log_softmax(1) - logs - 0.5 * z.square()
        return 0.5 * math.log(2 * math.pi) - parts.logsumexp(1, keepdim=True)


class Model(NamedTuple):
    """An autoregressive model."""

    context: nn.Module
    head: nn.Module


def model_of(head: str, context: str, data: Digits, size: Size) -> Model:
    """Return an untrained model; the linear one is that of the covariance of the training rows, with the noise."""
    if context == "linear":
        covariance = torch.cov(data.train.mT) + data.noise**2 * torch.eye(data.train.shape[1])
        return Model(LinearContext(data.train.mean(0), covariance), Mixture(1))
    components = 1 if head == "Gaussian" else COMPONENTS
    features = size.features if head == "energy" else 3 * components
    dim = data.train.shape[1]
    if context == "MADE":
        below: nn.Module = MADEContext(dim, features, [size.width] * 2)
    else:
        below = ConvContext(math.isqrt(dim), features, size.channels, size.layers)
    if head == "energy":
        return Model(below, MLP(1, [64, 64], activation="silu", residual=True, cond_dim=features))
    return Model(below, Mixture(components))


def loss_of(loss: str, model: Model, x: Tensor) -> Tensor:
    """Return the loss of a batch."""
    if loss == MATCHING:
        return fastssm.composite_loss(*model, x)
    energy: Tensor = model.head(x.reshape(-1, 1), model.context(x).flatten(0, 1))
    return energy.sum() / len(x)


def trained(model: Model, loss: str, data: Digits, size: Size) -> Model:
    """Train a model, each batch with noise of its own, and return the moving average of its weights."""
    nets = nn.ModuleList(model)
    if not list(nets.parameters()):
        return model
    mean = torch.optim.swa_utils.AveragedModel(nets, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimiser = torch.optim.Adam(nets.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, size.steps)
    for _ in range(size.steps):
        rows = data.train[torch.randint(len(data.train), (size.batch,))]
        value = loss_of(loss, model, rows + data.noise * torch.randn_like(rows))
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(nets.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(nets)
    return Model(*mean.module.requires_grad_(False))


def log_prob(model: Model, x: Tensor, at: Tensor) -> Tensor:
    """Return the logs of the conditional densities `[B, D]`, differentiable, with the constants by a sum on a grid.

    Args:
        model: the context net and the head.
        x: rows `[B, D]`.
        at: the points of the grid, equidistant, wide enough that the densities vanish at its ends.
    """
    contexts = model.context(x).flatten(0, 1)
    energy = model.head(x.reshape(-1, 1), contexts)[:, 0]
    on_grid = model.head(at.repeat(len(contexts))[:, None], contexts.repeat_interleave(len(at), 0))
    constant = (-on_grid.view(-1, len(at))).logsumexp(1) + (at[1] - at[0]).log()
    return -(energy + constant).view(x.shape)


def joint_score(model: Model, x: Tensor, at: Tensor) -> Tensor:
    """Return the gradient of `log p(x)` in all pixels: through their own densities and those of the pixels after."""
    found = []
    for rows in x.split(max(1, CHUNK // x.shape[1])):
        part = rows.detach().requires_grad_()
        found += torch.autograd.grad(log_prob(model, part, at).sum(), part)
    return torch.cat(found)


def conditional_score(model: Model, x: Tensor) -> Tensor:
    """Return the scores of the conditional densities, `d log p(x_d | x_<d) / dx_d`."""
    with torch.no_grad():
        contexts = model.context(x).flatten(0, 1)
        return fastssm.score(model.head, x.reshape(-1, 1), cond=contexts, kind="energy").view(x.shape)


class Result(NamedTuple):
    """What a model gave: the row of the file, some samples, and some denoised rows; pixels in `(0, 1)`."""

    row: dict[str, Any]
    drawn: Tensor
    denoised: Tensor


def pixels(rows: Tensor) -> Tensor:
    """Return the pixels of what the networks see."""
    return rows / SCALE + 0.5


def evaluated(model: Model, data: Digits, size: Size) -> Result:
    """Return likelihoods in nats per digit, the energy distance of samples, and the errors of denoising."""
    generator = Generator().manual_seed(0)
    end = SCALE / 2 + 6 * data.noise
    dim = data.train.shape[1]
    bounds = torch.tensor([[-end], [end]]).expand(2, dim)
    seen = data.train[: len(data.test)]
    seen = seen + data.noise * torch.randn(seen.shape, generator=generator)
    nats = [fastssm.composite_log_prob(*model, rows, bounds, points=size.points) for rows in (data.test, seen)]
    held, train = (float(each.mean()) + dim * math.log(SCALE) for each in nats)
    drawn = pixels(fastssm.composite_sample(*model, size.samples, bounds, points=size.points, generator=generator))
    joint = joint_score(model, data.test, torch.linspace(-end, end, size.points))
    clean = [data.test + data.noise**2 * s for s in (joint, conditional_score(model, data.test))]
    mse = [float((pixels(rows) - pixels(data.clean)).square().mean()) for rows in (data.test, *clean)]
    row = {"nats": f"{held:.3f}", "train_nats": f"{train:.3f}"}
    row |= {"energy_distance": f"{energy_distance(drawn, pixels(data.test)):.4f}"}
    row |= {f"mse_{name}": f"{each:.6f}" for name, each in zip(("noisy", "joint", "conditional"), mse, strict=True)}
    return Result(row, drawn[:SHOWN], pixels(clean[0][:SHOWN]))


def results(seed: int, data: Digits, size: Size, models: Sequence[tuple[str, str, str]] = MODELS) -> Iterator[Result]:
    """Yield what each model gave: its head, loss and context."""
    for head, loss, context in models:
        torch.manual_seed(seed)
        model = trained(model_of(head, context, data, size), loss, data, size)
        row: dict[str, Any] = {"seed": seed, "head": head, "loss": loss, "context": context, "D": data.train.shape[1]}
        row |= {"parameters": sum(p.numel() for net in model for p in net.parameters())}
        row |= {"steps": size.steps, "B": size.batch, "points": size.points}
        found = evaluated(model, data, size)
        found = found._replace(row=row | found.row)
        print(", ".join(f"{key} {cell}" for key, cell in found.row.items()), flush=True)
        yield found


def tiles(lines: list[Tensor]) -> Tensor:
    """Return one picture: each entry is a line of digits."""
    side = math.isqrt(lines[0].shape[1])
    padded = functional.pad(torch.stack(lines).view(len(lines), -1, side, side), (1, 1, 1, 1), value=0.5)
    return padded.permute(0, 2, 1, 3).flatten(0, 1).flatten(1)


def draw_figure(found: list[Result], data: Digits, out: Path) -> None:
    """Draw samples on the left, and what denoising makes of test rows on the right."""
    import matplotlib.pyplot as plt

    short = {LIKELIHOOD: "ML", MATCHING: "SM"}
    names = [f"{each.row['head']}, {short[each.row['loss']]}, {each.row['context']}" for each in found]
    test, clean = pixels(data.test[:SHOWN]), pixels(data.clean[:SHOWN])
    panels = {
        "samples": [("digits with noise", test), *zip(names, (each.drawn for each in found), strict=True)],
        "denoised": [("clean", clean), ("noisy", test), *zip(names, (each.denoised for each in found), strict=True)],
    }
    tall = math.isqrt(test.shape[1]) + 2
    figure, both = plt.subplots(1, 2, figsize=(11, 1.5 + 0.5 * len(found)), layout="constrained")
    for axes, (title, lines) in zip(both, panels.items(), strict=True):
        axes.imshow(tiles([line for _, line in lines]), cmap="gray_r", vmin=0, vmax=1, aspect="equal")
        axes.set_yticks([tall * (i + 0.5) for i in range(len(lines))], [name for name, _ in lines], fontsize=8)
        axes.set(title=title, xticks=[])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def run(chosen: Namespace, data: Digits, size: Size, results: Callable[[int, Digits, Size], Iterator[Result]]) -> None:
    """Write the rows of all seeds, and draw the figure of the first, where the options say so."""
    found, first = list[dict[str, Any]](), list[Result]()
    for seed in range(chosen.seeds):
        for result in results(seed, data, size):
            found.append(result.row)
            experiments.write(found, chosen.csv)
            first += [result] if seed == 0 else []
        if chosen.figure and seed == 0:
            draw_figure(first, data, chosen.figure)


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("autoregressive", "Digits pixel by pixel by composite score matching.", seeds=3)
    size = SMOKE if chosen.smoke else FULL
    run(chosen, digits(size.rows), size, results)


if __name__ == "__main__":
    main()
