"""The data set of a file."""

from __future__ import annotations

from pathlib import Path

import torch

from fastssm.data.dataset import Dataset
from fastssm.data.tables import COMPRESSED, STANDARD_INPUT, ReadOptions, read_with


def read(source: str | Path, options: ReadOptions | None = None) -> Dataset:
    """Read a data set for training.

    Args:
        source: the path of a file or a folder, or `"-"` for standard input, as in `read_table`.
        options: how to read it.

    Returns:
        The data set. `prepare` standardises it if it has at most two columns, and whitens it otherwise.

    Raises:
        ValueError: as `read_table`, and if there are fewer than ten rows or a column is constant.
    """
    table = read_with(source, options or ReadOptions(), training=True)
    return Dataset(
        name=base_name(source),
        rows=table.tensor(),
        columns=table.names,
        image=table.image,
        scale="whiten" if len(table.names) > 2 else "standardise",
        row_numbers=torch.tensor(table.row_numbers),
        notes=table.notes,
        schema=table.schema,
    )


def base_name(source: str | Path) -> str:
    """Return the name of a file without its extensions; `"stdin"` for standard input."""
    if str(source) == STANDARD_INPUT:
        return "stdin"
    path = Path(source)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem
