"""A data set: rows, column names and default preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

MINIMUM_ROWS = 10  # one tenth is held out for testing and one tenth for validation


@dataclass(frozen=True)
class Dataset:
    """Real rows `[n, D]` in float64, in their original units.

    Args:
        name: name of the data set in tables and file names.
        rows: the data `[n, D]`.
        columns: one name per column.
        image: `(height, width)` if each row is a greyscale image.
        scale: `"standardise"`, `"whiten"` or `"none"`; the default of `prepare`.
        noise: standard deviation of the Gaussian noise that `prepare` adds after scaling by default.
    """

    name: str
    rows: Tensor
    columns: tuple[str, ...]
    image: tuple[int, int] | None = None
    scale: str = "whiten"
    noise: float = 0.0


def dataset_generator() -> Generator:
    """Return the generator of the built-in data sets, with the seed of the paper, not the training seed."""
    return torch.Generator().manual_seed(2019)


def dequantise(rows: Tensor, generator: Generator) -> Tensor:
    """Add uniform noise to each column, within half the median gap between its distinct values.

    `x_ij + u_ij`, `u_ij ~ U(-g_j / 2, g_j / 2)`, where `g_j` is the median difference between adjacent distinct values
    of column j. Without it, rounded measurements have no density.

    Args:
        rows: data `[n, D]`.
        generator: source of the noise.

    Returns:
        The dequantised rows `[n, D]`; `rows` is not modified.
    """
    gaps = torch.stack([_median_gap(column) for column in rows.unbind(1)])
    return rows + gaps * (torch.rand(rows.shape, generator=generator, dtype=rows.dtype) - 0.5)


def _median_gap(column: Tensor) -> Tensor:
    gaps = column.sort().values.diff()
    gaps = gaps[gaps > 0]
    return gaps.quantile(0.5) if len(gaps) else column.new_zeros(())


def checked(rows: Tensor, columns: tuple[str, ...], source: str | Path) -> Tensor:
    """Return `rows` if they are finite and sufficient.

    Raises:
        ValueError: if a value is NaN or infinite, with its row and column, or if there are too few rows.
    """
    bad = (~rows.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{source}: every value must be finite, but row {row + 1}, column {columns[column]!r} is "
            f"{rows[row, column].item()}; remove or impute such values first"
        )
    if len(rows) < MINIMUM_ROWS:
        raise ValueError(
            f"{source}: at least {MINIMUM_ROWS} rows are required for the split, got {len(rows)}; add rows"
        )
    return rows
