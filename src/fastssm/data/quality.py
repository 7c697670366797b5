"""What makes columns hard to train on, although every value is a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE_ROWS, SAMPLE_CELLS = 20_000, 5_000_000
NARROW = 0.01  # standard deviations that hold nearly all values of a nearly constant column
MOST_COLUMNS = 3000  # whose correlations are compared
SHOWN = 8
SINGULAR = 1e-10  # the largest variance of a combination of standardised columns that counts as constant


def remarks(rows: Tensor, columns: Sequence[str], row_numbers: Tensor, *, scaled: bool) -> list[str]:
    """Return a sentence for each column that float32 collapses or that is nearly constant.

    Args:
        rows: the rows `[n, D]` in data units, in float64.
        columns: their names.
        row_numbers: the number `[n]` of each row in its file.
        scaled: whether a network sees the columns standardised.

    Returns:
        The sentences.
    """
    mean, deviation = rows.mean(0), rows.std(0)
    stride = max(1, -(-len(rows) // min(SAMPLE_ROWS, max(1000, SAMPLE_CELLS // max(1, rows.shape[1])))))
    sample = rows[::stride]
    standard = (sample - mean) / deviation
    distinct = _distinct(sample)
    left = _distinct((standard if scaled else sample).float())
    low, high = (standard.quantile(level, 0) for level in (0.02, 0.98)) if len(sample) else (mean, mean)
    found = []
    for column in range(rows.shape[1]):
        if left[column] < 0.5 * distinct[column]:
            found.append(
                f"column {columns[column]!r}: its {int(distinct[column]):,} different values become "
                f"{int(left[column]):,} in float32{' once it is standardised' if scaled else ''}, "
                f"{_far(rows[:, column], mean[column], deviation[column], row_numbers)}"
            )
        elif high[column] - low[column] < NARROW and deviation[column] > 0:
            found.append(
                f"column {columns[column]!r} is nearly constant: at least 96 % of its values lie within "
                f"{NARROW} standard deviations, {_far(rows[:, column], mean[column], deviation[column], row_numbers)}"
            )
    return found


def _distinct(rows: Tensor) -> Tensor:
    """Return the number of distinct values of each column."""
    return (rows.sort(0).values.diff(dim=0) != 0).sum(0) + 1


def _far(column: Tensor, mean: Tensor, deviation: Tensor, row_numbers: Tensor) -> str:
    """Say which row is far from the others, if one is."""
    row = int((column - mean).abs().argmax())
    if (column[row] - mean).abs() < 5 * deviation:
        return "so little do they differ; subtract a constant or leave it out by --drop"
    return f"because row {int(row_numbers[row]):,} is {column[row].item():g}; correct or remove that row"


def dependencies(standard: Tensor, columns: Sequence[str]) -> list[str]:
    """Return a sentence for each set of columns of which one is a linear function of the others.

    Args:
        standard: rows `[n, D]` with zero mean and unit variance.
        columns: their names.

    Returns:
        The sentences; none for more than `MOST_COLUMNS` columns.
    """
    features = standard.shape[1]
    if not 1 < features <= MOST_COLUMNS or len(standard) <= features:
        return []
    variance, axes = torch.linalg.eigh(torch.cov(standard.T))
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
