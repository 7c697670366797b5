"""A data set: rows, column names and default preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from fastssm.data.tables import Schema


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
        original: the rows before noise of rounding was added; `rows` if left out.
        row_numbers: the number `[n]` of each row in its file, from 1 after the header; 1, 2, ... if left out.
        notes: sentences about how the file was read.
        schema: how the file was read, so that other rows can be read alike; None if there is no file.
    """

    name: str
    rows: Tensor
    columns: tuple[str, ...]
    image: tuple[int, int] | None = None
    scale: str = "whiten"
    noise: float = 0.0
    original: Tensor = field(default=None)  # type: ignore[assignment]
    row_numbers: Tensor = field(default=None)  # type: ignore[assignment]
    notes: tuple[str, ...] = ()
    schema: Schema | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if self.original is None:
            object.__setattr__(self, "original", self.rows)
        if self.row_numbers is None:
            object.__setattr__(self, "row_numbers", torch.arange(1, len(self.rows) + 1))


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
