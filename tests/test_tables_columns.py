"""Which columns are read, missing values, text, and other rows read by the schema of the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssm.data import ReadOptions, Schema, Table, read_table

PATIENTS = """id,sex,age,share,smokes,weight
p1,f,30,10%,True,60.5
p2,m,40,20%,False,
p3,f,?,30%,True,80.5
p4,d,50,40%,False,71
"""


def read(folder: Path, content: str, name: str = "table.csv", **options: Any) -> Table:
    (folder / name).write_text(content, encoding="utf-8")
    return read_table(folder / name, **options)


def test_columns_by_name_and_number(tmp_path: Path) -> None:
    text = "a,b,c\n1,2,3\n4,5,6\n"
    for columns, expected in ((["c", "a"], [[3, 1], [6, 4]]), (["3", "1"], [[3, 1], [6, 4]]), (["b"], [[2], [5]])):
        table = read(tmp_path, text, columns=columns)
        np.testing.assert_array_equal(table.values, expected)
        assert table.names == tuple(n if n in "abc" else "abc"[int(n) - 1] for n in columns)
    assert read(tmp_path, text, drop=["b"]).names == ("a", "c")
    assert read(tmp_path, text, drop=["2", "c"]).names == ("a",)
    numbers = "2,1,x\n1.5,2.5,3.5\n"  # a name comes before a number
    assert read(tmp_path, numbers, header=True, columns=["1"]).values.tolist() == [[2.5]]


def test_faults_of_columns_that_are_left_out_do_not_matter(tmp_path: Path) -> None:
    table = read(tmp_path, PATIENTS, columns=["smokes", "share"])
    np.testing.assert_array_equal(table.values, [[1, 0.1], [0, 0.2], [1, 0.3], [0, 0.4]])
    assert read(tmp_path, PATIENTS, drop=["id", "sex", "age", "weight"]).names == ("share", "smokes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["agee"]}, "--columns: 'agee' is not a column; did you mean 'age'"),
        ({"drop": ["x", "9"]}, "--drop: 'x', '9' are not columns; the columns are id, sex, age, share"),
        ({"columns": ["age", "age"]}, "--columns names a column twice"),
        ({"columns": []}, "no column is left to read"),
        ({"columns": ["age"], "drop": ["age"]}, "columns and drop both name 'age'"),
        ({"columns": "age"}, "columns must be a sequence of names, got the string 'age'"),
        ({"missing": "median"}, "missing must be one of 'refuse', 'drop', 'mean', 'indicator', got 'median'"),
        ({"categorical": "hash"}, "categorical must be one of 'refuse', 'drop', 'onehot', got 'hash'"),
        ({"decimal": ";"}, "decimal must be one of"),
        ({"header": "yes"}, "header must be True, False or 'auto', got 'yes'"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        read(tmp_path, PATIENTS, **options)


def test_missing_values(tmp_path: Path) -> None:
    options: dict[str, Any] = {"columns": ["age", "weight"]}
    with pytest.raises(ValueError, match="2 faults"):
        read(tmp_path, PATIENTS, **options)
    dropped = read(tmp_path, PATIENTS, missing="drop", **options)
    np.testing.assert_array_equal(dropped.values, [[30, 60.5], [50, 71]])
    assert dropped.row_numbers.tolist() == [1, 4]
    assert "2 of 4 rows with missing values were left out" in dropped.notes
    age, weight = 40.0, (60.5 + 80.5 + 71) / 3
    filled = [[30, 60.5], [40, weight], [age, 80.5], [50, 71]]
    table = read(tmp_path, PATIENTS, missing="mean", **options)
    np.testing.assert_allclose(table.values, filled, rtol=1e-15)
    assert "column 'weight' had 1 missing value, which became its mean 70.6667" in table.notes
    marked = read(tmp_path, PATIENTS, missing="indicator", **options)
    assert marked.names == ("age", "age is missing", "weight", "weight is missing")
    np.testing.assert_allclose(marked.values[:, ::2], filled, rtol=1e-15)
    np.testing.assert_array_equal(marked.values[:, 1::2], [[0, 0], [0, 1], [1, 0], [0, 0]])
    with pytest.raises(ValueError, match="every row has a missing value, so --missing drop leaves none"):
        read(tmp_path, "a,b\n1,?\n?,2\n", missing="drop")


def test_text_columns(tmp_path: Path) -> None:
    assert read(tmp_path, PATIENTS, categorical="drop", missing="mean").names == ("age", "share", "smokes", "weight")
    table = read(tmp_path, PATIENTS, columns=["sex", "smokes"], categorical="onehot")
    assert table.names == ("sex=f", "sex=m", "smokes")
    np.testing.assert_array_equal(table.values, [[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    assert "column 'sex' became 2 columns of 0 and 1; 'd' is where all are 0" in table.notes
    with pytest.raises(ValueError, match="has the same text, 'f', in every row"):
        read(tmp_path, "a,b\n1,f\n2,f\n", categorical="onehot")
    many = "a,b\n" + "".join(f"{i},name {i}\n" for i in range(101))
    with pytest.raises(
        ValueError, match=r"holds text, 101 different values, first 'name 0' in row 1; .* --drop 'b' this one"
    ):
        read(tmp_path, many, categorical="onehot")


def test_missing_text(tmp_path: Path) -> None:
    text = "a,b\n1,x\n2,NA\n3,y\n"
    with pytest.raises(ValueError, match="text has no mean"):
        read(tmp_path, text, categorical="onehot", missing="mean")
    assert read(tmp_path, text, categorical="onehot", missing="drop").values.tolist() == [[1, 0], [3, 1]]
    table = read(tmp_path, text, categorical="onehot", missing="indicator")
    assert table.names == ("a", "b=y", "b is missing")
    assert table.values.tolist() == [[1, 0, 0], [2, 0, 1], [3, 1, 0]]


def test_other_rows_are_read_alike(tmp_path: Path) -> None:
    options: dict[str, Any] = {"drop": ["id"], "missing": "indicator", "categorical": "onehot"}
    first = read(tmp_path, PATIENTS, **options)
    schema = Schema.from_json(json.loads(json.dumps(first.schema.to_json())))
    assert schema == first.schema
    assert schema.names == first.names
    again = read_table(tmp_path / "table.csv", like=schema)
    np.testing.assert_array_equal(again.values, first.values)
    assert "not in the model, so left out: id" in again.notes
    # in another order, in another dialect, without a category, with its own missing values
    other = "weight;smokes;share;age;sex;new\n?;False;12,5%;35;m;1\n61,5;True;1%;?;f;2\n"
    table = read(tmp_path, other, "other.csv", like=first)
    assert table.names == first.names
    mean_age, mean_weight = 40.0, (60.5 + 80.5 + 71) / 3
    expected = [[0, 1, 35, 0, 0.125, 0, mean_weight, 1], [1, 0, mean_age, 1, 0.01, 1, 61.5, 0]]
    np.testing.assert_allclose(table.values, expected, rtol=1e-15)
    assert table.schema == schema


def test_other_rows_that_do_not_fit(tmp_path: Path) -> None:
    schema = read(tmp_path, PATIENTS, drop=["id", "age", "weight"], categorical="onehot").schema
    with pytest.raises(ValueError, match="2 faults") as error:
        read(tmp_path, "sex,share,smokes\nx,0.1,True\n", like=schema)
    assert "has 'x' in row 1, which is none of its values in training: d, f, m" in str(error.value)
    assert "holds numbers, but held percentages in training" in str(error.value)
    with pytest.raises(ValueError, match="trained on sex, share, smokes, but share, smokes are not in this file"):
        read(tmp_path, "sex,a\nf,1\n", like=schema)
    with pytest.raises(ValueError, match="'share' has 1 missing value, first the empty cell in row 1"):
        read(tmp_path, "sex,share,smokes\nf,,True\nf,5%,True\n", like=schema)
    for options in ({"columns": ["a"]}, {"drop": ["a"]}, {"categorical": "drop"}):
        with pytest.raises(ValueError, match="columns, drop and categorical come from like"):
            read(tmp_path, PATIENTS, like=schema, **options)


def test_rows_without_names_are_read_by_position(tmp_path: Path) -> None:
    schema = read(tmp_path, "a,b,c\n1,2,3\n4,5,7\n", drop=["b"]).schema
    assert read_table(np.array([[1.0, 2.0, 3.0]]), like=schema).values.tolist() == [[1, 3]]
    assert read_table(torch.tensor([[1.0, 3.0]]), like=schema).values.tolist() == [[1, 3]]
    assert read_table([[1, 3]], like=schema).names == ("a", "c")
    with pytest.raises(ValueError, match="its 4 columns have no names, so there must be 2 or 3"):
        read_table(np.ones((1, 4)), like=schema)
    numbered = read(tmp_path, "1,2\n3,4\n5,7\n").schema
    assert read(tmp_path, "1,2\n3,4\n5,7\n", like=numbered).names == ("column 1", "column 2")


def test_data_frames(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [True, False], "c": ["x", "y"], "d": [0.5, None]})
    table = read_table(frame, categorical="onehot", missing="mean")
    assert table.names == ("a", "b", "c=y", "d")
    assert table.values.tolist() == [[1, 1, 0, 0.5], [2, 0, 1, 0.5]]
    assert read_table(frame[["d", "c", "b", "a"]], like=table).values.tolist() == table.values.tolist()
    with pytest.raises(ValueError, match="2 faults"):
        read_table(frame)


def test_arrays_are_neither_kept_nor_changed() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    table = read_table(rows)
    assert not np.shares_memory(table.values, rows)
    assert not table.values.flags.writeable
    assert not table.row_numbers.flags.writeable
    with pytest.raises(ValueError, match="expected a path, an array, a tensor or a data frame, got int"):
        read_table(3)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"columns": [{"name": "a"}]},
        {"columns": [{"name": 1, "position": 0, "kind": "number", "categories": [], "fill": 0.0, "marked": False}]},
        {"columns": [{"name": "a", "position": 0, "kind": "x", "categories": [], "fill": 0.0, "marked": False}]},
        {
            "columns": [
                {"name": "a", "position": 0, "kind": "number", "categories": [], "fill": float("nan"), "marked": False}
            ]
        },
        {"width": "3"},
    ],
)
def test_schemas_that_are_none(change: dict[str, Any]) -> None:
    saved = read_table([[1.0, 2.0]]).schema.to_json()
    with pytest.raises(ValueError, match="expected the schema of a table"):
        Schema.from_json({**saved, **change})
    with pytest.raises(ValueError, match="expected the schema of a table"):
        Schema.from_json([])  # type: ignore[arg-type]


def test_defaults_are_those_of_the_options() -> None:
    assert ReadOptions() == ReadOptions(None, (), "auto", "auto", "refuse", "refuse")
