"""Warnings about columns that are hard to train on, and the original rows that figures show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastssm import data, plots
from fastssm.cli import main
from fastssm.data import quality
from fastssm.training import Ranks, TrainConfig, progress, train

REPOSITORY = Path(__file__).parents[1]
QUICK = ["--steps", "4", "--hidden", "4", "--batch", "8"]
NAMES = ("a", "b", "c")


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(10, 1, size=(120, 3))


def write(path: Path, rows: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    np.savetxt(path, rows, delimiter=",", header=",".join(names), comments="", fmt="%.17g")
    return path


def warnings_of(path: Path, **options: object) -> tuple[str, ...]:
    return data.prepare(data.load(path), **options).warnings


def test_ordinary_columns_have_no_warning(tmp_path: Path, rows: np.ndarray) -> None:
    rows[:, 1] = (rows[:, 1] > 10).astype(float)  # a column of 0 and 1
    rows[:, 2] = np.exp(rows[:, 2])  # a long tail
    assert warnings_of(write(tmp_path / "a.csv", rows)) == ()
    assert data.prepare(data.load("moons")).warnings == ()


def test_a_column_that_float32_collapses(tmp_path: Path, rows: np.ndarray) -> None:
    rows[40, 1] = 1e12
    (warning,) = warnings_of(write(tmp_path / "a.csv", rows))
    assert "column 'b': its 120 different values become 2 in float32 once it is standardised" in warning
    assert "because row 41 is 1e+12" in warning


def test_row_numbers_are_those_of_the_file(tmp_path: Path, rows: np.ndarray) -> None:
    rows[40, 1] = 1e12
    text = write(tmp_path / "a.csv", rows).read_text().splitlines()
    text.insert(3, "1,?,3")
    (tmp_path / "a.csv").write_text("\n".join(text))
    dataset = data.load(tmp_path / "a.csv", data.ReadOptions(missing="drop"))
    (warning,) = data.prepare(dataset).warnings
    assert "because row 42 is 1e+12" in warning
    assert dataset.row_numbers.tolist() == [1, 2, *range(4, 122)]


def test_a_column_that_is_nearly_constant(tmp_path: Path, rows: np.ndarray) -> None:
    rows[:, 2] = 5.0 + 1e-3 * rows[:, 0]
    rows[7, 2] = 1000.0
    (warning,) = warnings_of(write(tmp_path / "a.csv", rows))
    assert "column 'c' is nearly constant" in warning
    assert "because row 8 is 1000" in warning


def test_a_column_far_from_zero_without_scaling(tmp_path: Path, rows: np.ndarray) -> None:
    rows[:, 0] = 1e9 + np.arange(120)
    path = write(tmp_path / "a.csv", rows[np.random.default_rng(0).permutation(120)])
    assert warnings_of(path) == ()
    (warning,) = warnings_of(path, scale="none", noise=0.1)
    assert "column 'a': its 120 different values become" in warning
    assert "subtract a constant" in warning


def test_dependent_columns_are_named(tmp_path: Path, rows: np.ndarray) -> None:
    generator = np.random.default_rng(1)
    others = generator.normal(size=(120, 2))
    wide = np.column_stack([rows, others, 2 * rows[:, 0] - 7, rows[:, 1] + 3 * others[:, 0]])
    path = write(tmp_path / "a.csv", wide, ("a", "b", "c", "d", "e", "twice a", "b and d"))
    found = warnings_of(path, scale="standardise", noise=0.1)
    assert sorted(warning.split(" are ")[0] for warning in found) == [
        "columns 'a' and 'twice a'",
        "columns 'b', 'd', 'b and d'",
    ]
    with pytest.raises(ValueError, match="columns 'a' and 'twice a' are linearly dependent: one is the other, shifted"):
        data.prepare(data.load(path))
    with pytest.raises(ValueError, match="columns are linearly dependent or the rows are too few"):
        data.prepare(data.load(write(tmp_path / "few.csv", generator.normal(size=(12, 11)), tuple("abcdefghijk"))))


def test_relations_have_as_few_columns_as_possible() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    columns = torch.cat([base, base[:, :1], base[:, :1] + base[:, 1:2], base[:, 2:3] - base[:, 3:]], 1)
    standard = (columns - columns.mean(0)) / columns.std(0)
    found = quality.dependencies(torch.cov(standard.T), 400, "abcdefg")
    assert len(found) == 3
    assert max(sentence.count("'") for sentence in found) <= 6
    assert quality.dependencies(torch.corrcoef(base.T), 400, "abcd") == []


def test_constant_columns_are_in_the_report(tmp_path: Path, rows: np.ndarray) -> None:
    rows[:, 0], rows[:, 2] = 3.5, 7.0
    path = write(tmp_path / "a.csv", rows)
    path.write_text(path.read_text() + "3.5,?,7\n")
    with pytest.raises(ValueError, match="3 faults") as error:
        data.load(path)
    for part in ("'a' is constant: 3.5 in every row", "'b' has 1 missing", "'c' is constant: 7 in every row"):
        assert part in str(error.value)
    assert data.read_table(path, missing="drop").values.shape == (120, 3)


def outcome_of(name: str, folder: Path):
    config = TrainConfig(name, hidden=(4,), steps=4, batch=8)
    return train(config, folder, ranks=Ranks(torch.device("cpu")), reporter=progress.Silent())


def test_ranked_rows_are_those_of_the_file(tmp_path: Path) -> None:
    outcome = outcome_of("white-wine", tmp_path)
    places, energies = plots.ranked_test_rows(outcome)
    dataset, prepared = outcome.prepared.dataset, outcome.prepared
    table = data.read_table(REPOSITORY / "data/winequality-white.csv", drop=["12"])
    original = torch.from_numpy(table.values.copy())
    assert torch.equal(dataset.original, original)
    assert not torch.equal(dataset.rows, original)  # dequantised
    assert torch.equal(dataset.row_numbers[places], places + 1)
    assert sorted(places.tolist()) == sorted(prepared.test_index.tolist())
    scaled = prepared.scaler.scale(original[places]).float()
    torch.testing.assert_close(outcome.net(scaled).flatten(), energies)
    assert (energies.diff() >= 0).all()
    clean = data.prepare(dataset, noise=0.0)
    torch.testing.assert_close(clean.scaler.scale(dataset.rows[clean.test_index]).float(), clean.test)


def test_figures_show_numbers_and_rows_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    shown: list[str] = []
    save = Figure.savefig

    def record(figure: Figure, *args: object, **kwargs: object) -> None:
        shown.extend(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", record)
    outcome = outcome_of("red-wine", tmp_path)
    plots.draw_outcome(outcome, tmp_path / "figure.png")
    places, _ = plots.ranked_test_rows(outcome)
    for place in [*places[:5].tolist(), *places[-5:].tolist()]:
        assert f"row {place + 1:,}" in shown
        for value in outcome.prepared.dataset.original[place].tolist():
            assert f"{value:.4g}" in shown


def test_the_command_prints_notes_columns_and_warnings(
    tmp_path: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    rows[40, 1] = 1e12
    path = write(tmp_path / "a.csv", np.column_stack([np.arange(120), rows]), ("", *NAMES))
    assert main(["train", str(path), "--out", str(tmp_path / "out"), *QUICK]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("note: the column without a name numbers or names the rows, so it was left out")
    assert printed[1] == "training on 3 columns: a, b, c"
    assert printed[2].startswith("warning: column 'b': its 120 different values become 2 in float32")


def test_the_command_takes_the_options_of_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    lines = [
        f"{i};{x:.2f};{y:.2f};{'uv'[i % 2]};{z:.2f}".replace(".", ",")
        for i, (x, y, z) in enumerate(generator.normal(size=(60, 3)))
    ]
    lines[4] = lines[4].rsplit(";", 1)[0] + ";"
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["id;x;y;kind;z", *lines]))
    command = ["train", str(path), "--out", str(tmp_path / "out"), *QUICK, "--json"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "2 faults" in error
    assert "--missing drop" in error
    assert "--categorical drop" in error
    options = ["--drop", "id", "--missing", "mean", "--categorical", "onehot", "--decimal", ",", "--header"]
    assert main([*command, *options]) == 0
    assert "training on 4 columns: x, y, kind=v, z" in capsys.readouterr().err
    assert main([*command, "--columns", "x, 5", "--missing", "drop"]) == 0
    assert "training on 2 columns: x, z" in capsys.readouterr().err
    assert main([*command, "--columns", "x", "--resume"]) == 2
    assert "columns is ('x',), the checkpoint has ('x', '5')" in capsys.readouterr().err
    assert main(["train", "moons", "--drop", "x", *QUICK]) == 2
    assert "moons is built in, so no options of reading apply" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--columns", "x,,y"])
    assert "expected names of columns separated by commas, got 'x,,y'" in capsys.readouterr().err


def test_the_command_reads_standard_input(tmp_path: Path, rows: np.ndarray) -> None:
    content = write(tmp_path / "a.csv", rows).read_bytes()
    command = [sys.executable, "-m", "fastssm", "train", "-", *QUICK]
    done = subprocess.run(command, input=content, cwd=tmp_path, capture_output=True, check=True)
    assert b"training on 3 columns: a, b, c" in done.stdout
    assert (tmp_path / "runs/stdin/result.json").is_file()


def test_rows_left_by_missing_values_are_enough_for_the_split(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{row},{row * row}\n" for row in range(9)) + "9,?\n")
    with pytest.raises(ValueError, match="at least 10 rows without missing values are required for the split, got 9"):
        data.load(path, data.ReadOptions(missing="drop"))
    assert len(data.load(path, data.ReadOptions(missing="mean")).rows) == 10
