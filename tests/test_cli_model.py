"""`fastssm score` and `sample`: what they read, write and refuse."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

import fastssm
from fastssm.cli import main

QUICK = ["--steps", "60", "--hidden", "8,8", "--batch", "32", "--evaluate-every", "30", "--noise", "0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a German file of training rows, and runs on it."""
    folder = tmp_path_factory.mktemp("cli")
    draw = random.Random(0)
    with (folder / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("farbe;länge;breite\n")
        for _ in range(200):
            a = draw.gauss(5, 2)
            line = f"{draw.choice(['rot', 'grün', 'blau'])};{a:.3f};{-900 + 30 * a + draw.gauss(0, 20):.2f}\n"
            file.write(line.replace(".", ","))
    for name, options in (("energy", []), ("scores", ["--kind", "score"]), ("composite", ["--loss", "composite"])):
        out = ["--out", str(folder / name)]
        assert main(["train", str(folder / "rows.csv"), "--categorical", "onehot", *QUICK, *options, *out]) == 0
    assert main(["train", "moons", *QUICK, "--out", str(folder / "moons")]) == 0
    (folder / "new.csv").write_text(
        "breite,länge,farbe,name\n-800.5,4.9,rot,x\n-1e4,50,blau,y\n-700,6,grün,z\n", encoding="utf-8"
    )
    return folder


COLUMNS = ("farbe=grün", "farbe=rot", "länge", "breite")
ROWS = np.array([[0, 1, 4.9, -800.5], [0, 0, 50, -1e4], [1, 0, 6, -700]])


def table(text: str) -> tuple[list[str], np.ndarray]:
    header, *rows = csv.reader(io.StringIO(text))
    return header, np.array(rows, dtype=np.float64)


def test_score_reads_new_rows_as_training_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["score", str(folder / "energy"), str(folder / "new.csv")]) == 0
    captured = capsys.readouterr()
    names, found = table(captured.out)
    model = fastssm.load(folder / "energy")
    assert model.columns == COLUMNS
    assert names == ["row", "energy", "anomaly"]
    np.testing.assert_array_equal(found[:, 0], [1, 2, 3])
    np.testing.assert_allclose(found[:, 1], model.energy(ROWS), rtol=1e-7)
    np.testing.assert_allclose(found[:, 2], model.anomaly(ROWS), rtol=1e-7)
    assert found[1, 2] == 100
    assert "note: " in captured.err
    assert "name" in captured.err


def test_frames_are_encoded_as_in_training(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    model = fastssm.load(folder / "energy")
    frame = pandas.read_csv(folder / "new.csv")
    np.testing.assert_array_equal(model.energy(frame), model.energy(ROWS))
    frame.loc[0, "farbe"] = "gelb"
    with pytest.raises(ValueError, match="gelb"):
        model.energy(frame)


def test_score_writes_gradients_and_log_densities(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slopes = [f"d/d {name}" for name in COLUMNS]
    for run, options, expected in (
        ("energy", ["--gradient"], ["energy", "anomaly", *slopes]),
        ("scores", [], slopes),
        ("composite", [], ["energy", "log_prob", "anomaly"]),
    ):
        out = folder / f"{run}.csv"
        assert main(["score", str(folder / run), str(folder / "new.csv"), "--out", str(out), *options]) == 0
        names, found = table(out.read_text(encoding="utf-8"))
        assert names == ["row", *expected]
        model = fastssm.load(folder / run)
        if slopes[0] in names:
            np.testing.assert_allclose(found[:, -4:], model.score(ROWS), rtol=1e-6)
        if "log_prob" in names:
            np.testing.assert_allclose(found[:, 2], model.log_prob(ROWS), rtol=1e-6)
        array = folder / f"{run}.npy"
        assert main(["score", str(folder / run), str(folder / "new.csv"), "--out", str(array), *options]) == 0
        np.testing.assert_allclose(np.load(array), found, rtol=1e-7)
    assert "3 rows: " in capsys.readouterr().err


def test_score_of_missing_values_needs_a_word(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text("farbe,länge,breite\nrot,,-800\nblau,5,-700\n", encoding="utf-8")
    assert main(["score", str(folder / "energy"), str(path)]) == 2
    assert "länge" in capsys.readouterr().err
    assert main(["score", str(folder / "energy"), str(path), "--missing", "drop"]) == 0
    np.testing.assert_array_equal(table(capsys.readouterr().out)[1][:, 0], [2])


def test_a_model_of_no_file_takes_columns_by_name_or_place(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = np.array([[0.5, -0.25], [100.0, 100.0]])
    for name, columns in (("named", "y,x,z"), ("placed", "a,b")):
        path = tmp_path / f"{name}.csv"
        rows = points[:, ::-1] if name == "named" else points
        body = "\n".join(",".join(map(str, [*row, *([7] if name == "named" else [])])) for row in rows)
        path.write_text(f"{columns}\n{body}\n")
        capsys.readouterr()
        assert main(["score", str(folder / "moons"), str(path)]) == 0
        found = table(capsys.readouterr().out)[1]
        np.testing.assert_allclose(found[:, 1], fastssm.load(folder / "moons").energy(points), rtol=1e-7)
    (tmp_path / "wide.csv").write_text("a,b,c\n1,2,3\n")
    assert main(["score", str(folder / "moons"), str(tmp_path / "wide.csv")]) == 2
    assert "the model has 2 columns, x, y, but the file has 3" in capsys.readouterr().err


def test_sample_writes_rows_in_data_units(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    options = ["-n", "40", "--steps", "40", "--seed", "3"]
    expected = fastssm.load(folder / "energy").sample(40, steps=40, seed=3)
    assert main(["sample", str(folder / "energy"), *options]) == 0
    names, found = table(capsys.readouterr().out)
    assert names == list(COLUMNS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for suffix in ("npy", "tsv"):
        assert main(["sample", str(folder / "energy"), *options, "--out", str(tmp_path / f"s.{suffix}")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), expected)
    lines = (tmp_path / "s.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == list(COLUMNS)
    assert len(lines) == 41
    assert main(["score", str(folder / "moons"), str(folder / "new.csv")]) == 2


def test_bad_requests_end_in_a_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, new = str(folder / "energy"), str(folder / "new.csv")
    for arguments, message in (
        (["score", str(tmp_path / "absent"), new], "is not a folder; pass the --out folder of a run"),
        (["score", run, new, "--out", str(tmp_path / "x.doc")], "must end in .csv, .tsv, .npy"),
        (["score", run, new, "--out", new], "is the file that is read; choose another"),
        (["score", run, new, "--out", str(tmp_path / "no" / "x.csv")], "there is no folder"),
        (["score", run, str(tmp_path / "none.csv")], "none.csv"),
        (["sample", run, "-n", "0"], "n must"),
        (["sample", run, "--device", "tpu:x"], "device must be auto, cpu, cuda"),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert len(error.splitlines()) == 1


def test_the_description_tells_how_the_file_was_read(folder: Path) -> None:
    saved = json.loads((folder / "energy" / "model.json").read_text())
    assert [column["name"] for column in saved["reading"]["columns"]] == ["farbe", "länge", "breite"]
    assert json.loads((folder / "moons" / "model.json").read_text())["reading"] is None
    assert math.isfinite(saved["result"]["test_loss"])
