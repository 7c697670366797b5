"""Read a table from a file, standard input, a folder of files, an array or a data frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssm.data.tables import columnar, sparse
from fastssm.data.tables.arrays import from_array, from_frame, read_npy, read_npz, require_width
from fastssm.data.tables.delimited import read_delimited
from fastssm.data.tables.encode import encode
from fastssm.data.tables.options import Categorical, Decimal, Header, Missing, ReadOptions
from fastssm.data.tables.raw import Raw
from fastssm.data.tables.shards import concatenate
from fastssm.data.tables.sources import COMPRESSED, STANDARD_INPUT, Source, file_source, standard_input
from fastssm.data.tables.table import Schema, Table

Reader = Callable[[Source, ReadOptions], Raw]
TEXT = (".csv", ".tsv", ".tab", ".psv", ".txt", ".data", ".dat")
READERS: dict[str, Reader] = {
    **dict.fromkeys(TEXT, read_delimited),
    ".npy": lambda source, options: read_npy(source),
    ".npz": lambda source, options: read_npz(source),
    **dict.fromkeys((".parquet", ".pq"), columnar.read_parquet),
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
    found = file_source(path)
    reader = READERS.get(found.suffix)
    if reader is None:
        raise ValueError(
            f"{path}: unknown extension {found.suffix!r}; a data file is one of {', '.join(READERS)}, "
            f"or one of these with {', '.join(COMPRESSED)}; rename it"
        )
    raw = reader(found, options)
    require_width(raw.source, len(raw.names))
    return raw


def _read_folder(path: Path, options: ReadOptions) -> Raw:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_")))
    tables = [file for file in files if _suffix(file) in READERS]
    if not tables:
        raise ValueError(f"{path}: no table is in this folder; its files must be one of {', '.join(READERS)}")
    raw = concatenate([_read_file(file, options) for file in tables], tables, str(path))
    raw.notes.insert(0, f"the rows of {len(tables):,} files were joined, from {tables[0].name} to {tables[-1].name}")
    ignored = [file.name for file in files if file not in tables]
    if ignored:
        raw.notes.append(f"files that are no tables were left out: {', '.join(ignored[:5])}")
    return raw


def _suffix(file: Path) -> str:
    inner = Path(file.stem) if file.suffix.lower() in COMPRESSED else file
    return inner.suffix.lower()
