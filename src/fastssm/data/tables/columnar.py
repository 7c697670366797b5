"""Read Parquet, Feather and Excel files, with the packages that know them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from fastssm.data.tables.arrays import content, inexact, put_texts, require_small_archive, require_width
from fastssm.data.tables.header import ASK, is_header, is_unnamed, unique_names
from fastssm.data.tables.options import ReadOptions
from fastssm.data.tables.raw import Cells, Raw, numbered, require_memory
from fastssm.data.tables.sources import Source

EXCEL_SAMPLE = 200


def read_parquet(source: Source, options: ReadOptions) -> Raw:
    """Read a Parquet file.

    Raises:
        ValueError: if pyarrow is absent or the file is damaged.
    """
    file = _open_parquet(source)
    require_memory(source.label, file.metadata.num_rows, file.metadata.num_columns)
    names = file.schema_arrow.names
    try:  # column by column, so that the file is not in memory twice
        columns = (file.read(columns=[name], use_threads=False).column(0) for name in names)
        return _from_arrow(names, columns, file.metadata.num_rows, source, options)
    except Exception as error:
        raise _damaged(source, "Parquet", error) from None


def _open_parquet(source: Source) -> Any:
    parquet = _module(source, "pyarrow.parquet", "Parquet files need pyarrow")
    try:
        file = parquet.ParquetFile(content(source))
    except Exception as error:
        raise _damaged(source, "Parquet", error) from None
    require_width(source.label, file.metadata.num_columns)
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError(f"{source.label}: two columns have the same name; rename one")
    return file


def parquet_pieces(source: Source, options: ReadOptions, cells: int) -> Iterator[Raw]:
    """Yield the rows of a Parquet file, some at a time.

    Args:
        source: the file.
        options: `decimal` is used.
        cells: the most cells in a piece, if a row has no more.

    Raises:
        ValueError: as `read_parquet`.
    """
    file = _open_parquet(source)
    names, start = file.schema_arrow.names, 0
    import pyarrow

    try:
        for batch in file.iter_batches(max(1, cells // max(1, len(names))), use_threads=False):
            columns = pyarrow.Table.from_batches([batch]).columns
            raw = _from_arrow(names, columns, batch.num_rows, source, options)
            raw.start = start
            start += batch.num_rows
            yield raw
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(source, "Parquet", error) from None


def read_feather(source: Source, options: ReadOptions) -> Raw:
    """Read a Feather or Arrow IPC file.

    Raises:
        ValueError: if pyarrow is absent or the file is damaged.
    """
    feather = _module(source, "pyarrow.feather", "Feather files need pyarrow")
    try:
        table = feather.read_table(content(source))
    except Exception as error:
        raise _damaged(source, "Feather", error) from None
    return _from_arrow(table.column_names, table.columns, table.num_rows, source, options)


def _module(source: Source, name: str, need: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ValueError(f"{source.label}: {need}, which is not installed; pip install {package}") from None


def _damaged(source: Source, kind: str, error: Exception) -> ValueError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(f"{source.label}: not a readable {kind} file ({said}); write it again")


def _from_arrow(found: list[str], columns: Iterable[Any], rows: int, source: Source, options: ReadOptions) -> Raw:
    """Return the cells of columns of Arrow, which are taken one at a time.

    Args:
        found: their names.
        columns: the columns.
        rows: their length.
        source: the file.
        options: `decimal` is used.
    """
    shape = (rows, len(found))
    require_width(source.label, shape[1])
    require_memory(source.label, *shape)
    names, notes = unique_names(found)
    raw = Raw(source.label, np.empty(shape), names, named=True, certain=options.decimal != "auto", notes=notes)
    raw.decimal = "," if options.decimal == "," else "."
    raw.indices = (0,) if shape[1] > 1 and is_unnamed(found[0]) else ()
    if shape[1] > 1 and is_unnamed(found[-1]):  # where pandas writes the index
        raw.indices = (*raw.indices, shape[1] - 1)
    for position, column in enumerate(columns):
        _put(raw, position, column)
    return raw


def _put(raw: Raw, position: int, column: Any) -> None:
    """Set a column of a file to a column of Arrow."""
    import pyarrow

    types, kind = pyarrow.types, column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if types.is_boolean(kind):
        column, kind = column.cast(pyarrow.uint8()), pyarrow.uint8()
    values = raw.values[:, position]
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        values[:] = column.cast(pyarrow.float64(), safe=False).to_numpy()
        if types.is_integer(kind) and not column.null_count:
            raw.notes.extend(inexact(column.to_numpy(), values, raw.names[position]))
    elif types.is_null(kind):
        values[:] = np.nan
    elif types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        raw.faults.append(f"column {raw.names[position]!r} holds {kind}, not single numbers; take it apart first")
        values[:] = 0.0
    else:
        put_texts(raw, position, ["" if cell is None else str(cell) for cell in column.to_pylist()])


def read_excel(source: Source, options: ReadOptions) -> Raw:
    """Read the first sheet of an Excel file.

    Raises:
        ValueError: if openpyxl is absent or the file is damaged.
    """
    openpyxl = _module(source, "openpyxl", "Excel files need openpyxl")
    try:
        require_small_archive(source)
        book = openpyxl.load_workbook(content(source), read_only=True, data_only=True)
    except Exception as error:
        raise _damaged(source, "Excel", error) from None
    try:
        sheet = book.worksheets[0]
        decimal = "," if options.decimal == "," else "."
        try:
            raw = _from_sheet(_sheet_rows(sheet, decimal), source.label, decimal, options)
        except (KeyError, TypeError, OSError, EOFError, SyntaxError) as error:  # a part is damaged
            raise _damaged(source, "Excel", error) from None
        if len(book.worksheets) > 1:
            others = ", ".join(repr(other.title) for other in book.worksheets[1:])
            raw.notes.append(f"the sheet {sheet.title!r} was read, not {others}")
        return raw
    finally:
        book.close()


def _sheet_rows(sheet: Any, decimal: str) -> Iterator[list[str]]:
    """Yield the rows of a sheet that have a value, as text."""
    for row in sheet.iter_rows(values_only=True):
        cells = [_text(cell, decimal) for cell in row]
        if any(cells):
            yield cells


def _text(cell: Any, decimal: str) -> str:
    if cell is None:
        return ""
    return repr(cell).replace(".", decimal) if type(cell) is float else str(cell)


def _from_sheet(rows: Iterator[list[str]], label: str, decimal: str, options: ReadOptions) -> Raw:
    sample = list(islice(rows, EXCEL_SAMPLE))
    if not sample:
        raise ValueError(f"{label}: expected rows of numbers, but the first sheet is empty")
    width = max(map(len, sample))
    require_width(label, width)
    sample = [_padded(row, width) for row in sample]
    head = sample[0]
    found = is_header(head, sample[1:], decimal) if options.header == "auto" else options.header
    names, notes = unique_names(head) if found else (numbered(width), [])
    cells = Cells(width, decimal, label)
    cells.add_rows(sample[1:] if found else sample)
    while batch := [_padded(row, width) for row in islice(rows, 5000)]:
        cells.add_rows(batch)
    values, texts = cells.finish()
    raw = Raw(label, values, names, bool(found), texts, decimal, notes=notes)
    raw.certain = options.decimal != "auto"
    raw.indices = (0,) if found and width > 1 and is_unnamed(head[0]) else ()
    if found is ASK:
        raw.faults.append(
            f"the first row ({', '.join(head[:3])}) may be names or numbers; say which by --header or --no-header"
        )
    return raw


def _padded(row: list[str], width: int) -> list[str]:
    return [*row, *[""] * (width - len(row))][:width]
