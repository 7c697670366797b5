"""Read a table of numbers from a CSV, NPY, NPZ or Parquet file."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssm.data.dataset import MINIMUM_ROWS, Dataset, checked

Table = tuple[np.ndarray[Any, Any], tuple[str, ...]]


def read(path: str | Path) -> Dataset:
    """Read a data set from a file.

    A text file may start with a line of column names. Its columns are separated by commas, semicolons or tabs.
    An array of more than two dimensions has one row per leading index.

    Args:
        path: a `.csv`, `.tsv`, `.txt`, `.data`, `.npy`, `.npz` or `.parquet` file.

    Returns:
        The data set. `prepare` standardises it if it has at most two columns, and whitens it otherwise.

    Raises:
        ValueError: if the file does not exist, has an unknown extension, is empty, has rows of different lengths, text,
            NaN or infinite values, or fewer than ten rows. The message gives the row (from 1, after the header) and
            the column.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown extension {path.suffix!r}; a data file is one of {', '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    array, columns = reader(path)
    if array.size == 0:
        raise ValueError(f"{path}: expected at least {MINIMUM_ROWS} rows of numbers, but the file is empty")
    image = array.shape[1:] if array.ndim == 3 else None
    rows = torch.tensor(array.reshape(len(array), -1), dtype=torch.float64)
    return Dataset(
        name=path.stem,
        rows=checked(rows, columns, path),
        columns=columns,
        image=image,
        scale="whiten" if rows.shape[1] > 2 else "standardise",
    )


def _read_text(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error}); convert it to UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return np.empty((0, 0)), ()
    delimiter = max(",;\t", key=lines[0].count)
    cells = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    header = cells.pop(0) if not all(_is_number(cell) for cell in cells[0]) else None
    columns = tuple(header) if header else _numbered(len(cells[0]))
    for index, row in enumerate(cells, 1):
        if len(row) != len(columns):
            raise ValueError(f"{path}: every row must have {len(columns)} columns, but row {index} has {len(row)}")
    return _to_floats(path, cells, columns), columns


def _to_floats(path: Path, cells: list[list[str]], columns: tuple[str, ...]) -> np.ndarray[Any, Any]:
    try:
        return np.array(cells, dtype=np.float64).reshape(len(cells), len(columns))
    except ValueError:
        row, column = next((i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if not _is_number(cell))
        found = repr(cells[row][column]) if cells[row][column].strip() else "empty"
        raise ValueError(
            f"{path}: every column must be numeric, but column {columns[column]!r} is {found} in row {row + 1}; "
            "drop or encode text columns first"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_npy(path: Path) -> Table:
    return _table(path, _load_numpy(path))


def _read_npz(path: Path) -> Table:
    with _load_numpy(path) as archive:
        names = list(archive.files)
        chosen = names if len(names) == 1 else [name for name in ("x", "data") if name in names]
        if len(chosen) != 1:
            raise ValueError(f"{path}: expected one array, or one named 'x' or 'data', got {names}")
        return _table(path, archive[chosen[0]])


def _load_numpy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a numeric NumPy file ({error}); save it by numpy.save or numpy.savez") from None


def _table(path: Path, array: np.ndarray[Any, Any]) -> Table:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected a real numeric array, got dtype {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{path}: expected an array of rows, got a single number")
    return array, _numbered(int(np.prod(array.shape[1:])))


def _read_parquet(path: Path) -> Table:
    try:
        import pandas
    except ImportError:
        raise ValueError(f"{path}: Parquet files need pandas and pyarrow; pip install pandas pyarrow") from None
    try:
        frame = pandas.read_parquet(path)
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from None
    for name, dtype in frame.dtypes.items():
        if not pandas.api.types.is_numeric_dtype(dtype):
            raise ValueError(
                f"{path}: every column must be numeric, but column {name!r} has dtype {dtype}; drop or encode it"
            )
    return frame.to_numpy(dtype=np.float64, na_value=np.nan), tuple(map(str, frame.columns))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column {index}" for index in range(1, count + 1))


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".txt": _read_text,
    ".data": _read_text,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}
