"""Functions that follow a training, step by step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fastssm.training.trainer import Training


@dataclass(frozen=True)
class StepRecord:
    """What a callback learns after a step of the training.

    Args:
        step: number of steps taken.
        steps: number of steps of the whole schedule.
        loss: the loss of the batch, before the step.
        lr: the learning rate of the step.
        seconds: time of all steps and evaluations so far.
        train_loss: mean loss of the batches since the last evaluation; None unless the step ends with an evaluation.
        validation_loss: loss of the averaged weights on the validation rows; None at the same steps.
    """

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    train_loss: float | None = None
    validation_loss: float | None = None


Callback = Callable[[StepRecord], object]
"""Called after every step, on the first process alone; what it returns is ignored."""


class CallbackError(RuntimeError):
    """A callback raised an error; the message names the callback, the step and the line."""


def follow(callbacks: Sequence[Callback], training: Training, loss: Tensor, row: dict[str, Any] | None) -> None:
    """Call every callback after a step.

    Raises:
        CallbackError: if one of them fails.
    """
    if not callbacks:
        return
    losses = {} if row is None else {name: row[name] for name in ("train_loss", "validation_loss")}
    lr = training.config.lr_at(training.step - 1)
    record = StepRecord(training.step, training.config.steps, loss.item(), lr, training.seconds, **losses)
    for callback in callbacks:
        try:
            callback(record)
        except Exception as error:
            raise CallbackError(
                f"the callback {name_of(callback)} failed at step {record.step}: {type(error).__name__}: {error} "
                f"({_place(error)})"
            ) from error


def name_of(callback: Callback) -> str:
    """Return where a callback is defined, such as `module:function`."""
    named = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{named.__module__}:{named.__qualname__}"


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"
