"""Damaged, truncated and hostile files end in one sentence, and a large file takes little memory."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from fastssm.data import read_table
from fastssm.data.tables import decode, raw, sources
from fastssm.data.tables.blocks import ARROW_BYTES

ROWS = np.random.default_rng(17).normal(size=(50, 3))


def refusal(path: Path) -> str:
    """Return the error of reading a file, which is one line that names the file."""
    with pytest.raises(ValueError, match=path.name) as error:
        read_table(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert "Traceback" not in message
    return message


def test_a_compressed_file_that_expands_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SAFE_BYTES", 2**20)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"0,0\n" * 2**21))
    assert "expands more than 200-fold" in refusal(path)
    honest = "".join(
        ",".join(map(repr, row)) + "\n" for row in np.random.default_rng(0).normal(size=(20_000, 3)).tolist()
    )
    path.write_bytes(gzip.compress(honest.encode()))
    assert read_table(path).values.shape == (20_000, 3)


def test_archives_that_expand_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "largest_table", lambda: 2.0**20)
    monkeypatch.setattr("fastssm.data.tables.arrays.largest_table", lambda: 2.0**20)
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((2**18, 1)))
    assert "more than half of the memory" in refusal(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b" " * 2**21)
    if "openpyxl" in sys.modules or _has("openpyxl"):
        assert "more than half of the memory" in refusal(tmp_path / "bomb.xlsx")


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def test_tables_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "largest_table", lambda: 2.0**20)
    path = tmp_path / "large.csv"
    path.write_text("a,b\n" + "1.5,2\n" * 70_000)
    assert "must fit into half of the memory" in refusal(path)
    np.save(tmp_path / "large.npy", np.zeros((70_000, 2)))
    assert "must fit into half of the memory" in refusal(tmp_path / "large.npy")
    (tmp_path / "large.svm").write_text("".join(f"1 {i}:1\n" for i in range(1, 400)))
    assert "must fit into half of the memory" in refusal(tmp_path / "large.svm")


def promising(shape: tuple[int, ...]) -> bytes:
    """Return an NPY file whose header promises more than the file holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(80)


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    (tmp_path / "huge.npy").write_bytes(promising((10**12, 3)))
    assert "not a numeric NumPy file" in refusal(tmp_path / "huge.npy")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", promising((10**12, 3)))
    assert "not a numeric NumPy file" in refusal(tmp_path / "huge.npz")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("../../x", b"no array")
    assert "is not an array" in refusal(tmp_path / "odd.npz")
    assert not (tmp_path.parent.parent / "x").exists()


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)
    assert "not a numeric NumPy file" in refusal(tmp_path / "objects.npy")


def test_a_million_columns(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(("1," * 1_000_000 + "1\n") * 2)
    assert "at most 200,000 columns are read" in refusal(path)
    np.save(tmp_path / "wide.npy", np.zeros((1, 1_000_000), np.int8))
    assert "at most 200,000 columns are read, but this has 1,000,000" in refusal(tmp_path / "wide.npy")


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BLOCK", 1000)
    monkeypatch.setattr(decode, "LONGEST_LINE", 5000)
    path = tmp_path / "line.csv"
    path.write_text("7" * 20_000)
    assert "a line is longer than 5,000 characters" in refusal(path)


def test_a_quotation_without_end(tmp_path: Path) -> None:
    path = tmp_path / "quote.csv"
    path.write_text("a,b\n" + "1,2\n" * 500 + '3,"4\n' + "5,6\n" * 100_000)
    with pytest.raises(ValueError, match="check its quotation marks"):
        read_table(path, drop=["b"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zeros.csv", b"a,b\n1,2\n\0\0\0\n", "not a text file"),
        ("late.csv", b"a,b\n" + b"1,2\n" * 5000 + b"3,\0\n", "it has zero bytes"),
        ("picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not a text file"),
        ("excel.csv", b"PK\x03\x04" + bytes(50), "this is a ZIP archive or an Excel file"),
        ("parquet.csv", b"PAR1" + bytes(50), "this is a Parquet file"),
        ("numpy.csv", b"\x93NUMPY\x01\x00", "this is an NPY file"),
        ("damaged.csv", b"\xff\xfea", "its first bytes say utf-16"),
        ("empty.csv", b"", "the file is empty"),
        ("mark.csv", b"\xef\xbb\xbf", "the file is empty"),
        ("comments.csv", b"# a\n# b\n", "the file is empty"),
        ("empty.npy", b"", "not a numeric NumPy file"),
        ("empty.npz", b"", "not a numeric NumPy file"),
        ("empty.svm", b"", "expected rows of numbers, but it has none"),
        ("empty.arff", b"", "it has no @attribute"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".feather", ".csv.gz"])
def test_truncated_and_damaged_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".npy":
        np.save(path, ROWS)
    elif suffix == ".npz":
        np.savez_compressed(path, ROWS)
    elif suffix == ".csv.gz":
        path.write_bytes(gzip.compress("".join(f"{a},{b},{c}\n" for a, b, c in ROWS.tolist()).encode()))
    else:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        getattr(pandas.DataFrame(ROWS, columns=list("abc")), f"to_{suffix[1:]}")(path)
    content = path.read_bytes()
    np.testing.assert_array_equal(read_table(path, columns=["1", "2", "3"]).values, ROWS)
    for cut in range(1, len(content), max(1, len(content) // 23)):
        path.write_bytes(content[:cut])
        refusal(path)
    for place in range(0, len(content), max(1, len(content) // 41)):  # one byte is another
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read_table(path)
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017


def test_a_checksum_that_is_wrong(tmp_path: Path) -> None:
    content = gzip.compress(b"a,b\n" + b"1,2\n" * 20)
    (tmp_path / "sum.csv.gz").write_bytes(content[:-8] + struct.pack("<I", zlib.crc32(b"x")) + content[-4:])
    assert "damaged .gz file" in refusal(tmp_path / "sum.csv.gz")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv")
    (tmp_path / "table.ods").write_bytes(b"")
    assert "unknown extension '.ods'" in refusal(tmp_path / "table.ods")
    assert "not a regular file" in refusal(Path("/dev/null"))


PEAK = """
import sys
from fastssm.data import read_table
def memory(what):  # in KiB; ru_maxrss would be that of the parent, if it is larger
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
read_table(sys.argv[2])
before = memory("VmRSS")
table = read_table(sys.argv[1], missing="drop")
print(memory("VmHWM") - before, table.values.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("hole", [False, True])
def test_memory_is_at_most_three_times_the_table(tmp_path: Path, hole: bool) -> None:
    """A hole sends a part of the file the slow way. Packages that read are loaded before, by a small file."""
    rows = np.random.default_rng(0).normal(size=(100_000, 12))
    path = tmp_path / "large.csv"
    np.savetxt(
        path,
        rows,
        delimiter=",",
        fmt="%.17g",
        header=",".join("abcdefghijkl") + ("\n," + "1," * 10 + "1") * hole,
        comments="",
    )
    small = tmp_path / "small.csv"
    small.write_text("a,b\n" + "1.5,0\n" * (2 * ARROW_BYTES // 6))
    done = subprocess.run([sys.executable, "-c", PEAK, path, small], capture_output=True, text=True, check=True)
    peak, table = map(int, done.stdout.split())
    assert table == rows.nbytes
    assert table < peak * 1024 <= 3 * min(table, path.stat().st_size)
