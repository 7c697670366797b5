"""Callbacks of a training: what they are told, how their errors are reported, and the loggers among them."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fastssm import training
from fastssm.cli import main
from fastssm.training import CallbackError, StepRecord, TensorBoard, TrainConfig, WandB, checkpoint, fit
from tests.test_training import ALONE, Recorder

CONFIG = TrainConfig("moons", hidden=(8,), steps=6, batch=16, evaluate_every=3)
OPTIONS = ["--hidden", "8", "--steps", "6", "--batch", "16", "--evaluate-every", "3"]


def run(folder: Path, *callbacks: Any, **options: Any) -> training.Outcome:
    return training.train(CONFIG, folder, ranks=ALONE, reporter=Recorder(), callbacks=callbacks, **options)


def test_every_step_is_told_once_and_changes_nothing(tmp_path: Path) -> None:
    records: list[StepRecord] = []
    outcome = run(tmp_path / "a", records.append)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    assert {record.steps for record in records} == {6}
    assert [record.lr for record in records] == [CONFIG.lr_at(step) for step in range(6)]
    assert [record.seconds for record in records] == sorted(record.seconds for record in records)
    for record in records:
        if record.step % 3:
            assert record.train_loss is record.validation_loss is None
        else:
            row = outcome.metrics[record.step // 3 - 1]
            assert (record.train_loss, record.validation_loss) == (row["train_loss"], row["validation_loss"])
            mean = sum(other.loss for other in records[record.step - 3 : record.step]) / 3
            assert record.train_loss == pytest.approx(mean)
    with pytest.raises(FrozenInstanceError):
        records[0].loss = 0.0  # type: ignore[misc]
    plain = run(tmp_path / "b")
    assert plain.test == outcome.test


def test_training_in_memory_tells_the_same(tmp_path: Path) -> None:
    records: list[StepRecord] = []
    again: list[StepRecord] = []
    fit(CONFIG, callbacks=[records.append])
    run(tmp_path, again.append)
    assert [(r.step, r.loss, r.validation_loss) for r in records] == [
        (r.step, r.loss, r.validation_loss) for r in again
    ]


def bad_at_four(record: StepRecord) -> None:
    if record.step == 4:
        raise KeyError("colour")


def test_an_error_names_the_callback_the_step_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(
        CallbackError,
        match=r"tests.test_following:bad_at_four failed at step 4: KeyError: 'colour' \(test_following.py, line \d+\)",
    ) as caught:
        run(tmp_path, bad_at_four)
    assert isinstance(caught.value.__cause__, KeyError)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 3
    assert run(tmp_path, resume=True).steps == 6
    with pytest.raises(CallbackError, match=r"tests.test_following:Bad failed at step 1: TypeError: "):
        fit(CONFIG, callbacks=[Bad()])


class Bad:
    def __call__(self) -> None:
        """Take no record."""


HOOKS = """
seen = []
watch = seen.append
number = 3
def breaks(record):
    raise RuntimeError("no more")
"""


def test_the_command_calls_a_function_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_hooks.py").write_text(HOOKS)
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    train = ["train", "moons", "--out", "out", "--overwrite", *OPTIONS]
    assert main([*train, "--callback", "own_hooks:watch"]) == 0
    assert [record.step for record in sys.modules["own_hooks"].seen] == [1, 2, 3, 4, 5, 6]
    for name, message in (
        (
            "own_hooks:breaks",
            "the callback own_hooks:breaks failed at step 1: RuntimeError: no more (own_hooks.py, line 6)",
        ),
        ("own_hooks:number", "--callback own_hooks:number must be a function of one StepRecord, got int"),
        ("own_hooks:absent", "--callback own_hooks:absent: module 'own_hooks' has no attribute 'absent'"),
        ("own_broken:f", "--callback own_broken:f: importing own_broken fails (ZeroDivisionError: division by zero)"),
        ("nowhere", "--callback must look like module:name, got 'nowhere'"),
    ):
        capsys.readouterr()
        assert main([*train, "--callback", name]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(("name", "blocked"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_logger_that_is_not_installed_is_said_before_anything_is_read(
    name: str, blocked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    assert main(["train", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out"), "--log", name]) == 2
    sentence = f"error: --log {name}: logging to {name} needs a package that is not installed (pip install {name})\n"
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "out").exists()


class Writer:
    """Stands in for the writer of TensorBoard."""

    made: ClassVar[list[Any]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.calls, self.closed = folder, purge_step, [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def add_text(self, name: str, text: str, step: int) -> None:
        assert "steps: 6" in text

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    Writer.made = []
    stand_in: Any = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    return Writer.made


def test_the_command_logs_to_tensorboard(writers: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["train", "moons", "--out", str(out), "--log", "tensorboard", *OPTIONS]) == 0
    (writer,) = writers
    result = json.loads((out / "result.json").read_text())
    rows = checkpoint.read_metrics(out)
    assert (writer.folder, writer.purge_step, writer.closed) == (str(out / "tensorboard"), 1, True)
    for row in rows:
        for name in ("train_loss", "validation_loss", "lr"):
            assert (name, row[name], row["step"]) in writer.calls
    for name in ("test_loss", "gaussian_test_loss"):
        assert (name, result[name], 6) in writer.calls
    assert len(writer.calls) == 2 * 4 + 4


def test_tensorboard_drops_what_a_resumed_training_repeats(writers: list[Any], tmp_path: Path) -> None:
    with pytest.raises(CallbackError):
        run(tmp_path, TensorBoard(tmp_path, CONFIG), bad_at_four)
    run(tmp_path, TensorBoard(tmp_path, CONFIG), resume=True)
    assert [writer.purge_step for writer in writers] == [1, 4]


def test_real_tensorboard_files_hold_the_losses(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path, CONFIG)
    outcome = run(tmp_path, logger)
    logger.close(outcome.summary())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("validation_loss")]
    expected = [(row["step"], pytest.approx(row["validation_loss"], rel=1e-6)) for row in outcome.metrics]
    assert found == expected


class Run:
    """Stands in for a run of Weights & Biases."""

    def __init__(self, **options: Any) -> None:
        self.options, self.rows, self.summary, self.codes = options, [], {}, []

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    made: list[Run] = []
    stand_in: Any = types.ModuleType("wandb")
    stand_in.init = lambda **options: made.append(Run(**options)) or made[-1]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return made


def test_the_command_logs_to_wandb(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert main(["train", "moons", "--out", str(out), "--log", "wandb", *OPTIONS]) == 0
    (found,) = runs
    assert (found.options["project"], found.options["name"], found.options["dir"]) == ("fastssm", "out", str(out))
    assert found.options["config"]["steps"] == 6
    assert [step for step, _ in found.rows] == [3, 6]
    assert found.rows[1][1]["validation_loss"] == checkpoint.read_metrics(out)[1]["validation_loss"]
    assert found.summary["test_loss"] == json.loads((out / "result.json").read_text())["test_loss"]
    assert found.codes == [0]
    monkeypatch.setattr(training.loop, "follow", _stop)
    assert main(["train", "moons", "--out", str(out), "--overwrite", "--log", "wandb", *OPTIONS]) == 2
    assert runs[1].codes == [1]


def _stop(callbacks: Any, state: Any, loss: Any, row: Any) -> None:
    callbacks[-1](StepRecord(1, 6, 0.0, 0.0, 0.0))
    raise CallbackError("stopped")


def test_real_wandb_runs_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandB(tmp_path / "out", CONFIG)
    outcome = run(tmp_path / "out", logger)
    logger.close(outcome.summary())
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb"))
