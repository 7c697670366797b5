"""Options of `fastssm train` from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fastssm
from fastssm.cli import main

QUICK = {"steps": 4, "hidden": [8, 4], "evaluate-every": 2, "batch": 16, "lr": "1e-2"}


def trained(tmp_path: Path, config: Path, *more: str) -> Any:
    out = tmp_path / "out"
    assert main(["train", "moons", "--config", str(config), "--out", str(out), "--overwrite", *more]) == 0
    return fastssm.load(out).config


@pytest.mark.parametrize("suffix", [pytest.param("json", marks=pytest.mark.slow), "yaml"])
def test_a_file_gives_defaults_and_arguments_win(tmp_path: Path, suffix: str) -> None:
    yaml = pytest.importorskip("yaml") if suffix == "yaml" else json
    path = tmp_path / f"settings.{suffix}"
    path.write_text(yaml.dump(QUICK) if suffix == "yaml" else json.dumps(QUICK))
    found = trained(tmp_path, path)
    assert (found.steps, found.hidden, found.evaluate_every, found.lr) == (4, (8, 4), 2, 0.01)
    assert trained(tmp_path, path, "--steps", "6000", "--patience", "1").steps == 6000  # the default, but said


BAD = [
    ({"stps": 4}, "unknown option 'stps'; known are activation, "),
    ({"steps": "many"}, "steps cannot be 'many' (invalid literal"),
    ({"steps": [1, 2]}, "steps cannot be [1, 2]"),
    ({"steps": None}, "steps must be a value, got None"),
    ({"steps": True}, "steps must be a value, got True"),
    ({"resume": "yes"}, "resume must be true or false, got 'yes'"),
    ({"loss": "magic"}, "loss must be one of sliced, "),
    ({"hidden": ["a"]}, "hidden cannot be ['a'] (expected integers"),
    ({"data": "x"}, "unknown option 'data'"),
    ({"config": "x"}, "unknown option 'config'"),
    ([1], "must map names of options to values"),
]


def test_wrong_files_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    for content, message in BAD:
        path.write_text(json.dumps(content))
        assert main(["train", "moons", "--config", str(path), "--out", str(tmp_path / "out")]) == 2, content
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    for text, message in (
        ("{", "settings.json is not JSON (Expecting"),
        ("[" * 100_000, "is not JSON ("),
        ("\xff", "cannot be read"),
    ):
        path.write_text(text, encoding="latin-1")
        assert main(["train", "moons", "--config", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "moons", "--config", str(tmp_path / "absent.json")]) == 2
    assert not (tmp_path / "out").exists()


def test_yaml_is_read_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    pytest.importorskip("yaml")
    for text in (f"steps: !!python/object/apply:os.mkdir ['{tmp_path / 'exploded'}']", "a: [", "- 1"):
        path.write_text(text)
        assert main(["train", "moons", "--config", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "exploded").exists()
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["train", "moons", "--config", str(path)]) == 2
    assert "YAML needs PyYAML (pip install pyyaml); or write JSON" in capsys.readouterr().err
