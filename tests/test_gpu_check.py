"""`make gpu-check` as far as it goes without a GPU: what it says, what it would run, and the program that times."""

import csv

import pytest
import torch

from bench import gpu
from tools import gpu_check


def test_without_a_gpu_it_says_so_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    if not gpu_check.obstacle():
        pytest.skip("there is a GPU")
    assert gpu_check.main([]) == gpu_check.NO_GPU
    assert "gpu-check has no GPU to check: " in capsys.readouterr().out


def test_the_commands_it_would_run_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--dry-run"]) == 0
    printed = capsys.readouterr().out
    for words in ("-m fastssm", "tests/cuda/test_device.py", "FASTSSM_DEVICE=cuda", "-m bench.gpu"):
        assert words in printed
    for step in gpu_check.steps(quick=True):
        assert [word for word in step.command if word.endswith(".py") and not (gpu_check.ROOT / word).exists()] == []


def test_the_sanitizer_runs_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: f"/bin/{name}")
    titles = [step.title for step in gpu_check.steps(quick=False)]
    assert [title for title in titles if "compute-sanitizer" in title] == [
        f"compute-sanitizer {tool}" for tool in ("memcheck", "racecheck", "synccheck")
    ]


@pytest.mark.parametrize(("codes", "status"), [({}, 0), ({"timings": 1}, 1)])
def test_its_status_is_that_of_its_steps(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], status: int) -> None:
    monkeypatch.setattr(gpu_check, "obstacle", lambda: "")
    monkeypatch.setattr(gpu_check, "run", lambda step: not codes.get(step.title, 0))
    assert gpu_check.main([]) == status


def test_the_timings_on_a_processor(tmp_path) -> None:
    out, said = tmp_path / "gpu.csv", []
    names = ["autograd", "Taylor", "FD-SSM", "fastssm torch", "fastssm cuda"]
    options = ["--device", "cpu", "--sizes", "2,8,1,16,1", "--budget", "0.01", "--out", str(out)]
    assert gpu.main([*options, "--contenders", *names], said.append) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == names * 2
    status = {(row["loss"], row["contender"]): row["status"] for row in rows}
    assert status["SSM", "autograd"] == status["SSM-VR", "fastssm torch"] == status["SSM", "FD-SSM"] == "ok"
    assert all(float(row["min_ms"]) > 0 for row in rows if row["status"] == "ok")
    if not torch.cuda.is_available():
        assert status["SSM", "fastssm cuda"].startswith("NotBuiltError: ")
    assert rows[0].keys() == set(gpu.COLUMNS)
