"""The main job: from settings to a trained network, its test loss, and the files that let a killed run go on."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fastssm.data import Prepared, load, prepare
from fastssm.training import checkpoint
from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks
from fastssm.training.evaluate import Mean, Measure
from fastssm.training.trainer import Training

RESULT = "result.json"


class Reporter(Protocol):
    """Is told how the training goes; rank 0 alone calls it."""

    def message(self, text: str) -> None:
        """Learn something that the user should read."""

    def step(self, step: int, loss: Tensor) -> None:
        """Learn that `step` steps are done, and the loss (on the device) of the last one."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """Learn of a new row of the metrics."""


@dataclass(frozen=True)
class Outcome:
    """What a finished training hands back.

    Args:
        config: the settings.
        prepared: the data as the network saw it.
        net: the network with the best weights, or what its objective makes of it for evaluation.
        measure: what the following losses are.
        test: that of the network on the test rows.
        baseline: the loss of the fitted Gaussian on the same rows.
        validation: the best validation loss.
        best_step: when it was reached.
        steps: how many were taken.
        seconds: spent in them, evaluations included, over all resumed parts.
        ending: why the training stopped.
        folder: where checkpoint, metrics and result lie.
        metrics: one row per evaluation: step, losses, learning rate and seconds.
    """

    config: TrainConfig
    prepared: Prepared
    net: nn.Module
    measure: Measure
    test: Mean
    baseline: Mean
    validation: float
    best_step: int
    steps: int
    seconds: float
    ending: str
    folder: Path
    metrics: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return the numbers and the settings as JSON would hold them."""
        return {
            "data": self.prepared.dataset.name,
            "rows": {name: len(getattr(self.prepared, name)) for name in ("train", "validation", "test")},
            "features": self.prepared.train.shape[1],
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "measure": self.measure.name,
            "test_loss": self.test.value,
            "test_loss_standard_error": self.test.error,
            "gaussian_test_loss": self.baseline.value,
            "validation_loss": self.validation,
            "best_step": self.best_step,
            "steps": self.steps,
            "ending": self.ending,
            "seconds": round(self.seconds, 3),
            "config": vars(self.config),
            "folder": str(self.folder),
        }


def train(
    config: TrainConfig,
    folder: Path,
    *,
    ranks: Ranks,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Train on a data set and measure the exact score matching loss of the test rows.

    `loss(theta) = E[ v^T J v + |s|^2 / 2 ]` over rows and directions, `J = ds/dx`, by Adam; the weights are averaged,
    and those with the best exact loss on the validation rows are kept.

    Args:
        config: the settings.
        folder: where `checkpoint.pt`, `metrics.jsonl` and `result.json` are written; made if it does not exist.
        ranks: this process among its equals, from `fastssm.training.join`.
        reporter: is told about progress.
        resume: continue from the checkpoint in `folder` if there is one, bit for bit.
        overwrite: start anew even though `folder` holds an unfinished training.

    Returns:
        The trained network and its figures.

    Raises:
        ValueError: unusable data or settings, a checkpoint of other settings, or an unfinished training in the way.
        DivergedError: the loss became infinite or not a number.
        KeyboardInterrupt: a signal came; the checkpoint is written.
    """
    prepared = prepare(load(config.data), scale=config.scale, noise=config.noise)
    training = Training(config, prepared, ranks)
    state = ranks.broadcast(checkpoint.load(folder) if ranks.first else None)
    if resume and state is not None:
        training.restore(state)
    elif state is not None and not state["ending"] and not overwrite:
        raise ValueError(
            f"{folder} holds a training that was stopped at step {state['step']} of {state['config']['steps']}; "
            "continue it with --resume, replace it with --overwrite, or choose another --out"
        )
    if ranks.first:
        _open(folder, training)
        for text in _openings(training, resume, state is not None):
            reporter.message(text)
    _run(training, folder, reporter)
    return _finish(training, folder)


def _open(folder: Path, training: Training) -> None:
    """Leave in `folder` just what belongs to the training at its present step, in an order that a kill cannot spoil."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    checkpoint.save(folder, training.state())
    checkpoint.truncate_metrics(folder, training.step)


def _openings(training: Training, resume: bool, found: bool) -> Iterator[str]:
    if training.ending:
        yield f"already finished at step {training.step}: {training.ending}"
    elif resume and found:
        yield f"resumed at step {training.step} of {training.config.steps}"
    elif resume:
        yield "no checkpoint to resume: starting at step 0"


def _run(training: Training, folder: Path, reporter: Reporter) -> None:
    with _stop_signal() as stopped:
        while not training.ending:
            began = time.perf_counter()
            loss = training.advance()
            row = training.evaluate() if training.evaluation_is_due() else None
            training.seconds += time.perf_counter() - began
            if training.ranks.first:
                reporter.step(training.step, loss)
                if row is not None:
                    checkpoint.append_metrics(folder, {**row, "seconds": round(training.seconds, 3)})
                    reporter.evaluation(row)
                if row is not None or stopped.is_set():
                    checkpoint.save(folder, training.state())
            if stopped.is_set():
                raise KeyboardInterrupt(
                    f"the checkpoint of step {training.step} is in {folder}; --resume goes on from it"
                )


def _finish(training: Training, folder: Path) -> Outcome:
    config, prepared, ranks = training.config, training.prepared, training.ranks
    net, measure = training.evaluated(training.best_net()), training.objective.measure
    outcome = Outcome(
        config=config,
        prepared=prepared,
        net=net,
        measure=measure,
        test=measure.mean(net, prepared.test.to(ranks.device), config.kind, config.backend, ranks),
        baseline=measure.baseline(prepared.train, prepared.noise, prepared.test),
        validation=training.best["loss"],
        best_step=training.best["step"],
        steps=training.step,
        seconds=training.seconds,
        ending=training.ending,
        folder=folder,
        metrics=checkpoint.read_metrics(folder) if ranks.first else [],
    )
    if ranks.first:
        text = json.dumps(outcome.summary(), indent=2)
        checkpoint.write_atomically(folder / RESULT, lambda file: file.write(text.encode()))
    return outcome


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, so that a step is never cut in half; the second one kills."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, note)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
