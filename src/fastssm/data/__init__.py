"""Data for training: `load` a name or a file, then `prepare` it."""

from __future__ import annotations

from pathlib import Path

from fastssm.data.builtin import BUILTIN
from fastssm.data.dataset import Dataset, dequantise
from fastssm.data.files import READERS, read
from fastssm.data.prepare import SCALES, Prepared, Scaler, prepare
from fastssm.data.toys import TOYS

__all__ = ["NAMES", "SCALES", "TOYS", "Dataset", "Prepared", "Scaler", "dequantise", "load", "prepare", "read"]

NAMES = tuple(BUILTIN)


def load(source: str | Path) -> Dataset:
    """Load a built-in data set by name, or a file by path.

    Args:
        source: one of `fastssm.data.NAMES`, or the path of a CSV, NPY, NPZ or Parquet file.

    Returns:
        The data set, with rows in float64 and in their original units.

    Raises:
        ValueError: if the name is unknown, or the file is unusable (see `fastssm.data.read`).

    Example:
        >>> import fastssm.data
        >>> fastssm.data.load("moons").rows.shape
        torch.Size([20000, 2])
    """
    name = str(source)
    if name in BUILTIN:
        return BUILTIN[name](name)
    if not Path(source).suffix and not Path(source).exists():
        raise ValueError(
            f"unknown data set {name!r}: choose from {', '.join(NAMES)}, "
            f"or pass the path of a file ({', '.join(READERS)})"
        )
    return read(source)
