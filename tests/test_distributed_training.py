"""Two processes of `torchrun` train the network that one process trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fastssm.data import load, prepare
from fastssm.training import EXACT, Ranks, TrainConfig, Training, checkpoint, train
from fastssm.training.distributed import join
from fastssm.training.progress import Silent

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")

REPOSITORY = Path(__file__).parents[1]
CPU = torch.device("cpu")


class InterruptAt(Silent):
    def __init__(self, when: int) -> None:
        self.when = when

    def step(self, step: int, loss: Tensor) -> None:
        if step == self.when:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    generator = np.random.default_rng(0)
    rows = np.tanh(generator.normal(size=(307, 3))) @ generator.normal(size=(3, 3))
    np.savetxt(tmp_path / "table.csv", rows, delimiter=",")
    return TrainConfig(str(tmp_path / "table.csv"), hidden=(16, 16), steps=24, batch=32, evaluate_every=8)


def torchrun(config: TrainConfig, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "fastssm"),
        *("train", config.data, "--out", str(folder), "--hidden", "16,16", "--steps", str(config.steps)),
        *("--batch", str(config.batch), "--evaluate-every", str(config.evaluate_every), "--device", "cpu", *options),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("failing", [False, True])
def test_ranks_leave_together_unless_one_fails(monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    done: list[str] = []
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *a, name=name: done.append(name))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KeyError) if failing else nullcontext(), join(CPU) as ranks:
        assert (ranks.rank, ranks.world) == (1, 2)
        if failing:
            raise KeyError
    assert done == ["init_process_group", *["barrier"][failing:], "destroy_process_group"]


@pytest.mark.slow  # test_parallel.py has two processes too
@pytest.mark.parametrize("loss", ["sliced", "exact"])
def test_two_ranks_equal_one(config: TrainConfig, tmp_path: Path, loss: str) -> None:
    """The exact run also starts from the checkpoint of an interrupted single process."""
    config = TrainConfig(**{**vars(config), "loss": loss})
    one = train(config, tmp_path / "one", ranks=Ranks(CPU), reporter=Silent())
    if loss == "exact":
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "two", ranks=Ranks(CPU), reporter=InterruptAt(11))
    finished = torchrun(config, tmp_path / "two", "--loss", loss, "--json", "--resume")
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    assert summary["test_loss"] == pytest.approx(one.test.value, rel=1e-4)
    assert summary["test_loss_standard_error"] == pytest.approx(one.test.error, rel=1e-4)
    first, second = (checkpoint.load(tmp_path / name) for name in ("one", "two"))
    assert first is not None
    assert second is not None
    assert torch.equal(first["generator"], second["generator"])
    start = Training(config, one.prepared, Ranks(CPU)).net.state_dict()
    for name, weight in first["net"].items():
        torch.testing.assert_close(second["net"][name], weight, rtol=1e-4, atol=1e-5)
        assert name.endswith("readout.bias") or (weight - start[name]).abs().max() > 1e-3
    rows = [checkpoint.read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [row["step"] for row in rows[1]] == [8, 16, 24]
    for one_row, two_row in zip(*rows, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert two_row[name] == pytest.approx(one_row[name], rel=1e-4)


def test_batch_must_divide_among_the_ranks(config: TrainConfig) -> None:
    config = TrainConfig(**{**vars(config), "batch": 33})
    with pytest.raises(ValueError, match="batch must be a multiple of the number of processes, 2, got"):
        Training(config, prepare(load(config.data)), Ranks(CPU, 0, 2))


@pytest.mark.parametrize("count", [0, 1, 5, 32])
def test_shares_cover_everything_once(count: int) -> None:
    rows = torch.arange(count)
    for world in (1, 2, 3, 7):
        parts = [rows[Ranks(CPU, rank, world).share(count)] for rank in range(world)]
        assert torch.equal(torch.cat(parts), rows)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_evaluation_with_fewer_rows_than_ranks(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> None:
    prepared = prepare(load(config.data))
    net, rows = Training(config, prepared, Ranks(CPU)).net, prepared.test[:1]
    monkeypatch.setattr(Ranks, "sum", lambda self, values: values)
    assert EXACT.mean(net, rows, "energy", "auto", Ranks(CPU, 0, 2)).value == 0.0
    whole = EXACT.mean(net, rows, "energy", "auto", Ranks(CPU))
    assert EXACT.mean(net, rows, "energy", "auto", Ranks(CPU, 1, 2)).value == whole.value
