"""Read a table from a file, standard input, a folder of files, an array or a data frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssm.data.tables import columnar, sparse
from fastssm.data.tables.arrays import from_array, from_frame, npy_pieces, read_npy, read_npz, require_width
from fastssm.data.tables.delimited import delimited_pieces, read_delimited
from fastssm.data.tables.encode import encode
from fastssm.data.tables.options import Categorical, Decimal, Header, Missing, ReadOptions
from fastssm.data.tables.raw import Raw
from fastssm.data.tables.shards import column_order, concatenate
from fastssm.data.tables.sources import COMPRESSED, STANDARD_INPUT, Source, file_source, standard_input
from fastssm.data.tables.table import Schema, Table

Reader = Callable[[Source, ReadOptions], Raw]
PIECE_CELLS = 2**19  # of a piece of a file that is streamed
PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".tab", ".psv", ".txt", ".data", ".dat")
READERS: dict[str, Reader] = {
    **dict.fromkeys(TEXT, read_delimited),
    ".npy": lambda source, options: read_npy(source),
    ".npz": lambda source, options: read_npz(source),
    **dict.fromkeys(PARQUET, columnar.read_parquet),
    **dict.fromkeys((".feather", ".arrow"), columnar.read_feather),
    **dict.fromkeys((".xlsx", ".xlsm"), columnar.read_excel),
    **dict.fromkeys((".libsvm", ".svm", ".svmlight"), lambda source, options: sparse.read_libsvm(source)),
    ".arff": lambda source, options: sparse.read_arff(source),
}
SNIFFED = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet", b"ARROW1": ".feather"}


def read_table(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    header: Header = "auto",
    decimal: Decimal = "auto",
    missing: Missing = "refuse",
    categorical: Categorical = "refuse",
    like: Schema | Table | None = None,
) -> Table:
    r"""Read a table of numbers, or say in one error everything that stands in the way.

    The separator (comma, semicolon, tab, `|` or blanks), the encoding, the decimal sign, the header, and whether the
    file is compressed are found out. `True` and `False` are read as 1 and 0, and 9.9% as 0.099; currency signs and
    grouped thousands are read as people write them. What can be read in two ways is refused, with the option that
    decides.

    Args:
        source: the path of a file or of a folder of such files; `"-"` for standard input; an array or tensor `[n, D]`;
            or a pandas data frame. The extension tells the format: CSV and other text, NPY, NPZ, Parquet, Feather,
            Excel, libsvm or ARFF, each possibly compressed with gzip, bzip2, xz or Zstandard.
        columns: names of the columns to keep, in this order; all if None. A column may also be given by its position,
            from `"1"`.
        drop: names of columns to leave out.
        header: whether the first row holds names.
        decimal: the decimal sign.
        missing: what to do with missing values: `"refuse"`, `"drop"` their rows, fill in the `"mean"` of the column, or
            fill it in and add an `"indicator"` column of 0 and 1.
        categorical: what to do with columns of text: `"refuse"`, `"drop"` them, or `"onehot"`, which encodes each value
            but the first as a column of 0 and 1.
        like: a table, or its schema; the source is read as it was, by the names of its columns.

    Returns:
        The table.

    Raises:
        ValueError: with all faults of the source, each with column, row, and the option that helps.

    Example:
        >>> import pathlib, tempfile
        >>> from fastssm.data import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sizes.csv"
        >>> _ = path.write_text("length;width\n9,5;7\n10,25;8\n")
        >>> table = read_table(path)
        >>> table.names, table.values.tolist()
        (('length', 'width'), [[9.5, 7.0], [10.25, 8.0]])
        >>> read_table([[1.0, 2.0]], like=table).values.tolist()
        [[1.0, 2.0]]
    """
    options = ReadOptions(columns, drop, header, decimal, missing, categorical)
    return read_with(source, options, like)


def read_with(
    source: Any, options: ReadOptions, like: Schema | Table | None = None, *, training: bool = False
) -> Table:
    """Read a table with `options`; with `training`, also refuse too few rows and constant columns.

    Raises:
        ValueError: as `read_table`.
    """
    if like is not None and (options.columns is not None or options.drop or options.categorical != "refuse"):
        raise ValueError("columns, drop and categorical come from like; leave them out")
    schema = like.schema if isinstance(like, Table) else like
    return encode(_read_raw(source, options), options, schema, training=training)


def _read_raw(source: Any, options: ReadOptions) -> Raw:
    if isinstance(source, torch.Tensor):
        return from_array(source.detach().cpu().numpy(), "the tensor")
    if isinstance(source, (np.ndarray, list, tuple)):
        return from_array(np.asarray(source), "the array")
    if isinstance(source, (str, Path)):
        return _read_path(source, options)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return from_frame(source, "the data frame", options.decimal)
    raise ValueError(f"expected a path, an array, a tensor or a data frame, got {type(source).__name__}")


def _read_path(source: str | Path, options: ReadOptions) -> Raw:
    if str(source) == STANDARD_INPUT:
        found = standard_input()
        head = found.head()
        kind = next((suffix for magic, suffix in SNIFFED.items() if head.startswith(magic)), ".csv")
        return READERS[kind](found, options)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, options)
    return _read_file(path, options)


def _read_file(path: Path, options: ReadOptions) -> Raw:
    found = _source(path)
    raw = READERS[found.suffix](found, options)
    require_width(raw.source, len(raw.names))
    return raw


def _source(path: Path) -> Source:
    found = file_source(path)
    if found.suffix not in READERS:
        raise ValueError(
            f"{path}: unknown extension {found.suffix!r}; a data file is one of {', '.join(READERS)}, "
            f"or one of these with {', '.join(COMPRESSED)}; rename it"
        )
    return found


def _read_folder(path: Path, options: ReadOptions) -> Raw:
    tables, notes = _files(path)
    raw = concatenate([_read_file(file, options) for file in tables], tables, str(path))
    raw.notes[:0] = notes
    return raw


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """Return the tables in a folder in the order of their names, and notes about them."""
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_")))
    tables = [file for file in files if _suffix(file) in READERS]
    if not tables:
        raise ValueError(f"{path}: no table is in this folder; its files must be one of {', '.join(READERS)}")
    notes = [f"the rows of {len(tables):,} files were joined, from {tables[0].name} to {tables[-1].name}"]
    ignored = [file.name for file in files if file not in tables]
    return tables, notes + ([f"files that are no tables were left out: {', '.join(ignored[:5])}"] if ignored else [])


def read_pieces(source: str | Path, options: ReadOptions) -> Iterator[Raw]:
    """Yield the rows of a file, or of the files of a folder, some at a time.

    Text, NPY and Parquet files are read in pieces of bounded size, other files at once.

    Args:
        source: the path of the file or the folder.
        options: `header` and `decimal` are used.

    Raises:
        ValueError: if a file is unusable, or the files have different columns.
    """
    path = Path(source)
    if not path.is_dir():
        yield from _file_pieces(path, options)
        return
    tables, notes = _files(path)
    first: Raw | None = None
    for file in tables:
        for raw in _file_pieces(file, options):
            first = first or replace(raw, values=raw.values[:0], texts={})
            column_order(first, raw, file)
            if raw.certain and first.certain and raw.decimal != first.decimal:
                raise ValueError(
                    f"{path}: some files have decimal commas and others decimal points; read them one by one"
                )
            raw.parts = ((0, file.name),)
            raw.notes = [*notes, *raw.notes]
            yield raw


def _file_pieces(path: Path, options: ReadOptions) -> Iterator[Raw]:
    found = _source(path)
    if found.suffix in TEXT:
        pieces = delimited_pieces(found, options)
    elif found.suffix == ".npy":
        pieces = npy_pieces(found, PIECE_CELLS)
    elif found.suffix in PARQUET:
        pieces = columnar.parquet_pieces(found, options, PIECE_CELLS)
    else:
        pieces = iter([READERS[found.suffix](found, options)])
    for raw in pieces:
        require_width(raw.source, len(raw.names))
        yield raw


def _suffix(file: Path) -> str:
    inner = Path(file.stem) if file.suffix.lower() in COMPRESSED else file
    return inner.suffix.lower()
