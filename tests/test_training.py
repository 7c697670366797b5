"""The training loop: what it reports, and that stopping, killing and resuming change nothing."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastssm import training
from fastssm.data import load, prepare
from fastssm.training import Ranks, TrainConfig, Training, checkpoint

ALONE = Ranks(torch.device("cpu"))


COLUMNS = "training on 3 columns: column 1, column 2, column 3"


class Recorder:
    """Keeps what it is told, and calls `at_step` at every step."""

    def __init__(self, at_step: Any = None) -> None:
        self.messages: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.at_step = at_step

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, step: int, loss: Tensor) -> None:
        if self.at_step is not None:
            self.at_step(step)

    def evaluation(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    generator = np.random.default_rng(0)
    rows = np.tanh(generator.normal(size=(300, 3))) @ generator.normal(size=(3, 3))
    path = tmp_path_factory.mktemp("data") / "table.csv"
    np.savetxt(path, rows, delimiter=",")
    return str(path)


@pytest.fixture
def config(table: str) -> TrainConfig:
    return TrainConfig(table, hidden=(16, 16), steps=40, batch=16, evaluate_every=10, lr=1e-2, noise=0.1)


def run(config: TrainConfig, folder: Path, recorder: Recorder | None = None, **options: Any) -> training.Outcome:
    return training.train(config, folder, ranks=ALONE, reporter=recorder or Recorder(), **options)


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in checkpoint.read_metrics(folder)]


def assert_same_state(first: Path, second: Path) -> None:
    """Compare every tensor and number of two checkpoints bit for bit, and their metrics; times may differ."""
    a, b = (checkpoint.load(folder) for folder in (first, second))
    assert a is not None
    assert b is not None
    del a["seconds"], b["seconds"]
    _assert_same(a, b)
    assert untimed(first) == untimed(second)


def _assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            _assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize(
    ("loss", "kind"), [(loss, kind) for loss, row in training.OBJECTIVES.items() for kind in row.kinds]
)
def test_training_beats_its_beginning(config: TrainConfig, tmp_path: Path, kind: str, loss: str) -> None:
    config = replace(config, kind=kind, loss=loss, steps=150, evaluate_every=50)
    outcome = run(config, tmp_path)
    beginning = Training(config, outcome.prepared, ALONE)
    net = beginning.evaluated(beginning.net)
    initial = training.OBJECTIVES[loss].measure.mean(net, outcome.prepared.test, kind, "auto", ALONE)
    assert outcome.test.value < initial.value - 0.1
    assert outcome.steps == 150
    assert [row["step"] for row in outcome.metrics] == [50, 100, 150]
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(outcome.summary()))


def test_two_trainings_are_equal_and_another_seed_is_not(config: TrainConfig, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name in ("a", "b"):
        run(config, tmp_path / name)
        torch.randn(7)
    assert_same_state(tmp_path / "a", tmp_path / "b")
    torch.random.set_rng_state(state)
    other = run(replace(config, seed=1), tmp_path / "c")
    assert other.test.value != run(config, tmp_path / "a").test.value
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("stop", [1, 10, 17, 39])
def test_interrupted_training_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path, stop: int) -> None:
    whole = run(config, tmp_path / "whole")
    interrupt = Recorder(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == stop else None)
    with pytest.raises(KeyboardInterrupt, match=f"checkpoint of step {stop} "):
        run(config, tmp_path / "parts", interrupt)
    recorder = Recorder()
    resumed = run(config, tmp_path / "parts", recorder, resume=True)
    assert recorder.messages == [COLUMNS, f"resumed at step {stop} of 40"]
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    assert resumed.test == whole.test


@pytest.mark.slow
def test_killed_training_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, steps=400, evaluate_every=2, patience=400)
    run(config, tmp_path / "whole")
    script = f"""
