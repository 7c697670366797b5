"""Tables larger than memory: the same rows, statistics and training as in memory, in constant memory."""

from __future__ import annotations

import dataclasses
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssm import data
from fastssm.cli import main
from fastssm.data import ReadOptions
from fastssm.data.dataset import dataset_generator
from fastssm.data.moments import Moments
from fastssm.data.stream import _held_out, _written
from fastssm.data.tables import decode, delimited, read, sources
from fastssm.training import Ranks, TrainConfig, Training, loop
from fastssm.training.facts import Facts

ALONE = Ranks(torch.device("cpu"))
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into pieces of a few rows, so that every table has many."""
    monkeypatch.setattr(decode, "BLOCK", 300)
    monkeypatch.setattr(delimited, "PIECE_BLOCKS", 2)
    monkeypatch.setattr(read, "PIECE_CELLS", 60)
    monkeypatch.setattr(sys.modules["fastssm.data.stream"], "BLOCK_CELLS", 60)


def rows_of(count: int = 400, columns: int = 4) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, columns)) @ generator.normal(size=(columns, columns)) + 100.0


def shards(folder: Path, lines: list[str], parts: int = 3) -> Path:
    """Write lines below the header `a,b,c,d` into files of a folder."""
    folder.mkdir(exist_ok=True)
    for part in range(parts):
        text = "\n".join(["a,b,c,d", *lines[part::parts]]) + "\n"
        (folder / f"part-{part}.csv").write_text(text)
    return folder


def written(folder: Path, kind: str) -> Path:
    rows = rows_of()
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    path = folder / f"table.{kind}"
    if kind == "csv":
        path.write_text("\n".join(["a,b,c,d", *lines]) + "\n")
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    elif kind == "npy":
        np.save(path, rows)
    elif kind == "parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows, columns=list("abcd")).to_parquet(path)
    else:
        return shards(folder / "shards", lines)
    return path


def require_equal(path: Path, options: ReadOptions | None = None) -> None:
    """Compare every row, name, number and schema with those of the reader in memory."""
    streamed, memory = _written(path, options or ReadOptions(), path.parent), data.load(path, options)
    assert streamed.columns == memory.columns
    torch.testing.assert_close(streamed.rows, memory.rows, rtol=1e-12, atol=0)
    assert streamed.row_numbers.tolist() == memory.row_numbers.tolist()
    assert (streamed.name, streamed.scale, streamed.image) == (memory.name, memory.scale, memory.image)
    assert streamed.schema is not None
    assert memory.schema is not None
    for ours, theirs in zip(streamed.schema.columns, memory.schema.columns, strict=True):
        assert dataclasses.replace(ours, fill=0.0) == dataclasses.replace(theirs, fill=0.0)
        assert ours.fill == pytest.approx(theirs.fill, rel=1e-12)
    assert sorted(streamed.notes) == sorted(memory.notes)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "npy", "parquet", "folder"])
def test_the_rows_are_those_of_the_reader_in_memory(tmp_path: Path, kind: str) -> None:
    require_equal(written(tmp_path, kind))


def test_missing_values_and_text_are_those_of_all_files(tmp_path: Path) -> None:
    words, lines = ["red", "green", "blue", "grey"], []
    for number, row in enumerate(rows_of(200).tolist()):
        cells = [*map(repr, row[:3]), words[number // 50]]  # each word is in some pieces alone
        cells[1] = "?" if number % 7 == 3 else cells[1]
        lines.append(",".join(cells))
    folder = shards(tmp_path / "shards", lines)
    for missing in ("drop", "mean", "indicator"):
        require_equal(folder, ReadOptions(missing=missing, categorical="onehot"))  # type: ignore[arg-type]
    require_equal(folder, ReadOptions(missing="mean", drop=("d",)))
    require_equal(folder, ReadOptions(missing="mean", columns=("c", "b")))
    require_equal(folder, ReadOptions(missing="drop", categorical="drop"))


def test_cells_of_two_lines_across_pieces(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "".join(f'"{row[0]}\n","\n{row[1]}"\n' for row in rows_of(200, 2).tolist()))
    require_equal(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows shows the name while the file is open")
def test_the_files_have_no_names_that_could_stay(tmp_path: Path) -> None:
    prepared = data.stream(written(tmp_path, "csv"), folder=tmp_path / "out")
    assert len(prepared.train) == 320
    assert list((tmp_path / "out").iterdir()) == []


def test_hostile_tables_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SAFE_BYTES", 10_000)
    rows = "a,b\n" + "1,2\n" * 500_000
    cases = {
        "bomb.csv.gz": (gzip.compress(rows.encode()), "expands more than 200-fold"),
        "wide.csv": (b"1," * 1_000_000 + b"1\n", "at most 200,000 columns are read"),
        "picture.csv": (b"\x89PNG\r\n\x1a\n\0\0", "not a text file"),
        "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 99)[:-20], "damaged .gz file"),
        "other.parquet": (b"PAR1" + bytes(99), "not a readable Parquet file"),
        "other.npy": (b"\x93NUMPY" + bytes(99), "not a numeric NumPy file"),
        "open.csv": (b'a,b\n"1,2\n' + b"3,4\n" * 99, "check its quotation marks"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            data.stream(tmp_path / name, folder=tmp_path / "out")
        assert str(error.value).startswith(str(tmp_path))
    assert not (tmp_path / "out").exists()


COLUMNS = [["1", "2.5", "-3e2", "7"], ["1.25", "", "7", "8"], ["x", "y", "z"], ["x", "y", "?"], ["True", "False"]]
COLUMNS += [["$3", "4", "$5"], ["9.9%", "3%", "4.5%"], ["1,5", "2", "x"], ["", "3", "NA", "nan"]]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(COLUMNS), min_size=2, max_size=4),
    st.integers(10, 80),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["refuse", "drop", "mean", "indicator"]),
    st.sampled_from(["refuse", "drop", "onehot"]),
)
def test_what_is_streamed_is_what_memory_reads(
    tmp_path_factory: pytest.TempPathFactory,
    columns: list[list[str]],
    rows: int,
    seed: int,
    missing: str,
    categorical: str,
) -> None:
    generator = np.random.default_rng(seed)
    lines = [";".join(generator.choice(column) for column in columns) for _ in range(rows)]
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("\n".join([";".join("abcd"[: len(columns)]), *lines]) + "\n")
    options = ReadOptions(missing=missing, categorical=categorical)  # type: ignore[arg-type]
    try:
        data.load(path, options)
    except ValueError:
        with pytest.raises(ValueError, match=r".+"):
            data.stream(path, options, scale="standardise", noise=0.1)
        return
    require_equal(path, options)


def test_moments_of_blocks_are_those_of_all_rows() -> None:
    rows = torch.from_numpy(rows_of(1000, 3)) + 1e7
    moments = Moments(3)
    for block in rows.split([1, 2, 500, 497]):
        moments.add(block)
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.covariance, torch.cov(rows.T), rtol=1e-9, atol=0)
    torch.testing.assert_close(moments.deviation, rows.std(0), rtol=1e-9, atol=0)
    assert torch.equal(moments.low, rows.amin(0))
    assert torch.equal(moments.low_row, rows.argmin(0))
    assert torch.equal(moments.high_row, rows.argmax(0))


@pytest.mark.parametrize("scale", ["standardise", "whiten", "none"])
def test_statistics_and_training_are_those_of_the_same_rows_in_memory(tmp_path: Path, scale: str) -> None:
    path = written(tmp_path, "folder")
    config = TrainConfig(str(path), steps=5, hidden=(8,), batch=16, scale=scale, noise=0.1, stream=True)
    streamed = loop.prepared_data(config, tmp_path / "out")
    kept = torch.ones(400, dtype=torch.bool)
    kept[_held_out(400, dataset_generator())] = False
    assert not kept[streamed.test_index].any()
    rows = streamed.dataset.rows[kept]
    assert len(rows) == len(streamed.train) == 320
    standard = (rows - rows.mean(0)) / rows.std(0)
    variance = torch.linalg.eigvalsh(torch.cov(standard.T))
    covariance = {"none": torch.cov(rows.T), "standardise": torch.cov(standard.T), "whiten": torch.eye(4).double()}
    facts = Facts.of(streamed)
    torch.testing.assert_close(facts.covariance, covariance[scale], rtol=1e-5, atol=1e-6 / variance[0].item())
    expected = streamed.scaler.scale(rows).float()
    torch.testing.assert_close(streamed.train, expected, rtol=1e-6, atol=1e-6)
    memory = dataclasses.replace(streamed, train=streamed.train.clone(), moments=None)
    for name in ("low", "high", "mean", "covariance"):
        torch.testing.assert_close(getattr(facts, name), getattr(Facts.of(memory), name), rtol=1e-12, atol=1e-13)
    assert torch.equal(weights_of(config, streamed), weights_of(config, memory))


def weights_of(config: TrainConfig, prepared: data.Prepared) -> torch.Tensor:
    training = Training(config, prepared, ALONE)
    while not training.ending:
        training.advance()
        if training.evaluation_is_due():
            training.evaluate()
    return torch.cat([tensor.flatten() for tensor in training.best_net().state_dict().values()])


@pytest.mark.parametrize("rows", [10, 11, 99, 400, 20_001])
def test_held_out_rows_are_spread_over_the_table(rows: int) -> None:
    found = _held_out(rows, dataset_generator())
    count = 2 * min(1000, rows // 10)
    assert len(found.unique()) == count
    assert found.tolist() == sorted(found.tolist())
    assert all(place * count // rows == number for number, place in enumerate(found.tolist())) or rows % count
    assert 0 <= found[0] <= found[-1] < rows


def test_all_faults_of_all_pieces_are_in_one_report(tmp_path: Path) -> None:
    lines = [f"{row[0]},{row[1]},7,{row[2]}" for row in rows_of(300).tolist()]
    lines[150] = "1_000,1,7,3"
    lines[200] = "1,word,7,3"
    lines[250] = "1,2,7"
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,d", *lines]) + "\n")
    with pytest.raises(ValueError, match="faults must be dealt with") as error:
        data.stream(path)
    report = str(error.value)
    assert "column 'a' has an underscore in '1_000' in row 151" in report
    assert "column 'b' has text in 1 cell among its numbers, first 'word' in row 201" in report
    assert "row 251 has 3 cells instead of 4" in report
    assert "column 'c' is constant: 7 in every row" in report
    folder = shards(tmp_path / "shards", lines[:100])
    (folder / "part-9.csv").write_text("a,b,c,e\n1,2,3,4\n")
    with pytest.raises(ValueError, match="every file of a folder must have the same columns"):
        data.stream(folder)


def test_a_kind_that_changes_along_the_table_is_refused(tmp_path: Path) -> None:
    lines = [f"{number / 7},{'yes' if number % 2 else 1},$2,3" for number in range(200)]
    with pytest.raises(ValueError, match=r"rows 1 to .* of part-1.csv: column 'b' holds text, but numbers in the row"):
        data.stream(shards(tmp_path / "one", lines, 2), ReadOptions(categorical="onehot"))
    lines = [f"{number / 7},{number % 3},{'$€'[number % 2]}{number % 5},{number % 4}" for number in range(200)]
    with pytest.raises(ValueError, match=r"column 'c' mixes the currencies \$ and €"):
        data.stream(shards(tmp_path / "two", lines, 2))
    lines = [f"{number / 7},word{number},1,2" for number in range(200)]
    with pytest.raises(ValueError, match="column 'b' holds text of more than 100 values"):
        data.stream(shards(tmp_path / "three", lines, 1), ReadOptions(categorical="onehot"))


def test_what_cannot_be_streamed_is_said(tmp_path: Path) -> None:
    for source, why in (("-", "standard input can be read only once"), ("moons", "moons is built in")):
        with pytest.raises(ValueError, match=why):
            data.stream(source)
    path = tmp_path / "few.csv"
    path.write_text("a,b\n1,2\n3,5\n")
    with pytest.raises(ValueError, match="at least 10 rows are required for the split, got 2"):
        data.stream(path)
    path.write_text("a,b\n" + "1,2\n" * 20)
    with pytest.raises(ValueError, match="constant"):
        data.stream(path)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="expected rows of numbers"):
        data.stream(path)
    path.write_text("a,b\n" + "".join(f",{row}\n{row},\n" for row in range(20)))
    with pytest.raises(ValueError, match="every row has a missing value"):
        data.stream(path, ReadOptions(missing="drop"))


def test_a_full_disk_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(ValueError, match=r"written there \(No space left on device\).*choose another --out"):
        data.stream(written(tmp_path, "csv"))


def test_warnings_name_the_row_of_the_file(tmp_path: Path) -> None:
    rows = rows_of()
    rows[123, 1] = 1e12
    rows[:, 3] = 2 * rows[:, 0] + 1
    path = tmp_path / "table.npy"
    np.save(path, rows)
    streamed = data.stream(path, scale="standardise", noise=0.1).warnings
    memory = data.prepare(data.load(path), scale="standardise", noise=0.1).warnings
    assert streamed == memory
    assert any("because row 124 is 1e+12" in warning for warning in streamed)
    assert any("linearly dependent" in warning for warning in streamed)
    numbered = np.column_stack([np.arange(400), rows_of(400, 2)])
    np.save(path, numbered)
    require_equal(path)


def test_the_command_streams_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = written(tmp_path, "folder"), tmp_path / "out"
    options = ["--steps", "6", "--hidden", "4", "--batch", "8", "--evaluate-every", "3", "--out", str(out)]
    assert main(["train", str(folder), "--stream", *options]) == 0
    assert "320 training, 40 validation and 40 test" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert not [name for name in names if name.startswith(".rows")]
    assert main(["train", str(folder), "--stream", "--resume", *options]) == 0
    assert "already finished" in capsys.readouterr().out
    assert main(["train", str(folder), "--resume", *options]) != 0
    assert "stream is False, the checkpoint has True" in capsys.readouterr().err


GROWTH = """
import sys, threading, time
from pathlib import Path
import torch
from fastssm.data import stream
from fastssm.data.tables import decode, delimited, read, sources
from fastssm.training import Ranks, TrainConfig, Training

