"""Score matching with and without a preconditioner for densities of growing condition number.

The coordinates are scaled so that their variances spread over the condition number. Scale: a normal density with ten
coordinates, known up to a factor. Chain: one whose precision has three diagonals, all unknown. Mixture: two modes in
four coordinates, with one known covariance and unknown weights and centres. Plain score matching, the same in the
metric of the sample covariance, and maximum likelihood fit each to 500 samples. The error is the divergence of the
fitted density from the true one, times the number of samples: that of maximum likelihood tends to half the number of
parameters.

Run `python -m experiments.preconditioned`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import fastssm
from bench import experiments

COLUMNS, MIXED, SAMPLES, TEST, WEIGHT = 10, 4, 500, 100_000, 0.7
FULL, SMOKE = (1.0, 1e1, 1e2, 1e3, 1e4), (1e2,)
DTYPE = torch.float64


def scales(condition: float, dim: int) -> Tensor:
    """Return deviations whose squares spread over the condition number, in an order that mixes large and small."""
    spread = torch.linspace(-0.25, 0.25, dim, dtype=DTYPE) * math.log(condition)
    return spread.exp()[torch.arange(dim).view(2, -1).mT.flatten()]


class Normal(nn.Module):
    """A normal density, its precision by the factor of Cholesky in units of the scales."""

    def __init__(self, condition: float) -> None:
        super().__init__()
        self.scale = scales(condition, COLUMNS)

    def factor(self) -> Tensor:
        """Return the factor L of the precision `S^-1 L L^T S^-1`."""
        raise NotImplementedError

    def precision(self) -> Tensor:
        """Return the matrix."""
        root = self.factor() / self.scale[:, None]
        return root @ root.mT

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        return 0.5 * (x @ self.precision() * x).sum(1)

    def samples(self, count: int, generator: Generator) -> Tensor:
        """Draw points."""
        z = torch.randn(count, COLUMNS, generator=generator, dtype=DTYPE)
        return torch.linalg.solve_triangular(self.factor().mT, z.mT, upper=True).mT * self.scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density."""
        constant = 0.5 * COLUMNS * math.log(2 * math.pi) + self.scale.log().sum()
        return self.factor().diagonal().log().sum() - constant - self(x)


class Chain(Normal):
    """A precision of which only the diagonals next to the main one are not zero."""

    def __init__(self, condition: float, true: bool = False) -> None:
        super().__init__(condition)
        beside = torch.full((COLUMNS - 1,), -0.45 if true else 0.0, dtype=DTYPE)
        matrix = torch.eye(COLUMNS, dtype=DTYPE) + torch.diag(beside, -1) + torch.diag(beside, 1)
        root = torch.linalg.cholesky(matrix)
        self.logs, self.beside = nn.Parameter(root.diagonal().log()), nn.Parameter(root.diagonal(-1).clone())

    def factor(self) -> Tensor:
        """Return a factor with two diagonals."""
        return torch.diag(self.logs.exp()) + torch.diag(self.beside, -1)


class Scale(Normal):
    """A precision that is known up to a factor."""

    def __init__(self, condition: float, true: bool = False) -> None:
        super().__init__(condition)
        self.log = nn.Parameter(torch.tensor(0.0 if true else 0.5, dtype=DTYPE))

    def factor(self) -> Tensor:
        """Return a multiple of the identity."""
        return self.log.exp() * torch.eye(COLUMNS, dtype=DTYPE)


