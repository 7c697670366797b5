"""The program that times on a GPU, rehearsed on a processor: its rows, what becomes of bad contenders, its watcher."""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_clocks, gpu_rows, gpu_watch, rivals
from bench.gpu_clocks import CEILINGS
from bench.gpu_contenders import CONTENDERS, Contender, exact, on, torch_loss
from bench.problems import Case, Size, exact_answer, problem, relative_error

SIZE = "2,8,1,16,1"
NAMES = ["autograd", "Taylor", "FD-SSM", "fastssm torch", "fastssm cuda"]


def bench(out: Path, *options: str, contenders: list[str] = NAMES) -> list[dict[str, str]]:
    arguments = ["--device", "cpu", "--sizes", SIZE, "--budget", "0.01", "--out", str(out), *options]
    assert gpu.main([*arguments, "--contenders", *contenders], lambda line: None) == 0
    with out.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_each_contender_has_a_row_with_every_column(tmp_path: Path) -> None:
    rows = bench(tmp_path / "gpu.csv")
    assert all(tuple(row) == gpu.COLUMNS and None not in row.values() for row in rows)
    status = {(row["loss"], row["contender"]): row["status"] for row in rows}
    assert len(rows) == len(status)
    assert status.keys() == {("SSM", name) for name in NAMES} | {("SSM-VR", name) for name in NAMES if name != "FD-SSM"}
    assert status["SSM", "autograd"] == status["SSM-VR", "fastssm torch"] == status["SSM", "FD-SSM"] == "ok"
    for row in rows:
        if row["status"] == "ok":
            assert float(row["wall_us"]) >= float(row["wall_min_us"]) > 0
            assert float(row["host_us"]) > 0
            assert float(row["gflop"]) > 0
            assert row["event_us"] == row["graph_us"] == row["tflops"] == ""
            assert row["precision"] == "highest"
    if not torch.cuda.is_available():
        assert status["SSM", "fastssm cuda"].startswith("NotBuiltError: ")
        assert {row["bridge"] for row in rows if row["status"] == "ok"} == {"fastssm torch"}


def test_the_ceilings(tmp_path: Path) -> None:
    rows = bench(tmp_path / "gpu.csv", contenders=list(CEILINGS))
    assert [row["contender"] for row in rows] == list(CEILINGS)
    assert all(float(row["rate"]) > 0 for row in rows if row["status"] == "ok")
    assert [row["status"] for row in rows if row["status"] != "ok"] == ["NotImplementedError: TF32 needs a GPU"]


@pytest.mark.slow
def test_it_resumes(tmp_path: Path) -> None:
    out, few = tmp_path / "gpu.csv", ["autograd", "fastssm torch"]
    before = bench(out, "--losses", "SSM", contenders=few)
    assert bench(out, "--resume", contenders=few)[: len(before)] == before
    both = bench(out, "--resume", contenders=few)
    assert [row["loss"] for row in both] == ["SSM"] * 2 + ["SSM-VR"] * 2
    assert len(bench(out, "--losses", "SSM", contenders=few)) == 2


@pytest.mark.slow
def test_a_failed_row_is_measured_again_unless_all_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, one = tmp_path / "gpu.csv", ["Taylor"]
    with monkeypatch.context() as patch:
        patch.setitem(CONTENDERS, "Taylor", Contender(torch_loss(fails)))
        failed = bench(out, "--losses", "SSM", contenders=one)
    assert failed[0]["status"] == "ValueError: first line"
    assert bench(out, "--losses", "SSM", "--resume", "all", contenders=one) == failed
    assert [row["status"] for row in bench(out, "--losses", "SSM", "--resume", contenders=one)] == ["ok"]


def fails(p: Any) -> torch.Tensor:
    raise ValueError("first line\nsecond line")


def test_a_wrong_contender_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "Taylor", Contender(torch_loss(lambda p: 1.1 * rivals.taylor(p))))
    (row,) = bench(tmp_path / "gpu.csv", "--losses", "SSM", contenders=["Taylor"])
    assert row["status"] == "wrong: error 0.1 above 0.001"
    assert row["wall_us"] == ""


def test_nothing_begins_after_the_limit(tmp_path: Path) -> None:
    assert bench(tmp_path / "gpu.csv", "--limit", "1e-9") == []


def test_the_exact_answer_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu_contenders.CHUNK", 8 * 7)
    p = on(torch.device("cpu"), problem(Case(Size(3, 8, 2, 16, 2)), "SSM"))
    assert relative_error(exact(p), exact_answer(p)) < 1e-12


def test_the_most_telling_comes_first() -> None:
    sizes = [Size(d, 8, 1, 4, 1) for d in range(1, 7)]
    order = list(gpu.batches(sizes, ("SSM", "SSM-VR"), list(CONTENDERS)))
    assert [batch.size for batch in order[:6]] == sizes
    assert {name for batch in order[:12] for name in batch.names} == {
        *("fastssm cuda", "fastssm cuda, graph", "autograd", "Taylor + compile"),
    }
    reduced = [b for b in order if b.loss == "SSM" and "Taylor + compile, reduce-overhead" in b.names]
    assert [batch.size for batch in reduced] == sizes[:4]
    assert not [b for b in order if b.loss == "SSM-VR" and "FD-SSM" in b.names]