def anonymous():  # KiB that the system cannot drop, unlike pages of files
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    while True:
        peaks[-1] = max(peaks[-1], anonymous())
        time.sleep(0.0005)

def train(path):
    config = TrainConfig(path, steps=30, hidden=(8,), batch=64, stream=True)
    training = Training(config, stream(path, folder=Path(sys.argv[1])), Ranks(torch.device("cpu")))
    while not training.ending:
        training.advance()
        if training.evaluation_is_due():
            training.evaluate()

torch.set_num_threads(1)
decode.BLOCK, delimited.PIECE_BLOCKS, read.PIECE_CELLS = 2**17, 2, 2**16  # less than the small table
peaks = [0]
threading.Thread(target=watch, daemon=True).start()
train(sys.argv[2])
for path in sys.argv[2:]:
    peaks.append(anonymous())
    train(path)
print(peaks[1], peaks[2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_memory_stays_flat_when_the_table_grows_eightfold(tmp_path: Path, kind: str) -> None:
    paths = []
    for factor in (1, 8):
        rows = np.tile(rows_of(60_000, 6), (factor, 1))
        path = tmp_path / f"table-{factor}.{kind}"
        if kind == "npy":
            np.save(path, rows)
        else:
            text = "\n".join(",".join(f"{cell:.6f}" for cell in row) for row in rows_of(60_000, 6).tolist()) + "\n"
            path.write_text(text * factor)
        paths.append(str(path))
    command = [sys.executable, "-c", GROWTH, str(tmp_path), *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    table = 7 * 60_000 * 6 * 8 // 1024  # KiB by which the table grows in float64
    assert large - small < table / 4, f"the peak grew by {large - small} KiB with a table that grew by {table} KiB"
