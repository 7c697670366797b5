"""Data for training: `load` a name or a file, then `prepare` it; or `stream` a table larger than memory."""

from __future__ import annotations

from pathlib import Path

from fastssm.data.builtin import BUILTIN
from fastssm.data.dataset import Dataset, dequantise
from fastssm.data.files import base_name, read
from fastssm.data.prepare import SCALES, Prepared, Scaler, prepare
from fastssm.data.stream import stream
from fastssm.data.tables import (
    COMPRESSED,
    READERS,
    STANDARD_INPUT,
    Categorical,
    Column,
    Decimal,
    Header,
    Missing,
    ReadOptions,
    Schema,
    Table,
    list_names,
    read_table,
)
from fastssm.data.toys import TOYS

__all__ = [
    "COMPRESSED",
    "NAMES",
    "READERS",
    "SCALES",
    "STANDARD_INPUT",
    "TOYS",
    "Categorical",
    "Column",
    "Dataset",
    "Decimal",
    "Header",
    "Missing",
    "Prepared",
    "ReadOptions",
    "Scaler",
    "Schema",
    "Table",
    "base_name",
    "dequantise",
    "list_names",
    "load",
    "prepare",
    "read",
    "read_table",
    "stream",
]

NAMES = tuple(BUILTIN)


def load(source: str | Path, options: ReadOptions | None = None) -> Dataset:
    """Load a built-in data set by name, or a file by path.

    Args:
        source: one of `fastssm.data.NAMES`, or what `fastssm.data.read_table` reads: the path of a file or a folder of
            files, or `"-"` for standard input.
        options: how to read a file.

    Returns:
        The data set, with rows in float64 and in their original units.

    Raises:
        ValueError: if the name is unknown, the file is unusable (see `fastssm.data.read_table`), or there are options
            for a built-in data set.

    Example:
        >>> import fastssm.data
        >>> fastssm.data.load("moons").rows.shape
        torch.Size([20000, 2])
    """
    name = str(source)
    if name in BUILTIN:
        if options is not None and options != ReadOptions():
            raise ValueError(f"{name} is built in, so no options of reading apply; leave them out, or pass a file")
        return BUILTIN[name](name)
    if name != STANDARD_INPUT and not Path(source).suffix and not Path(source).exists():
        raise ValueError(
            f"unknown data set {name!r}: choose from {', '.join(NAMES)}, "
            f"or pass the path of a file ({', '.join(READERS)})"
        )
    return read(source, options)