class Mixture(nn.Module):
    """Two normal densities with one covariance; their centres are in units of the scales."""

    def __init__(self, condition: float, true: bool = False) -> None:
        super().__init__()
        self.scale = scales(condition, MIXED)
        centre = torch.full((MIXED,), 1.2, dtype=DTYPE)
        self.centres = nn.Parameter(torch.stack([-centre, centre]))
        self.logit = nn.Parameter(torch.tensor(math.log(WEIGHT / (1 - WEIGHT)) if true else 0.0, dtype=DTYPE))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density."""
        logs = nn.functional.logsigmoid(torch.stack([self.logit, -self.logit]))
        square = (x[:, None] / self.scale - self.centres).square().sum(2)
        constant = 0.5 * MIXED * math.log(2 * math.pi) + self.scale.log().sum()
        return torch.logsumexp(logs - 0.5 * square, 1) - constant

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        return -self.log_prob(x)

    def samples(self, count: int, generator: Generator) -> Tensor:
        """Draw points."""
        second = torch.rand(count, generator=generator, dtype=DTYPE) > WEIGHT
        noise = torch.randn(count, MIXED, generator=generator, dtype=DTYPE)
        return self.scale * (self.centres[second.long()] + noise)


Density = Normal | Mixture
Make = Callable[..., Density]
MODELS: dict[str, Make] = {"scale": Scale, "chain": Chain, "mixture": Mixture}


def losses(x: Tensor) -> dict[str, Callable[[Density], Tensor]]:
    """Return the losses of a sample."""
    return {
        "plain": lambda model: fastssm.exact_loss(model, x),
        "preconditioned": partial(fastssm.preconditioned_loss, x=x, precond=torch.cov(x.mT), exact=True),
        "maximum likelihood": lambda model: -model.log_prob(x).mean(),
    }


def minimised(model: Density, loss: Callable[[Density], Tensor]) -> None:
    """Fit a model, with the loss in units of its first value."""
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    unit = max(1.0, abs(float(loss(model).detach())))

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(model) / unit
        value.backward()
        return value

    optimiser.step(closure)


def divergence(true: Density, model: Density, test: Tensor) -> float:
    """Return the divergence of a fitted density from the true one, exact for normal ones."""
    if isinstance(true, Normal) and isinstance(model, Normal):
        root = torch.linalg.solve_triangular(true.factor(), model.factor(), upper=False)  # in units of the scales
        return float(0.5 * (root.square().sum() - COLUMNS) - root.diagonal().log().sum())
    return float((true.log_prob(test) - model.log_prob(test)).mean())


def rows(seeds: int, conditions: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, model, condition number and loss."""
    for seed in range(seeds):
        for name, make in MODELS.items():
            for condition in conditions:
                generator, true = Generator().manual_seed(seed), make(condition, true=True)
                with torch.no_grad():
                    x, test = true.samples(SAMPLES, generator), true.samples(TEST, generator)
                for how, loss in losses(x).items():
                    model = make(condition)
                    minimised(model, loss)
                    with torch.no_grad():
                        error = divergence(true, model, test) * SAMPLES
                    row = {"seed": seed, "model": name, "D": x.shape[1], "n": SAMPLES, "condition": f"{condition:g}"}
                    row |= {"loss": how, "dtype": "float64", "error": f"{error:.4f}"}
                    print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the errors and the numbers of evaluations against the condition number."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6))
    for panel, name in zip(panels, MODELS, strict=True):
        mine = [row for row in found if row["model"] == name]
        for how in dict.fromkeys(row["loss"] for row in mine):
            places = sorted({float(row["condition"]) for row in mine})
            groups = [
                [float(r["error"]) for r in mine if r["loss"] == how and float(r["condition"]) == p] for p in places
            ]
            means = [sum(group) / len(group) for group in groups]
            bars = [torch.tensor(g).std().item() / math.sqrt(len(g)) if len(g) > 1 else 0.0 for g in groups]
            panel.errorbar(places, means, bars, fmt="o-", capsize=2, label=how)
        panel.set(xscale="log", yscale="log", xlabel="condition number", title=name)
    panels[0].set_ylabel("n times the divergence (nats)")
    panels[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "preconditioned",
        "Score matching in a metric against the condition number.",
        lambda seeds, smoke: rows(seeds, SMOKE if smoke else FULL),
        draw_figure,
        seeds=5,
    )


if __name__ == "__main__":
    main()
