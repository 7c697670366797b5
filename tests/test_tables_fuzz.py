"""Random tables in random dialects: what pandas reads is read with equal values, or refused with a reason."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastssm.data import read_table
from fastssm.data.tables import blocks, raw

pandas = pytest.importorskip("pandas")

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(finite, st.floats(-100, 100).map(lambda x: round(x, 2)), st.integers(-(2**53), 2**53).map(float))
words = st.text("abcxyzäöß", min_size=1, max_size=5)
SEPARATORS = {",": ",", ";": ";", "tab": "\t", "|": "|", "blanks": " "}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[float]], list[str]]:
    """Return rows of one length and names for the columns."""
    width = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=12))
    return rows, draw(st.lists(words, min_size=width, max_size=width, unique=True))


@st.composite
def written(draw: st.DrawFn, rows: list[list[float]], names: list[str]) -> tuple[bytes, dict[str, object]]:
    """Return a table as bytes of a text file, and what pandas must be told to read it."""
    separator = draw(st.sampled_from(list(SEPARATORS.values())))
    decimal = draw(st.sampled_from([".", ","] if separator != "," else ["."]))
    header, quoted = draw(st.booleans()), draw(st.booleans())
    cells = [[repr(x).replace(".", decimal) for x in row] for row in rows]
    file = io.StringIO()
    writer = csv.writer(
        file,
        delimiter=separator,
        quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    writer.writerows([names, *cells] if header else cells)
    comment = "# made by a machine, 3; of them | in all\n" if draw(st.booleans()) else ""
    told = {"sep": separator, "decimal": decimal, "header": 0 if header else None, "skiprows": bool(comment)}
    return (comment + file.getvalue()).encode(draw(st.sampled_from(ENCODINGS))), told


cells = st.one_of(
    numbers.map(repr),
    numbers.map(lambda x: f"{x:.3g}"),
    st.text("0123456789+-.eE ", max_size=6),
    st.sampled_from(["1e999", "-1e999", "1e-400", "-0", "4.9e-324", "9007199254740993", "0.1e", "1" * 400, "+1", " 1"]),
)


@quick
@given(st.integers(1, 4), st.lists(cells, min_size=1, max_size=40), st.sampled_from([",", ";", "\t", "|"]))
def test_arrow_gives_what_float_gives_or_nothing(width: int, found: list[str], mark: str) -> None:
    pytest.importorskip("pyarrow")
    found = found[: max(1, len(found) // width) * width] * (1 if len(found) >= width else width)
    lines = [mark.join(found[start : start + width]) for start in range(0, len(found) // width * width, width)]
    packed = ("\n".join(lines) + "\n").encode()
    fast = blocks.by_arrow(packed, mark.encode(), width)
    expected = raw.floats(mark.join(lines).encode().split(mark.encode()))
    if fast is not None:
        assert expected is not None, "arrow takes for a number what is none"
        assert fast.tobytes() == expected.tobytes()
    elif expected is not None:
        assert any(cell.strip() != cell or "+" in cell or not cell[-1:].isdigit() for cell in found), "arrow declines"


@pytest.mark.parametrize("fault", ["", "?", "1,2,3", "1_0", "+1"])
def test_large_files_are_read_alike_with_and_without_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    pytest.importorskip("pyarrow")
    lines = [f"{number / 7!r},{number * 1e-300!r}" for number in range(60_000)]
    lines[50_000] = f"{fault or 1},2"
    path = tmp_path / "large.csv"
    path.write_text("\n".join(["a,b", *lines]) + "\n")

    def found() -> object:
        try:
            table = read_table(path, missing="drop")
        except ValueError as error:
            return str(error)
        return table.values.tobytes(), table.row_numbers.tobytes(), table.notes

    used = []
    by_arrow = blocks.by_arrow
    monkeypatch.setattr(blocks, "by_arrow", lambda *args: (used.append(by_arrow(*args)), used[-1])[1])
    fast = found()
    assert any(block is not None for block in used)
    monkeypatch.setattr(blocks, "by_arrow", lambda *_: None)
    assert fast == found()


@quick
@given(data=st.data(), table=tables())
def test_every_dialect_is_read_exactly(tmp_path: Path, data: st.DataObject, table: tuple) -> None:
    rows, names = table
    content, told = data.draw(written(rows, names))
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    told_us = {"decimal": told["decimal"], "header": told["header"] == 0}
    if len(rows[0]) > 1:
        found = read_table(path, **told_us)
        np.testing.assert_array_equal(found.values, rows)
        assert found.names == (tuple(names) if told["header"] == 0 else found.names)
    if len(rows[0]) == 1 and told["decimal"] == "," and told["header"] is None:
        return  # looks like two columns of whole numbers
    try:
        guessed = read_table(path)
    except ValueError as error:
        assert "--header" in str(error) or "--decimal" in str(error), error  # noqa: PT017
        return
    np.testing.assert_array_equal(guessed.values, rows)


CELLS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    numbers.map(repr),
    st.sampled_from(["+5", ".5", "5.", "1e5", "1E-3", " 7", "8 ", "-0", "007", "1e400", "1d5", "0x10", "１"]),
    st.sampled_from(["", "NA", "?", "nan", "inf", "True", "false", "abc", "1_000", "5%", "$3", "1,234", "1 2", "--1"]),
)


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument is deprecated")
@settings(quick, max_examples=400)
@given(data=st.data())
def test_what_pandas_reads_is_read_alike_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 4))
    kinds = [data.draw(st.sampled_from([numbers.map(repr), CELLS])) for _ in range(width)]
    rows = data.draw(st.lists(st.tuples(*kinds), min_size=1, max_size=8))
    names = data.draw(st.lists(words, min_size=width, max_size=width, unique=True))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *rows])
    path = tmp_path / "table.csv"
    path.write_text(file.getvalue())
    frame = pandas.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    assert frame.shape == (len(rows), width)
    theirs = pandas.read_csv(path, float_precision="round_trip", skipinitialspace=True)
    numeric = all(pandas.api.types.is_numeric_dtype(dtype) for dtype in theirs.dtypes)
    values = theirs.to_numpy(dtype=np.float64) if numeric else np.array([np.nan])
    try:
        ours = read_table(path, header=True, decimal=".")
    except ValueError as error:
        assert not (numeric and np.isfinite(values).all()), f"pandas reads {values}, but: {error}"  # noqa: PT017
        return
    assert ours.names == tuple(names)
    if numeric:
        np.testing.assert_array_equal(ours.values, values)
    assert np.isfinite(ours.values).all()


@settings(quick, max_examples=400)
@given(
    text=st.text("0123456789.,;|\t \n\r\"'#%$-+eEab_NA?:\0é", max_size=200),
    header=st.sampled_from(["auto", True, False]),
)
def test_any_text_is_read_or_refused(tmp_path: Path, text: str, header: bool | str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    try:
        table = read_table(path, header=header)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        return
    assert table.values.shape == (len(table.row_numbers), len(table.names))
    assert np.isfinite(table.values).all()
    assert len(set(table.names)) == len(table.names)


@quick
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from([".csv", ".npy", ".npz", ".parquet", ".feather", ".libsvm", ".arff", ".csv.gz", ".csv.zst"]),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        return
    assert np.isfinite(table.values).all()