DYING = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if "--resume" in sys.argv:
    sys.exit(0)
out.with_suffix(".begun").write_text(json.dumps({"contender": "guilty"}))
%s
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("os.abort()", "crashed: SIGABRT"), ("import time; time.sleep(60)", "hung: no news for 1 s")],
)
def test_the_watcher_blames_the_contender_at_work(tmp_path: Path, end: str, status: str) -> None:
    out, said = tmp_path / "gpu.csv", []
    chosen = argparse.Namespace(out=out, resume="", limit=None, patience=1.0)
    assert gpu_watch.supervise([sys.executable, "-c", DYING % end], chosen, said.append) == 0
    assert f"{'guilty'},,{status}" in out.read_text()
    assert said == [f"the process {status}; restarting"]


def test_a_note_of_the_run_before_is_no_blame(tmp_path: Path) -> None:
    out = tmp_path / "gpu.csv"
    gpu_rows.note(out).write_text(json.dumps({"contender": "innocent"}))
    chosen = argparse.Namespace(out=out, resume="ok", limit=5.0, patience=1.0)
    assert gpu_watch.supervise([sys.executable, "-c", "raise SystemExit(7)"], chosen, print) == 7
    assert not out.exists()


class FakeStream:
    def wait_stream(self, other: Any) -> None: ...


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e3 * (end.time - self.time)


class FakeGraph:
    replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """As much of torch.cuda as the clocks ask for, in front of the processor."""
    made = {"Event": FakeEvent, "CUDAGraph": FakeGraph, "Stream": lambda device: FakeStream()}
    quiet = {
        name: lambda *_: 0
        for name in ("synchronize", "_sleep", "graph_pool_handle", "reset_peak_memory_stats", "memory_allocated")
    }
    made |= {"current_stream": lambda device: FakeStream(), "stream": lambda stream: nullcontext()}
    made |= {"graph": lambda graph, pool, stream: nullcontext(), "max_memory_allocated": lambda device: 2**20}
    for name, fake in (made | quiet).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return torch.device("cuda", 0)


def test_every_clock_of_a_device(fake_gpu: torch.device) -> None:
    replays, outputs = gpu_clocks.captured(lambda: "outputs", fake_gpu)
    assert (outputs, replays.replays) == ("outputs", 1)
    assert gpu_clocks.peak_mib(list, fake_gpu) == 1.0
    on_stream = gpu_clocks.Runner(list, 1e-3, replay=replays.replay)
    elsewhere = gpu_clocks.Runner(list, 1.0, on_stream=False)
    rows = gpu_clocks.measure({"ours": on_stream, "JAX": elsewhere}, 0.0, fake_gpu)
    assert rows["ours"].keys() == {"repeats"} | {
        f"{clock}_{which}" for clock in gpu_clocks.CLOCKS for which in ("us", "min_us")
    }
    assert rows["JAX"].keys() == {"repeats", "host_us", "host_min_us", "wall_us", "wall_min_us"}


def test_a_capture_that_fails_says_why_and_gives_the_stream_back(
    fake_gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def capture(graph: Any, pool: Any, stream: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("capture invalidated")

    streams: list[Any] = []
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    calls = iter([1, 2, 3])
    with pytest.raises(RuntimeError, match="no capture: StopIteration"):
        gpu_clocks.captured(lambda: next(calls), fake_gpu)
    assert len(streams) == 1


def test_one_that_fails_in_its_turn_stops_nobody(fake_gpu: torch.device) -> None:
    runners = {"bad": gpu_clocks.Runner(lambda: 1 // 0, 1.0), "good": gpu_clocks.Runner(list, 1.0)}
    rows = gpu_clocks.measure(runners, 0.0, fake_gpu)
    assert rows["bad"] == {"status": "ZeroDivisionError: integer division or modulo by zero"}
    assert rows["good"]["repeats"] == 3


def test_a_lost_device_is_noticed(fake_gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(gpu_clocks.LostError, match="illegal memory access"):
        gpu_clocks.measure({"ours": gpu_clocks.Runner(list, 1.0)}, 0.0, fake_gpu)


def test_on_a_gpu_the_process_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_watch, "watched", lambda command, out, patience: (calls.append(command), (0, ""))[1])
    calls: list[list[str]] = []
    assert gpu.main(["--out", str(tmp_path / "gpu.csv"), "--limit", "60", "--sizes", SIZE]) == 0
    (command,) = calls
    assert command[1:3] == ["-m", "bench.gpu"]
    assert gpu.options(command[3:]).alone
    assert gpu.options(command[3:]).ends == pytest.approx(time.time() + 60, abs=5)
    assert gpu.options(command[3:]).sizes == [Size.parse(SIZE)]
