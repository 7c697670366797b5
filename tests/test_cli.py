"""The command `fastssm`: what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fastssm import nn as fnn
from fastssm import plots
from fastssm.cli import COMMANDS, bench, main
from fastssm.cli.threads import threads
from fastssm.training import Ranks, TrainConfig, checkpoint, progress, train
from tests.covering import each

REPOSITORY = Path(__file__).parents[1]
QUICK = ["--steps", "20", "--hidden", "8,8", "--batch", "16", "--evaluate-every", "10"]


def pixels(path: Path) -> np.ndarray:
    """Decode the bytes of a PNG far enough to see whether anything is drawn on it."""
    content, position, packed = path.read_bytes(), 8, b""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while position < len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        packed += content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += length + 12
    return np.frombuffer(zlib.decompress(packed), dtype=np.uint8)


def assert_drawn(path: Path) -> None:
    values = pixels(path)
    assert len(values) > 500_000
    assert len(np.unique(values)) > 100


@pytest.fixture
def table(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    np.savetxt(tmp_path / "table.csv", generator.normal(size=(200, 3)), delimiter=",", header="a,b,c", comments="")
    return str(tmp_path / "table.csv")


def test_no_command_and_info_show_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["info"]) == 0
    assert capsys.readouterr().out == alone
    assert f"torch {torch.__version__}" in alone
    for name in ("reference", "jets", "torch", "cpu", "cuda"):
        assert f"\n  {name} " in alone
    assert "reference  available" in alone


def test_module_runs_as_a_program() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    found = subprocess.run(
        [sys.executable, "-m", "fastssm"], capture_output=True, text=True, env=environment, check=True
    )
    assert found.stdout.startswith("fastssm ")


@each("command", [None, *(module.__name__.rpartition(".")[2] for module in COMMANDS)])
def test_help(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*([command] if command else []), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: fastssm" in text
    assert "None" not in text
    examples = text.partition("examples:\n")[2].split("\n")
    assert command != "train" or examples[0].strip() == "fastssm train moons"


def test_train_prints_the_table_and_writes_the_files(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["train", table, "--out", str(tmp_path / "out"), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "step 10/20" in text
    assert "Gaussian with the training rows' mean and covariance" in text
    assert "160 training, 20 validation and 20 test rows of 3 features" in text
    assert f"figure: {tmp_path / 'out' / 'figure.png'}" in text
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["checkpoint.pt", "figure.png", "metrics.jsonl", "model.json", "model.safetensors", "result.json"]
    assert_drawn(tmp_path / "out" / "figure.png")


def test_json_is_alone_on_standard_output(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", table, "--out", str(tmp_path / "out"), "--json", *QUICK]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert "step 10/20" in captured.err
    assert summary["steps"] == 20
    assert summary["config"]["hidden"] == [8, 8]
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {**written, "figure": summary["figure"]} == summary


def test_default_folder_is_named_after_the_data(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", table, *QUICK]) == 0
    assert (tmp_path / "runs" / "table" / "result.json").is_file()


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("moons", ["--kind", "energy"]),
        ("moons", ["--kind", "score"]),
        ("digits", ["--kind", "energy"]),
        ("digits", ["--kind", "score"]),
        ("red-wine", ["--loss", "exact"]),
        ("red-wine", ["--projections", "3", "--kind", "score"]),
    ],
)
def test_every_kind_of_figure_is_drawn(data: str, options: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    assert main(["train", data, "--out", str(tmp_path), *options, *QUICK]) == 0
    assert_drawn(tmp_path / "figure.png")


def test_training_works_without_matplotlib(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["train", table, "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert "no figure was drawn: matplotlib is not installed (pip install matplotlib)" in capsys.readouterr().out
    assert not (tmp_path / "out" / "figure.png").exists()


def test_learnt_density_integrates_to_one(tmp_path: Path) -> None:
    config = TrainConfig("moons", hidden=(8,), steps=5, batch=8)
    outcome = train(config, tmp_path, ranks=Ranks(torch.device("cpu")), reporter=progress.Silent())
    extent = (-2.0, 3.0, -1.5, 2.0)
    density = plots.density_on_grid(outcome, extent, 50)
    assert density.sum().item() * (5 / 50) * (3.5 / 50) == pytest.approx(1.0)
    left = outcome.prepared.scaler.scale(torch.tensor([[-2 + 0.05, -1.5 + 0.035], [-2 + 0.15, -1.5 + 0.035]]))
    energies = outcome.net(left.float()).flatten()
    assert (density[0, 0] / density[0, 1]).item() == pytest.approx((energies[1] - energies[0]).exp().item(), rel=1e-4)


EXPECTED_ERRORS = [
    (["train", "sun"], "unknown data set 'sun': choose from moons"),
    (["train", "absent.csv"], "no such file"),
    (["train", "moons", "--steps", "0"], "steps must be at least 1"),
    (["train", "moons", "--noise", "-1"], "noise must be finite and at least 0"),
    (["train", "moons", "--device", "abacus"], "device must be"),
    (["train", "moons", "--backend", "cuda", *QUICK], "cuda"),
    (["demo", "sun"], "NAME must be one of moons"),
    (["bench", "--batch", "0"], "--batch must be at least 1"),
    (["check", "--model", "math:tau", "--batch", "0"], "--batch must be at least 1"),
    (["check", "--model", "nonsense"], "module:name"),
    (["check", "--model", "no.such.module:name"], "No module named"),
    (["check", "--model", "math:tau"], "math:tau"),
]


def test_expected_errors_have_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in EXPECTED_ERRORS:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: "), arguments
        assert message in error


def test_interruption_leaves_a_resumable_checkpoint(table: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fastssm",
        "train",
        table,
        "--out",
        "out",
        "--hidden",
        "8",
        "--evaluate-every",
        "5",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    endless = [*command, "--steps", "100000", "--patience", "100000"]
    process = subprocess.Popen(endless, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not checkpoint.read_metrics(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    state = checkpoint.load(tmp_path / "out")
    assert state is not None
    assert f"interrupted: the checkpoint of step {state['step']} is in out; continue with --resume" in error
    assert "Traceback" not in error


def test_resume_of_the_command(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", table, "--out", str(tmp_path / "out"), *QUICK]
    assert main(arguments) == 0
    first = capsys.readouterr().out.splitlines()
    assert main([*arguments, "--resume"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[:2] == ["training on 3 columns: a, b, c", "already finished at step 20: all steps done"]
    assert first[-6:] == again[-6:]
    assert main([*arguments, "--resume", "--lr", "0.5"]) == 2
    assert "lr is 0.5, the checkpoint has" in capsys.readouterr().err


def test_small_trainings_get_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = TrainConfig("moons"), TrainConfig("moons", hidden=(512,), batch=1024)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for config, expected in ((small, 1), (large, 2)):
            with threads(config, torch.device("cpu")):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with threads(small, torch.device("cpu")):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_demo_draws_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["demo", "--steps", "3", "--out", str(tmp_path)]) == 0
    assert f"figure: {tmp_path / 'demo.png'}" in capsys.readouterr().out
    assert_drawn(tmp_path / "demo.png")
    assert main(["demo", "moons", "--steps", "3", "--out", str(tmp_path)]) == 0
    assert_drawn(tmp_path / "moons.png")


def test_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    with progress.reporter("moons", 10, first=True, json=False) as report:
        report.message("[starting]")
        report.step(1, torch.tensor(-1.25))
        report.shown -= 1.0
        report.step(9, torch.tensor(-2.5))
        report.evaluation({"step": 10, "validation_loss": -3.125})
    text = screen.getvalue()
    assert "[starting]" in text
    assert "loss -2.50" in text
    assert "validation -3.125" in text
    assert "10/10" in text


def test_lines_tell_the_rate_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without what comes before the first step: reading the data, imports, compiling."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with progress.reporter("moons", 1000, first=True, json=False) as report:
        now[0] += 60.0
        report.step(501, torch.zeros(()))  # resumed at step 500
        report.evaluation({"train_loss": 1.0, "validation_loss": 2.0})
        for step in range(502, 522):
            now[0] += 0.25
            report.step(step, torch.zeros(()))
        report.evaluation({"train_loss": 1.0, "validation_loss": 2.0})
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("validation     2.0000")
    assert second.startswith("step  521/1000")
    assert second.endswith("      4.0 steps/s  ETA 0:02:00")


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.reporter("moons", 10, first=False, json=False) as report:
        report.message("x")
        report.step(1, torch.zeros(()))
        report.evaluation({})
    assert capsys.readouterr().out == ""


def test_bench_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--features", "3", "--hidden", "8,8", "--batch", "16", "--repeats", "2", "--projections", "2"]
    for loss in ("sliced", "variance-reduced"):
        assert main(["bench", *options, "--loss", loss]) == 0
        text = capsys.readouterr().out
        assert "min ms" in text
        assert "\nautograd" in text
        assert "\nfastssm torch" in text


def test_bench_refuses_to_time_a_wrong_gradient() -> None:
    net, x, v = fnn.MLP(3, [8]), torch.randn(5, 3), torch.ones(1, 5, 3)
    right = bench.contenders(net, x, v, True)
    bench.verify(net, x, v, True, right)
    wrong = {"wrong": lambda: 1.01 * right["fastssm torch"]()}
    with pytest.raises(ValueError, match=r"wrong: the gradient of .* must agree with float64 autograd to 1e-03, got"):
        bench.verify(net, x, v, True, wrong)
