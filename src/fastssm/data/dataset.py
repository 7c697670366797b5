"""What every source of data becomes: rows, the names of their columns, and how they like to be prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

MINIMUM_ROWS = 10  # one tenth is held out for testing and one tenth for validation


@dataclass(frozen=True)
class Dataset:
    """Real rows `[n, D]` in float64, in their own units.

    Args:
        name: what the data set is called in tables and file names.
        rows: the data `[n, D]`.
        columns: one name per column.
        image: `(height, width)` when a row is a grey picture.
        scale: `"standardise"`, `"whiten"` or `"none"`: what `prepare` does unless told otherwise.
        noise: deviation of the Gaussian noise that `prepare` adds after scaling, unless told otherwise.
    """

    name: str
    rows: Tensor
    columns: tuple[str, ...]
    image: tuple[int, int] | None = None
    scale: str = "whiten"
    noise: float = 0.0


def dataset_generator() -> Generator:
    """Return the generator behind every built-in data set: the seed of the paper, whatever the seed of the training."""
    return torch.Generator().manual_seed(2019)


def dequantise(rows: Tensor, generator: Generator) -> Tensor:
    """Add to each column uniform noise within half the median gap between its distinct values.

    `x_ij + u_ij`, `u_ij ~ U(-g_j / 2, g_j / 2)`, where `g_j` is the median difference of neighbouring distinct values
    of column j. Rounded measurements have no density without it.

    Args:
        rows: data `[n, D]`.
        generator: where the noise is drawn from.

    Returns:
        The dequantised rows `[n, D]`; `rows` is left as it is.
    """
    gaps = torch.stack([_median_gap(column) for column in rows.unbind(1)])
    return rows + gaps * (torch.rand(rows.shape, generator=generator, dtype=rows.dtype) - 0.5)


def _median_gap(column: Tensor) -> Tensor:
    gaps = column.sort().values.diff()
    gaps = gaps[gaps > 0]
    return gaps.quantile(0.5) if len(gaps) else column.new_zeros(())


def checked(rows: Tensor, columns: tuple[str, ...], source: str | Path) -> Tensor:
    """Return `rows` if they can be trained on.

    Raises:
        ValueError: naming the row and column of a NaN or an infinite value, or the number of rows that is too small.
    """
    bad = (~rows.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{source}: every value must be finite, but row {row + 1}, column {columns[column]!r} is "
            f"{rows[row, column].item()}; remove or impute such rows first"
        )
    if len(rows) < MINIMUM_ROWS:
        raise ValueError(
            f"{source}: at least {MINIMUM_ROWS} rows are needed to hold out validation and test rows, got {len(rows)}"
        )
    return rows
