"""Binary formats, libsvm, ARFF, Excel, standard input and folders of files."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastssm import data
from fastssm.data import read_table

ROWS = np.random.default_rng(16).normal(size=(12, 3))


def as_csv(rows: np.ndarray, header: str = "a,b,c") -> str:
    return f"{header}\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist())


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_arrow_files(tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {"a": [1, 2, 3], "b": [True, False, True], "c": ["x", "y", None], "d": [0.5, None, 1.5], "e": ["1.5", "2", "?"]}
    )
    frame["f"] = frame["c"].astype("category")
    frame["g"] = pandas.array([1, None, 3], dtype="Int64")
    path = tmp_path / f"table{suffix}"
    getattr(frame, f"to_{suffix[1:]}")(path)
    with pytest.raises(ValueError, match="7 faults"):
        read_table(path)
    table = read_table(path, missing="indicator", categorical="onehot")
    assert table.names[:4] == ("a", "b", "c=y", "c is missing")
    values = dict(zip(table.names, table.values.T.tolist(), strict=True))
    assert (values["a"], values["b"], values["c=y"]) == ([1, 2, 3], [1, 0, 1], [0, 1, 0])
    assert (values["d"], values["e"], values["g"]) == ([0.5, 1, 1.5], [1.5, 2, 1.75], [1, 2, 3])
    assert values["f is missing"] == [0, 0, 1]
    assert read_table(path, columns=["a", "b"]).values.tolist() == [[1, 1], [2, 0], [3, 1]]


def test_parquet_index_lists_and_large_numbers(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": [2**60 + 1, 3]}, index=[7, 8])
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.names == ("a", "b")
    assert "the column without a name" in table.notes[-1]
    assert "'b' has whole numbers beyond 2**53" in table.notes[0]
    frame["c"] = [[1], [2]]
    frame["d"] = pandas.to_datetime(["2020-01-01", "2020-01-02"])
    frame.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="2 faults") as error:
        read_table(tmp_path / "b.parquet")
    assert "'c' holds list<" in str(error.value)
    assert "'d' holds dates or times" in str(error.value)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module, package in (
        ("a.parquet", "pyarrow.parquet", "pyarrow"),
        ("a.feather", "pyarrow.feather", "pyarrow"),
        ("a.xlsx", "openpyxl", "openpyxl"),
    ):
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=f"need {package}, which is not installed; pip install {package}"):
            read_table(tmp_path / name)
    (tmp_path / "a.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match=r"\.zst files need pyarrow or zstandard; pip install pyarrow"):
        read_table(tmp_path / "a.csv.zst")


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([None, None, None, None])
    sheet.append(["a", "b", "c", None])
    rows = ROWS.round(6)  # openpyxl writes 16 digits
    for row in rows.tolist():
        sheet.append([*row[:2], row[2] > 0, None])
    book.create_sheet("more")
    book.save(tmp_path / "table.xlsx")
    table = read_table(tmp_path / "table.xlsx")
    assert table.names == ("a", "b", "c")
    np.testing.assert_array_equal(table.values[:, :2], rows[:, :2])
    np.testing.assert_array_equal(table.values[:, 2], ROWS[:, 2] > 0)
    assert "the sheet 'Sheet' was read, not 'more'" in table.notes
    sheet["A5"], sheet["B6"] = "9,5", None
    book.save(tmp_path / "table.xlsx")
    with pytest.raises(ValueError, match="2 faults") as error:
        read_table(tmp_path / "table.xlsx")
    assert "'a' has a decimal comma in '9,5' in row 3" in str(error.value)
    assert "'b' has 1 missing value, first the empty cell in row 4" in str(error.value)
    assert read_table(tmp_path / "table.xlsx", decimal=",", missing="drop").values[2, 0] == 9.5
    (tmp_path / "bad.xlsx").write_bytes((tmp_path / "table.xlsx").read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a readable Excel file"):
        read_table(tmp_path / "bad.xlsx")


def test_libsvm(tmp_path: Path) -> None:
    path = tmp_path / "rows.svm"
    path.write_text("1 1:0.5 3:2\n-1 qid:4 2:1e3 # a comment\n\n0\n")
    table = read_table(path)
    assert table.names == ("label", "1", "2", "3")
    assert table.values.tolist() == [[1, 0.5, 0, 2], [-1, 0, 1000, 0], [0, 0, 0, 0]]
    assert "--drop label" in table.notes[0]
    path.write_text("1 0:0.5 1:2\n")
    assert read_table(path).names == ("label", "0", "1")
    path.write_text("1 1:0.5\nx 1:2\n3 2:a\n4 1_0:2\n")
    with pytest.raises(ValueError, match="3 faults") as error:
        read_table(path)
    assert "row 2 has 'x' where a label or index:value is expected" in str(error.value)
    path.write_text("1 999999999999:0.5\n")
    with pytest.raises(ValueError, match="at most 200,000 columns are read"):
        read_table(path)


ARFF = """% made by hand
@RELATION iris
@ATTRIBUTE sepal NUMERIC
@attribute 'sepal width' real
@attribute class {setosa, 'other one'}
@DATA
5.1, 3.5, setosa
?, 3.0, 'other one'
% a comment
4.7, 3.2, setosa
"""


def test_arff(tmp_path: Path) -> None:
    path = tmp_path / "iris.arff"
    path.write_text(ARFF)
    with pytest.raises(ValueError, match="2 faults") as error:
        read_table(path)
    assert "'sepal' has 1 missing value, first '?' in row 2" in str(error.value)
    table = read_table(path, missing="drop", categorical="onehot")
    assert table.names == ("sepal", "sepal width", "class=setosa")
    assert table.values.tolist() == [[5.1, 3.5, 1], [4.7, 3.2, 1]]
    for bad, message in (
        (ARFF.replace("4.7, ", ""), "row 3 has 2 cells instead of 3"),
        (ARFF.replace("@DATA", "oops"), "expected @relation, @attribute or @data, got 'oops'"),
        ("@data\n1,2\n", "has no @attribute"),
        (ARFF + "{0 5.1}\n", "sparse ARFF is not read"),
    ):
        path.write_text(bad)
        with pytest.raises(ValueError, match=message):
            read_table(path)


class Standard:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    np.save(file, ROWS)
    for content in (as_csv(ROWS).encode(), file.getvalue(), as_csv(ROWS).replace(",", "\t").encode("utf-16")):
        monkeypatch.setattr(sys, "stdin", Standard(content))
        np.testing.assert_array_equal(read_table("-").values, ROWS)
    monkeypatch.setattr(sys, "stdin", Standard(as_csv(ROWS).encode()))
    assert data.load("-").name == "stdin"
    monkeypatch.setattr(sys, "stdin", Standard(b""))
    with pytest.raises(ValueError, match="standard input: expected rows of numbers, but the file is empty"):
        read_table("-")


def shards(folder: Path, *contents: str) -> Path:
    for index, content in enumerate(contents):
        (folder / f"part-{index}.csv").write_text(content)
    return folder


def test_a_folder_of_files(tmp_path: Path) -> None:
    shards(tmp_path, as_csv(ROWS[:5]), as_csv(ROWS[5:7, [2, 0, 1]], "c,a,b"), as_csv(ROWS[7:]))
    (tmp_path / "README.md").write_text("nothing")
    (tmp_path / "_SUCCESS").write_text("")
    table = read_table(tmp_path)
    np.testing.assert_array_equal(table.values, ROWS)
    assert table.names == ("a", "b", "c")
    assert "the rows of 3 files were joined, from part-0.csv to part-2.csv" in table.notes
    assert "files that are no tables were left out: README.md" in table.notes
    assert data.load(tmp_path).name == tmp_path.name


@pytest.mark.parametrize("first", ["0", "r"])
def test_every_file_of_a_folder_numbers_its_own_rows(tmp_path: Path, first: str) -> None:
    for part in range(3):
        rows = [f"{first.removesuffix('0')}{row},{part + row / 7},{row * row}" for row in range(20)]
        (tmp_path / f"{part}.csv").write_text("\n".join([",a,b", *rows]) + "\n")
    table = read_table(tmp_path)
    assert table.names == ("a", "b")
    assert any("the column without a name numbers or names the rows" in note for note in table.notes)
    (tmp_path / "3.csv").write_text(",a,b\n1,2,3\n1,3,5\n")
    if first == "0":
        assert read_table(tmp_path).names == ("column 1", "a", "b")


def test_text_and_faults_in_a_folder(tmp_path: Path) -> None:
    folder = shards(tmp_path, "a,b\n1,x\n2,y\n", "a,b\n3,z\n?,x\n")
    with pytest.raises(ValueError, match="2 faults") as error:
        read_table(folder)
    assert "'a' has 1 missing value, first '?' in row 2 of part-1.csv" in str(error.value)
    table = read_table(folder, categorical="onehot", missing="drop")
    assert table.names == ("a", "b=y", "b=z")
    assert table.values.tolist() == [[1, 0, 0], [2, 1, 0], [3, 0, 1]]
    assert table.row_numbers.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (("a,b\n1,2\n", "a,c\n1,2\n"), "every file of a folder must have the same columns, but 'b'"),
        (("a;b\n1,5;2\n", "a;b\n1.5;2\n"), "some files have decimal commas and others decimal points"),
        (("a,b\n1,2\n", "a,b\n1,2\n3\n"), "part-1.csv: row 2 has 1 cell instead of 2"),
        ((), "no table is in this folder"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, contents: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(shards(tmp_path, *contents))


def test_structured_and_compressed_arrays(tmp_path: Path) -> None:
    import gzip

    fields = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", int), ("b", float)])
    assert read_table(fields).names == ("a", "b")
    file: Any = io.BytesIO()
    np.save(file, ROWS)
    (tmp_path / "rows.npy.gz").write_bytes(gzip.compress(file.getvalue()))
    np.testing.assert_array_equal(read_table(tmp_path / "rows.npy.gz").values, ROWS)
