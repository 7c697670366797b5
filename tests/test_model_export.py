"""Exported models: the graphs give what the model gives, in data units, for any number of rows, without fastssm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastssm
from fastssm import training
from fastssm.cli import main
from fastssm.training import exporting
from tests.test_model import SMALL, some_rows, table
from tests.test_training import ALONE, Recorder, replace

MODELS = [
    ("tempered", "energy"),
    pytest.param("sliced", "score", marks=pytest.mark.slow),
    *(pytest.param(loss, "energy", marks=pytest.mark.slow) for loss in ("sliced", "annealed-denoising")),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs")
    path = table(folder / "table.csv")

    def get(loss: str, kind: Any) -> training.Outcome:
        config = replace(SMALL, data=str(path), loss=loss, kind=kind, steps=4)
        return training.train(config, folder / f"{loss}-{kind}", ranks=ALONE, reporter=Recorder())

    return get


ALONE_IN_ITS_PROCESS = """
import sys, torch
sys.modules["fastssm"] = None  # cannot be imported
rows, *programs = sys.argv[1:]
for path in programs:
    program = torch.export.load(path).module()
    torch.save([program(part) for part in torch.load(rows)], path + ".values")
"""


@pytest.mark.parametrize(("loss", "kind"), MODELS)
def test_programs_run_without_fastssm(trained: Any, loss: str, kind: str, tmp_path: Path) -> None:
    outcome = trained(loss, kind)
    files, checked = training.exporting.export(outcome.model, tmp_path)
    assert checked.startswith("agrees with the model to ")
    assert list(files) == (["energy", "score"] if kind == "energy" else ["score"])
    rows = torch.tensor(some_rows(outcome, 20))
    torch.save([rows, rows[:1], rows[:0]], tmp_path / "rows.pt")
    command = [sys.executable, "-c", ALONE_IN_ITS_PROCESS, tmp_path / "rows.pt", *files.values()]
    subprocess.run([*map(str, command)], check=True, env={**os.environ, "PYTHONPATH": ""})
    for name, path in files.items():
        whole, one, none = torch.load(f"{path}.values")
        expected = getattr(outcome.model, name)(rows)
        torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        torch.testing.assert_close(one, expected[:1], rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert none.shape == expected[:0].shape


@pytest.mark.parametrize(("loss", "kind"), MODELS)
def test_onnx(trained: Any, loss: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    outcome = trained(loss, kind)
    assert main(["export", str(outcome.folder), "--onnx", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = some_rows(outcome, 20)
    for name in ["energy", "score"] if kind == "energy" else ["score"]:
        assert f"{name}.onnx: agrees with the model to" in printed
        session = runtime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        expected = getattr(outcome.model, name)(rows)
        (found,) = session.run(None, {"rows": rows})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_command_writes_programs(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained("sliced", "energy").folder
    assert main(["export", str(folder), "--torch-export"]) == 0
    assert capsys.readouterr().out.count("agrees with the model to") == 2
    assert (folder / "energy.pt2").is_file()
    assert main(["export", str(folder)]) == 2
    assert "pass --torch-export, --onnx or both" in capsys.readouterr().err
    assert fastssm.load(folder).columns == ("a", "b", "c")


def test_onnx_without_its_packages_is_refused(
    trained: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("sliced", "energy").folder
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(folder), "--onnx"]) == 2
    assert "ONNX needs onnxscript, which is not installed" in capsys.readouterr().err


def test_wrong_graphs_are_not_kept(trained: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = trained("sliced", "energy").model
    monkeypatch.setattr(exporting._Energy, "scaled", lambda self, rows: (1.001 * rows).float())
    with pytest.raises(RuntimeError, match="must agree with the model to 1e-04, got a relative error of"):
        exporting.export(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(fastssm.UnsupportedError, match="a composite model is normalised by quadrature"):
        exporting.export(trained("composite", "energy").model, tmp_path)
    with pytest.raises(ValueError, match="form must be one of torch-export, onnx"):
        exporting.export(trained("sliced", "energy").model, tmp_path, "pickle")
