"""tools/device/check.sh where there is no GPU: what it says, and that it leaves everything as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "device")]

import engine  # noqa: E402
import rehearse  # noqa: E402
from native_build import NotBuilt  # noqa: E402

BUILT = {"reason": "the CUDA engine was built alone", "cuda": {"torch": "2.10", "compiler": "c++ 1.2"}}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    record = engine.PACKAGE / engine.RECORD
    before = record.read_text() if record.exists() else None
    command = ["bash", "tools/device/check.sh", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == engine.NO_GPU
    assert done.stdout == f"There is no GPU to check: {engine.no_device()}.\n"
    assert not (tmp_path / "out").exists()
    assert (record.read_text() if record.exists() else None) == before


@pytest.mark.parametrize("known", [None, {"torch": "2.13.0", "levels": ["avx2"], "cuda": {"reason": "none"}}])
def test_an_engine_that_is_brought_leaves_the_compiled_module(
    known: dict[str, object] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, folder = tmp_path / "package", tmp_path / "built"
    package.mkdir()
    folder.mkdir()
    monkeypatch.setattr(engine, "PACKAGE", package)
    (folder / engine.RECORD).write_text(json.dumps(BUILT))
    (folder / "_cuda.so").write_text("library")
    (folder / "device_program").write_text("program")
    if known:
        (package / engine.RECORD).write_text(json.dumps(known))
    engine.install(folder)
    assert sorted(file.name for file in package.iterdir()) == ["_build.json", "_cuda.so"]
    assert json.loads((package / engine.RECORD).read_text()) == (known or BUILT) | {"cuda": BUILT["cuda"]}


@pytest.mark.parametrize("brought", [False, True])
def test_what_the_phases_need_is_built_once(brought: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the package has an engine of its own, which stays."""
    done: list[str] = []

    def build(folder: Path) -> None:
        done.append("built")
        (folder / engine.RECORD).write_text(json.dumps(BUILT))

    monkeypatch.setattr(engine, "build", build)
    monkeypatch.setattr(engine, "install", lambda folder: done.append("installed"))
    for why, installed in (("", []), ("it is not built", ["installed"])):
        done.clear()
        (tmp_path / engine.RECORD).unlink(missing_ok=True)
        if brought:
            (tmp_path / engine.RECORD).write_text(json.dumps(BUILT))
        monkeypatch.setattr(engine, "missing", lambda why=why: why)
        engine.provide(tmp_path)
        assert done == [*([] if brought else ["built"]), *installed]


def test_without_nvcc_the_phases_that_need_it_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(folder: Path) -> None:
        raise NotBuilt("there is no nvcc")

    monkeypatch.setattr(engine, "build", build)
    monkeypatch.setattr(engine, "missing", lambda: "")
    engine.provide(tmp_path)
    expected = "the kernels by nvcc and the driver program were not built: there is no nvcc\n"
    assert capsys.readouterr().out == expected


def test_a_rehearsal_tells_what_else_is_missing() -> None:
    def row(phase: str) -> dict[str, str]:
        status, words = rehearse.EXPECTED[phase]
        said = {"smoke": "54 skipped", "device": "33 skipped", "kernels": "518 errors in 5 s"}.get(phase)
        return {"phase": phase, "status": status, "summary": said or words.split("|")[0]}

    rows = [row(phase) for phase in rehearse.EXPECTED]
    assert rehearse.surprises(rows) == []
    assert rehearse.surprises(rows[1:]) == ["engine: never reached"]
    for changed in ({"status": "stopped after 60 s"}, {"summary": "3 failed, 51 skipped"}):
        (surprise,) = rehearse.surprises([r | changed if r["phase"] == "smoke" else r for r in rows])
        assert surprise.startswith("smoke: ")
