"""Read NPY and NPZ files, arrays, tensors and data frames."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastssm.data.tables.header import is_unnamed, unique_names
from fastssm.data.tables.raw import LARGEST_FILE_WIDTH, Cells, Raw, Texts, largest_table, numbered, require_memory
from fastssm.data.tables.sources import Source

Array = npt.NDArray[Any]


def content(source: Source) -> Path | io.BytesIO:
    """Return the path of a file, or the bytes of one that has none."""
    if source.path is not None:
        return source.path
    with source.open() as file:
        return io.BytesIO(file.read())


def read_npy(source: Source) -> Raw:
    """Read an NPY file; an array of more than two dimensions has one row per leading index.

    Raises:
        ValueError: if it holds no array of real numbers.
    """
    file = content(source)
    try:  # mapped, a header that promises more than the file holds is an error instead of an allocation
        array = np.load(file, allow_pickle=False, mmap_mode="r" if isinstance(file, Path) else None)
    except Exception as error:
        raise _damaged(source, error) from None
    if isinstance(array, np.lib.npyio.NpzFile):
        return _read_archive(source, array)
    return from_array(array, source.label)


def npy_pieces(source: Source, cells: int) -> Iterator[Raw]:
    """Yield the rows of an NPY file, some at a time.

    Args:
        source: the file.
        cells: the most cells in a piece, if a row has no more.

    Raises:
        ValueError: as `read_npy`.
    """
    array = None
    with contextlib.suppress(Exception):  # `read_npy` says what is wrong
        array = np.load(source.path, allow_pickle=False, mmap_mode="r") if source.path else None
    if not isinstance(array, np.ndarray) or not array.ndim:
        yield read_npy(source)
        return
    rows = max(1, cells // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        raw = from_array(array[start : start + rows], source.label)
        raw.start = start
        yield raw


def read_npz(source: Source) -> Raw:
    """Read an NPZ file with one array, or one named `x` or `data`.

    Raises:
        ValueError: if it holds no such array of real numbers.
    """
    try:
        require_small_archive(source)
        found = np.load(content(source), allow_pickle=False)
    except Exception as error:
        raise _damaged(source, error) from None
    if not isinstance(found, np.lib.npyio.NpzFile):
        return from_array(found, source.label)
    return _read_archive(source, found)


def _read_archive(source: Source, archive: np.lib.npyio.NpzFile) -> Raw:
    with archive:
        names = list(archive.files)
        chosen = names if len(names) == 1 else [name for name in ("x", "data") if name in names]
        if len(chosen) != 1:
            raise ValueError(f"{source.label}: expected one array, or one named 'x' or 'data', got {names}")
        try:
            array = archive[chosen[0]]
        except Exception as error:
            raise _damaged(source, error) from None
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{source.label}: its member {chosen[0]!r} is not an array; save it by numpy.savez")
        return from_array(array, source.label)


def require_small_archive(source: Source) -> None:
    """Check that the members of a ZIP archive fit into memory.

    Raises:
        ValueError: if they do not.
        zipfile.BadZipFile: if it is not an archive.
    """
    with zipfile.ZipFile(content(source)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > largest_table():
        raise ValueError(f"it expands to {size / 2**30:,.1f} GiB, more than half of the memory")


def _damaged(source: Source, error: Exception) -> ValueError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{source.label}: not a numeric NumPy file ({said}); save it by numpy.save or numpy.savez")


def from_array(array: Array, label: str) -> Raw:
    """Return the rows of an array `[n, ...]`.

    Args:
        array: real numbers.
        label: what to call it in messages.

    Raises:
        ValueError: if it holds other values or is a single number.
    """
    if array.dtype.names:
        return _from_fields(array, label)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{label}: expected a real numeric array, got dtype {array.dtype}; convert it to float64")
    if array.ndim == 0:
        raise ValueError(f"{label}: expected an array of rows, got a single number")
    width = int(np.prod(array.shape[1:]))
    require_width(label, width)
    require_memory(label, len(array), width)
    values = np.array(array, dtype=np.float64, order="C").reshape(len(array), width)
    image = (int(array.shape[1]), int(array.shape[2])) if array.ndim == 3 else None
    return Raw(label, values, numbered(width), image=image, notes=inexact(array, values, ""))


def _from_fields(array: Array, label: str) -> Raw:
    names = tuple(array.dtype.names or ())
    wrong = [name for name in names if array.dtype[name].kind not in "fiub" or array.dtype[name].shape]
    if wrong or array.ndim != 1:
        raise ValueError(f"{label}: expected real numeric fields, but {wrong} are not; convert them to float64")
    values = np.stack([array[name].astype(np.float64) for name in names], 1)
    return Raw(label, values, names, named=True)


def require_width(label: str, width: int) -> None:
    """Check the number of columns.

    Raises:
        ValueError: if there are too many.
    """
    if width > LARGEST_FILE_WIDTH:
        raise ValueError(
            f"{label}: at most {LARGEST_FILE_WIDTH:,} columns are read, but this has {width:,}; transpose it?"
        )


def inexact(original: Array, values: npt.NDArray[np.float64], name: str) -> list[str]:
    """Return a note if whole numbers changed when they became float64."""
    if original.dtype.kind not in "iu" or original.dtype.itemsize < 8 or not original.size:
        return []
    if max(abs(float(original.min())), abs(float(original.max()))) <= 2**53:
        return []
    what = f"column {name!r}" if name else "the array"
    return [f"{what} has whole numbers beyond 2**53, which are rounded in float64; are they identifiers?"]


def from_frame(frame: Any, label: str, decimal: str = "auto") -> Raw:
    """Return the rows of a pandas data frame.

    Args:
        frame: the data frame; its index is not read.
        label: what to call it in messages.
        decimal: the decimal sign of numbers in columns of text; a point for `"auto"`.
    """
    import pandas

    require_width(label, frame.shape[1])
    require_memory(label, *frame.shape)
    names, notes = unique_names([str(name) for name in frame.columns])
    named = not isinstance(frame.columns, pandas.RangeIndex)
    raw = Raw(label, np.empty(frame.shape), names, named, certain=decimal != "auto", notes=notes)
    raw.decimal = "," if decimal == "," else "."
    for position in range(frame.shape[1]):
        series = frame.iloc[:, position]
        if series.dtype.kind == "c":
            raw.faults.append(f"column {names[position]!r} has complex numbers; pass their real and imaginary parts")
        elif pandas.api.types.is_numeric_dtype(series.dtype):
            raw.values[:, position] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            cells = ["" if absent else str(cell) for cell, absent in zip(series, series.isna(), strict=True)]
            put_texts(raw, position, cells)
    first = str(frame.columns[0]) if frame.shape[1] > 1 else "only"
    raw.indices = (0,) if is_unnamed(first) else ()
    return raw


def put_texts(raw: Raw, position: int, cells: Sequence[str]) -> None:
    """Set a column of a file to texts, of which those that are plain numbers become numbers."""
    collected = Cells(1, raw.decimal, raw.source)
    collected.add_rows([(cell,) for cell in cells])
    values, texts = collected.finish()
    raw.values[:, position] = values[:, 0]
    found: Texts | None = texts.get(0)
    if found is not None:
        raw.texts[position] = found
