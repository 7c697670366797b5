"""Train a network, measure its test loss, and write checkpoints to resume from."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastssm.data import Prepared, list_names, load, prepare, stream
from fastssm.text import counted
from fastssm.training import checkpoint, model_files
from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks
from fastssm.training.evaluate import Mean, Measure
from fastssm.training.following import Callback, follow
from fastssm.training.model import Model
from fastssm.training.trainer import Training

RESULT = "result.json"
FLOW_ROWS = 200  # held-out rows of a score network, whose log density takes a probability flow


class Reporter(Protocol):
    """Reports the progress of training; only rank 0 calls it."""

    def message(self, text: str) -> None:
        """Report a message to the user."""

    def step(self, step: int, loss: Tensor | float) -> None:
        """Report that `step` steps are done, with the loss (on the device) of the last one."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """Report a new row of the metrics."""


@dataclass(frozen=True)
class Outcome:
    """Result of a finished run.

    Args:
        config: the settings.
        prepared: the prepared data.
        net: the network with the best weights, in the form that its objective evaluates.
        measure: the loss of the following values.
        test: loss of the network on the test rows.
        baseline: loss of the fitted Gaussian on the test rows.
        validation: the best validation loss.
        best_step: step of the best validation loss.
        steps: number of steps taken.
        seconds: time of all steps and evaluations, summed over resumed runs.
        ending: why training stopped.
        folder: folder of the checkpoint, metrics and result.
        metrics: one row per evaluation, with step, losses, learning rate and seconds.
        model: the trained model, in data units.
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
    model: Model

    @property
    def beats_gaussian(self) -> bool:
        """Return whether the network's test loss is below that of the fitted Gaussian."""
        return self.test.value < self.baseline.value

    def summary(self) -> dict[str, Any]:
        """Return the results and the settings as a dictionary for JSON."""
        return {
            "data": self.prepared.dataset.name,
            "rows": {name: len(getattr(self.prepared, name)) for name in ("train", "validation", "test")},
            "features": self.prepared.train.shape[1],
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "measure": self.measure.name,
            "test_loss": self.test.value,
            "test_loss_standard_error": self.test.error,
            "gaussian_test_loss": self.baseline.value,
            "beats_gaussian": self.beats_gaussian,
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
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Train on a data set and measure the exact score matching loss on the test rows.

    `loss(theta) = E[ v^T J v + |s|^2 / 2 ]` over rows and directions, `J = ds/dx`, minimised by Adam. The weights
    are averaged, and those with the best exact loss on the validation rows are kept.

    Args:
        config: the settings.
        folder: output folder for `checkpoint.pt`, `metrics.jsonl`, `result.json` and the model, `model.safetensors` and
            `model.json`; created if necessary.
        ranks: the rank of this process, from `fastssm.training.join`.
        reporter: reports the progress.
        callbacks: functions that are called with a `StepRecord` after every step, on the first process alone, such as
            `TensorBoard` and `WandB` of this package.
        resume: continue from the checkpoint in `folder` if it exists; the result is bitwise the same.
        overwrite: start over even if `folder` contains an unfinished run.

    Returns:
        The trained network and its results.

    Raises:
        ValueError: if data or settings are invalid, the checkpoint has other settings, or `folder` contains an
            unfinished run.
        DivergedError: if the loss becomes NaN or infinite.
        CallbackError: if a callback fails.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the checkpoint is written.
    """
    training = Training(config, prepared_data(config, folder), ranks)
    prepared = training.prepared
    state = ranks.broadcast(checkpoint.load(folder) if ranks.first else None)
    if resume and state is not None:
        training.restore(state)
    elif state is not None and not state["ending"] and not overwrite:
        raise ValueError(
            f"{folder} contains a run that stopped at step {state['step']} of {state['config']['steps']}; "
            "continue it with --resume, replace it with --overwrite, or choose another --out"
        )
    if ranks.first:
        _start(folder, training)
        for message in (*data_messages(prepared), *_start_messages(training, resume, state is not None)):
            reporter.message(message)
    _run(training, folder, reporter, callbacks)
    return _finish(training, folder)


def prepared_data(config: TrainConfig, folder: Path | None = None) -> Prepared:
    """Return the prepared data that a configuration names; streamed rows lie in files in `folder`.

    Raises:
        ValueError: as `fastssm.data.load` and `fastssm.data.prepare`, or `fastssm.data.stream`.
    """
    if config.stream:
        return stream(config.data, config.reading, folder=folder, scale=config.scale, noise=config.noise)
    return prepare(load(config.data, config.reading), scale=config.scale, noise=config.noise)


def _start(folder: Path, training: Training) -> None:
    """Make `folder` consistent with the current step, in an order that is safe if the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    model_files.remove(folder)
    checkpoint.save(folder, training.state())
    checkpoint.truncate_metrics(folder, training.step)


def data_messages(prepared: Prepared) -> Iterator[str]:
    """Yield what was read, which columns are trained on, and what is wrong with them."""
    dataset = prepared.dataset
    yield from (f"note: {note}" for note in dataset.notes)
    yield f"training on {counted(len(dataset.columns), 'column')}: {list_names(dataset.columns)}"
    yield from (f"warning: {warning}" for warning in prepared.warnings)


def _start_messages(training: Training, resume: bool, found: bool) -> Iterator[str]:
    if training.ending:
        yield f"already finished at step {training.step}: {training.ending}"
    elif resume and found:
        yield f"resumed at step {training.step} of {training.config.steps}"
    elif resume:
        yield "no checkpoint to resume; starting at step 0"


def _run(training: Training, folder: Path, reporter: Reporter, callbacks: Sequence[Callback]) -> None:
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
                follow(callbacks, training, loss, row)
            if stopped.is_set():
                raise KeyboardInterrupt(
                    f"the checkpoint of step {training.step} is in {folder}; continue with --resume"
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
        baseline=measure.baseline(training.facts, prepared.test),
        validation=training.best["loss"],
        best_step=training.best["step"],
        steps=training.step,
        seconds=training.seconds,
        ending=training.ending,
        folder=folder,
        metrics=checkpoint.read_metrics(folder) if ranks.first else [],
        model=trained_model(training),
    )
    if ranks.first:
        text = json.dumps(outcome.summary(), indent=2)
        outcome.model.info["result"] = json.loads(text)
        model_files.save(outcome.model, folder)
        checkpoint.write_atomically(folder / RESULT, lambda file: file.write(text.encode()))
    return outcome


def fit(
    config: TrainConfig,
    prepared: Prepared | None = None,
    ranks: Ranks | None = None,
    callbacks: Sequence[Callback] = (),
) -> Model:
    """Train in memory, without a folder and without reports; `save` writes the model.

    Args:
        config: the settings.
        prepared: the prepared data; those that `config` names if None.
        ranks: the rank and device of this process; one process on the CPU if None.
        callbacks: functions that are called with a `StepRecord` after every step, on the first process alone.

    Returns:
        The model with the best weights.

    Raises:
        ValueError: if data or settings are invalid.
        DivergedError: if the loss becomes NaN or infinite.
        CallbackError: if a callback fails.

    Example:
        >>> fit(TrainConfig("moons", steps=10, hidden=(16,))).sample(5, steps=20).shape
        (5, 2)
    """
    if prepared is None:
        prepared = prepared_data(config)
    training = Training(config, prepared, ranks or Ranks(torch.device("cpu")))
    while not training.ending:
        began = time.perf_counter()
        loss = training.advance()
        row = training.evaluate() if training.evaluation_is_due() else None
        training.seconds += time.perf_counter() - began
        if training.ranks.first:
            follow(callbacks, training, loss, row)
    return trained_model(training)


def trained_model(training: Training) -> Model:
    """Return the model with the best weights, which knows the energies of the test rows."""
    prepared, dataset = training.prepared, training.prepared.dataset
    info = {
        "device": str(training.ranks.device),
        "data": {"name": dataset.name, "rows": len(dataset.rows), "fingerprint": training.fingerprint},
    }
    net = training.best_net()
    model = Model(net, training.config, training.facts, prepared.scaler, dataset.columns, None, info, dataset.schema)
    if model.kind == "energy" or model.normalised:
        held_out = dataset.original[prepared.test_index if model.kind == "energy" else prepared.test_index[:FLOW_ROWS]]
        try:
            found = model.unlikeliness(held_out).clamp(max=torch.finfo(torch.float64).max)
            model.held_out = found.sort().values
        except ValueError as error:  # of a row whose energy is no number: the run is not lost for that
            model.info["anomaly"] = f"not available: {error}"
    return model


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Set an event on the first SIGINT or SIGTERM, so that the current step completes; the second signal kills."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