import torch
from fastssm import training
from tests.test_training import Recorder
training.train(training.{config!r}, __import__("pathlib").Path({str(tmp_path / "parts")!r}),
    ranks=training.Ranks(torch.device("cpu")), reporter=Recorder(), resume=True)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    resumed_at = []
    for rows in (1, 60):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=tmp_path)
        deadline = time.monotonic() + 60
        while len(checkpoint.read_metrics(tmp_path / "parts")) < rows and time.monotonic() < deadline:
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        state = checkpoint.load(tmp_path / "parts")
        assert state is not None
        resumed_at.append(state["step"])
    assert resumed_at[0] < resumed_at[1] < 400
    run(config, tmp_path / "parts", resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_torn_metrics_and_left_over_files_are_mended(config: TrainConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(
            config,
            tmp_path / "parts",
            Recorder(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 25 else None),
        )
    checkpoint.append_metrics(tmp_path / "parts", {"step": 30, "train_loss": 0.0})
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "tra')
    (tmp_path / "parts" / ".checkpoint.pt.partial").write_bytes(b"half")
    run(config, tmp_path / "parts", resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"config": {}, "fingerprint": "", "step": 1, "best": {}, "ending": ""})

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(tmp_path / checkpoint.CHECKPOINT, fail)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_resume_with_nothing_to_resume_starts(config: TrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    run(config, tmp_path, recorder, resume=True)
    assert recorder.messages == [COLUMNS, "no checkpoint to resume; starting at step 0"]


def test_resume_of_a_finished_training_says_so(config: TrainConfig, tmp_path: Path) -> None:
    first = run(config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    recorder = Recorder(lambda step: pytest.fail("a finished training took a step"))
    again = run(config, tmp_path, recorder, resume=True)
    assert recorder.messages == [COLUMNS, "already finished at step 40: all steps done"]
    assert again.test == first.test
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"steps": 80}, {"lr": 1e-3}, {"hidden": (16, 8)}, {"seed": 1}, {"kind": "score"}, {"noise": None}]
)
def test_resume_refuses_other_settings(config: TrainConfig, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, Recorder(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"{name} is") as error:
        run(replace(config, **change), tmp_path, resume=True)
    assert f"{name} is {value!r}, the checkpoint has {getattr(config, name)!r}" in str(error.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resume_refuses_other_data(config: TrainConfig, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_text(Path(config.data).read_text())
    config = replace(config, data=str(copy))
    run(config, tmp_path / "out")
    lines = copy.read_text().splitlines()
    copy.write_text("\n".join([*lines[:-1], "1,2,3"]) + "\n")
    with pytest.raises(ValueError, match="rows of the data differ from those"):
        run(config, tmp_path / "out", resume=True)


def test_unfinished_training_is_not_overwritten_by_accident(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, Recorder(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None))
    with pytest.raises(ValueError, match="contains a run that stopped at step 5 of 40; continue it with --resume"):
        run(config, tmp_path)
    assert run(config, tmp_path, overwrite=True).steps == 40
    assert run(config, tmp_path).steps == 40


def test_unreadable_checkpoints_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        run(config, tmp_path, resume=True)
    torch.save({"format": 99}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        run(config, tmp_path, resume=True)


DAMAGE: list[tuple[Any, str]] = [
    (lambda state: state.pop("config"), "is not a checkpoint of this version"),
    (lambda state: state.update(step="3"), "is not a checkpoint of this version"),
    (lambda state: state.update(ending=None), "is not a checkpoint of this version"),
    (lambda state: state.pop("net"), "the checkpoint is damaged (KeyError: 'net')"),
    (lambda state: state.update(net={}), "the checkpoint is damaged (RuntimeError: Missing key"),
    (lambda state: state["net"].update({"hidden.0.weight": torch.zeros(2, 2)}), "(RuntimeError: size mismatch"),
    (lambda state: state["best"].update(weights=3), "the checkpoint is damaged (TypeError: "),
    (lambda state: state["best"].update(step="x"), "the checkpoint is damaged (TypeError: step is no number)"),
    (lambda state: state.update(optimizer={"state": 1}), "the checkpoint is damaged (KeyError: "),
    (lambda state: state.update(generator=torch.zeros(3)), "the checkpoint is damaged (TypeError: "),
]


def test_damaged_checkpoints_and_metrics_end_in_a_sentence(config: TrainConfig, tmp_path: Path, subtests: Any) -> None:
    config = replace(config, steps=10)
    run(config, tmp_path)
    whole = checkpoint.load(tmp_path)
    assert whole is not None
    for change, message in DAMAGE:
        with subtests.test(message):
            state = copy.deepcopy(whole)
            change(state)
            checkpoint.save(tmp_path, state)
            with pytest.raises(ValueError, match=re.escape(message)) as error:
                run(config, tmp_path, resume=True)
            assert "\n" not in str(error.value)
    checkpoint.save(tmp_path, whole)
    for text in ("{\n", "[1]\n", "3\n", '{"step": "x"}\n', "{}\n", "[" * 100_000 + "\n", "\xff\n"):
        (tmp_path / "metrics.jsonl").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"metrics\.jsonl is not readable; remove it, or choose another --out"):
            run(config, tmp_path, resume=True)


def test_early_stopping_keeps_the_best_weights(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, steps=2000, evaluate_every=20, patience=60, lr=0.1, ema=0.0)
    outcome = run(config, tmp_path)
    assert outcome.ending == "no better validation loss for 60 steps"
    assert outcome.steps == outcome.best_step + 60
    rows = outcome.prepared.validation
    assert training.EXACT.mean(outcome.net, rows, "energy", "auto", ALONE).value == outcome.validation
    assert outcome.validation == min(row["validation_loss"] for row in outcome.metrics)


def test_infinite_loss_stops_with_advice(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(training.DivergedError, match=r"must be finite, got nan .* lower --lr"):
        run(replace(config, lr=1e30, clip=1e30), tmp_path)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert all(value.isfinite().all() for value in state["net"].values())


def test_schedule_warms_up_and_falls_to_zero(config: TrainConfig) -> None:
    config = replace(config, steps=1000, lr=1.0)
    rates = [config.lr_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == pytest.approx(1.0, abs=2e-3)
    assert rates.index(max(rates)) == 19
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_mean_weights_follow_the_weights(config: TrainConfig) -> None:
    trained = Training(replace(config, ema=0.5), prepare(load(config.data)), ALONE)
    expected = [p.detach().clone() for p in trained.net.parameters()]
    for step in range(3):
        trained.advance()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [
            decay * e + (1 - decay) * p.detach() for e, p in zip(expected, trained.net.parameters(), strict=True)
        ]
    for mean, e in zip(trained.mean_net.parameters(), expected, strict=True):
        torch.testing.assert_close(mean, e)


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "flow"}, "kind must be one of energy, score, got 'flow'"),
    ({"loss": "mse"}, "loss must be one of sliced, exact"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"batch": -1}, "batch must be at least 1"),
    ({"projections": 0}, "projections must be at least 1"),
    ({"evaluate_every": 0}, "evaluate_every must be at least 1"),
    ({"lr": 0.0}, "lr must be positive and finite"),
    ({"lr": float("nan")}, "lr must be positive and finite"),
    ({"clip": float("inf")}, "clip must be positive and finite"),
    ({"ema": 1.0}, "ema must be at least 0 and below 1"),
    ({"hidden": (8, 0)}, "hidden must be widths of at least 1"),
    ({"seed": -1}, "seed must be at least 0"),
]


def test_bad_settings(config: TrainConfig) -> None:
    for change, message in BAD_SETTINGS:
        with pytest.raises(ValueError, match=message):
            replace(config, **change)


def test_devices() -> None:
    assert training.choose_device("cpu") == torch.device("cpu")
    assert training.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda"):
        training.choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device"):
            training.choose_device("cuda")


def test_initial_weights_depend_on_the_seed_alone(config: TrainConfig) -> None:
    prepared = prepare(load(config.data))
    nets = []
    for noise in (3, 4):
        torch.manual_seed(noise)
        nets.append(Training(config, prepared, ALONE).net)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert isinstance(nets[0], nn.Module)
