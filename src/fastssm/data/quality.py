"""What makes columns hard to train on, although every value is a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE_ROWS, SAMPLE_CELLS = 20_000, 5_000_000
NARROW = 0.01  # standard deviations that hold nearly all values of a nearly constant column
MOST_COLUMNS = 3000  # whose correlations are compared
SHOWN = 8
SINGULAR = 1e-10  # the largest variance of a combination of standardised columns that counts as constant


@dataclass(frozen=True)
class Spread:
    """How the values of each column are spread.

    Args:
        mean: `[D]`.
        deviation: `[D]`.
        far: `[D]`, the value that is farthest from the mean.
        far_row: `[D]`, the number of its row in the file.
    """

    mean: Tensor
    deviation: Tensor
    far: Tensor
    far_row: Tensor

    @classmethod
    def of(cls, rows: Tensor, row_numbers: Tensor) -> Spread:
        """Return the spread of rows `[n, D]` with their numbers `[n]`."""
        mean = rows.mean(0)
        place = (rows - mean).abs().argmax(0)
        return cls(mean, rows.std(0), rows.gather(0, place[None])[0], row_numbers[place])


def stride(rows: Tensor) -> int:
    """Return the distance of rows at which as many are left of `[n, D]` as are looked at closely."""
    return max(1, -(-len(rows) // min(SAMPLE_ROWS, max(1000, SAMPLE_CELLS // max(1, rows.shape[1])))))


def sampled(rows: Tensor) -> Tensor:
    """Return rows at the distance of `stride`."""
    return rows[:: stride(rows)]


def remarks(sample: Tensor, spread: Spread, columns: Sequence[str], *, scaled: bool) -> list[str]:
    """Return a sentence for each column that float32 collapses or that is nearly constant.

    Args:
        sample: some of the rows, `[n, D]`, in data units, in float64.
        spread: that of all rows.
        columns: their names.
        scaled: whether a network sees the columns standardised.

    Returns:
        The sentences.
    """
    mean, deviation = spread.mean, spread.deviation
    standard = (sample - mean) / deviation
    distinct = _distinct(sample)
    left = _distinct((standard if scaled else sample).float())
    low, high = (standard.quantile(level, 0) for level in (0.02, 0.98)) if len(sample) else (mean, mean)
    found = []
    for column in range(sample.shape[1]):
        if left[column] < 0.5 * distinct[column]:
            found.append(
                f"column {columns[column]!r}: its {int(distinct[column]):,} different values become "
                f"{int(left[column]):,} in float32{' once it is standardised' if scaled else ''}, "
                f"{_far(spread, column)}"
            )
        elif high[column] - low[column] < NARROW and deviation[column] > 0:
            found.append(
                f"column {columns[column]!r} is nearly constant: at least 96 % of its values lie within "
                f"{NARROW} standard deviations, {_far(spread, column)}"
            )
    return found


def _distinct(rows: Tensor) -> Tensor:
    """Return the number of distinct values of each column."""
    return (rows.sort(0).values.diff(dim=0) != 0).sum(0) + 1


def _far(spread: Spread, column: int) -> str:
    """Say which row is far from the others, if one is."""
    value = spread.far[column]
    if (value - spread.mean[column]).abs() < 5 * spread.deviation[column]:
        return "so little do they differ; subtract a constant or leave it out by --drop"
    return f"because row {int(spread.far_row[column]):,} is {value.item():g}; correct or remove that row"


def dependencies(correlation: Tensor, count: int, columns: Sequence[str]) -> list[str]:
    """Return a sentence for each set of columns of which one is a linear function of the others.

    Args:
        correlation: the correlations `[D, D]` of the columns.
        count: the number of rows.
        columns: the names of the columns.

    Returns:
        The sentences; none for more than `MOST_COLUMNS` columns.
    """
    features = len(correlation)
    if not 1 < features <= MOST_COLUMNS or count <= features:
        return []
    variance, axes = torch.linalg.eigh(correlation)
    constant = axes[:, variance <= SINGULAR].T
    return [_relation(relation, columns) for relation in _reduced(constant)]


def _reduced(relations: Tensor) -> Tensor:
    """Return relations `[k, D]` in reduced echelon form, so that each has as few columns as possible."""
    relations = relations.clone()
    for place in range(len(relations)):
        rest = relations[place:]
        row, column = divmod(int(rest.abs().argmax()), relations.shape[1])
        relations[[place, place + row]] = relations[[place + row, place]]
        relations[place] /= relations[place, column].clone()
        factors = relations[:, column].clone()
        factors[place] = 0
        relations -= factors[:, None] * relations[place]
    return relations


def _relation(relation: Tensor, columns: Sequence[str]) -> str:
    involved = (relation.abs() > 1e-4).nonzero().flatten().tolist()
    names = [repr(columns[column]) for column in involved]
    if len(names) == 2:
        return f"columns {names[0]} and {names[1]} are linearly dependent: one is the other, shifted and scaled"
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    return f"columns {shown} are linearly dependent: each is a weighted sum of the others"
