"""Everything that decides what a training computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from fastssm.data import Categorical, Decimal, Header, Missing, ReadOptions
from fastssm.options import BackendName, NetworkKind
from fastssm.training.objectives import KINDS, LOSSES, OBJECTIVES


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training; two trainings with equal settings and equal data are equal bit for bit.

    Args:
        data: the name or path given to `fastssm.data.load`.
        kind: `"energy"` (`log p = -E + const`) or `"score"` (a network `R^D -> R^D`).
        loss: a name of `fastssm.training.OBJECTIVES`.
        projections: directions per row of the sliced loss.
        hidden: widths of the hidden layers.
        activation: a name of `fastssm.activations`.
        steps: optimiser steps of the whole schedule.
        batch: rows per step, over all ranks together.
        lr: peak learning rate of Adam; a warm-up of 2 % of the steps leads to it and a cosine from it to zero.
        clip: largest norm of the gradient.
        ema: decay of the running mean of the weights, which is what is evaluated and kept.
        evaluate_every: steps from one evaluation, metrics row and checkpoint to the next.
        patience: steps without a better validation loss after which the training stops.
        noise: deviation of the Gaussian noise on the scaled rows; None for the data set's own choice.
        scale: `"standardise"`, `"whiten"`, `"none"`; None for the data set's own choice.
        seed: of the initial weights, the batches and the directions. The data split does not depend on it.
        backend: which fastssm backend runs the loss.
        columns: columns of a file to train on, in this order; None for all.
        drop: columns of a file to leave out.
        header: whether the first row of a file holds names, or `"auto"`.
        decimal: the decimal sign of a file, or `"auto"`.
        missing: what to do with missing values, as in `fastssm.data.read_table`.
        categorical: what to do with columns of text, as in `fastssm.data.read_table`.
        stream: whether the rows of the file or folder are streamed, as in `fastssm.data.stream`, so that they need not
            fit into memory.

    Raises:
        ValueError: a value outside its range, naming it.
    """

    data: str
    kind: NetworkKind = "energy"
    loss: str = "sliced"
    projections: int = 1
    hidden: tuple[int, ...] = (128, 128, 128)
    activation: str = "softplus"
    steps: int = 6000
    batch: int = 256
    lr: float = 3e-3
    clip: float = 100.0
    ema: float = 0.999
    evaluate_every: int = 200
    patience: int = 2000
    noise: float | None = None
    scale: str | None = None
    seed: int = 0
    backend: BackendName = "auto"
    columns: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    header: Header = "auto"
    decimal: Decimal = "auto"
    missing: Missing = "refuse"
    categorical: Categorical = "refuse"
    stream: bool = False

    @property
    def reading(self) -> ReadOptions:
        """How to read the file."""
        return ReadOptions(**{field.name: getattr(self, field.name) for field in fields(ReadOptions)})

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        _one_of("kind", self.kind, KINDS)
        _one_of("loss", self.loss, LOSSES)
        _one_of(f"kind (with loss={self.loss})", self.kind, OBJECTIVES[self.loss].kinds)
        for name in ("projections", "steps", "batch", "evaluate_every", "patience"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            _require(name, value, 0 < value < math.inf, "positive and finite")
        _require("ema", self.ema, 0 <= self.ema < 1, "at least 0 and below 1")
        _require("hidden", self.hidden, all(width >= 1 for width in self.hidden), "widths of at least 1")
        _ = self.reading  # refuses wrong options
        _require("seed", self.seed, 0 <= self.seed < 2**63, "at least 0 and below 2**63")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ..., steps - 1."""
        warm_up = max(1, self.steps // 50)
        ramp = min(1.0, (step + 1) / warm_up)
        return self.lr * ramp * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def ema_at(self, step: int) -> float:
        """Return the decay of the weights' mean: small at first, so that the initial weights are soon forgotten."""
        return min(self.ema, (1 + step) / (10 + step))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Return one line for each setting that `other`, the settings of a checkpoint, has different."""
        pairs = [(field.name, getattr(self, field.name), other.get(field.name)) for field in fields(self)]
        return [f"{name} is {now!r}, the checkpoint has {then!r}" for name, now, then in pairs if now != then]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _require(name: str, value: object, holds: bool, requirement: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {requirement}, got {value}")
