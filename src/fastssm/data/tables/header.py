"""Whether the first row of a text file holds names, and which columns only count the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from fastssm.data.tables.cells import BOOLS, is_missing, is_number
from fastssm.data.tables.raw import numbered

INTEGER = re.compile(r"\d+", re.ASCII)
LEAST_GRID = 4  # so many numbers at equal distances are suspected to be names

ASK = None


def is_header(first: Sequence[str], below: Sequence[Sequence[str]], decimal: str) -> bool | None:
    """Return whether the first row holds names; None if only the user can tell.

    Text above numbers is a name, and so are consecutive whole numbers, such as years, above numbers that are never
    whole. Other distinct whole numbers above such numbers, and numbers at equal distances, may be either.

    Args:
        first: cells of the first row.
        below: cells of the rows that follow it, each as long as the first.
        decimal: the decimal sign.
    """
    first = [cell.strip() for cell in first]
    columns = [[cell.strip() for cell in column] for column in zip(*below, strict=True)] if below else []
    if not columns:
        return not all(_is_value(cell, decimal) for cell in first)
    numeric = [_is_numeric(column, decimal) for column in columns]
    words = [bool(cell) and not _is_value(cell, decimal) for cell in first]
    if any(word and is_numeric for word, is_numeric in zip(words, numeric, strict=True)):
        return True
    above = [(cell, column) for cell, column, it in zip(first, columns, numeric, strict=True) if it]
    if not above:
        return not any(cell in column for cell, column in zip(first, columns, strict=True))
    cells = [cell for cell, _ in above]
    if len(set(cells)) < len(cells) or not all(is_number(cell, decimal) for cell in cells):
        return False
    return _numeric_header(cells, [column for _, column in above], decimal)


def _numeric_header(cells: list[str], columns: list[list[str]], decimal: str) -> bool | None:
    whole = all(INTEGER.fullmatch(cell) for cell in cells)
    consecutive = whole and len(cells) > 1 and _steps(cells, decimal) == {1.0}
    if whole and not any(INTEGER.fullmatch(cell) for column in columns for cell in column):
        return True if consecutive else ASK
    second = [column[0] for column in columns]
    grid = len(cells) >= (LEAST_GRID - 1 if consecutive else LEAST_GRID) and len(_steps(cells, decimal)) == 1
    return ASK if grid and len(_steps(second, decimal)) != 1 else False


def _steps(cells: Sequence[str], decimal: str) -> set[float]:
    try:
        values = [float(cell.replace(decimal, ".")) for cell in cells]
    except ValueError:
        return set()
    return {round(b - a, 9) for a, b in pairwise(values)} - {0.0}


def _is_value(cell: str, decimal: str) -> bool:
    return is_missing(cell) or cell.lower() in BOOLS or is_number(cell, decimal)


def _is_numeric(column: Sequence[str], decimal: str) -> bool:
    cells = [cell for cell in column if not is_missing(cell)]
    return 2 * sum(_is_value(cell, decimal) for cell in cells) > len(cells)


def unique_names(header: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return names that are all different and not empty, and notes about those that were not.

    Args:
        header: the names in the file.
    """
    names, taken, repeated = [], set[str](), []
    for cell, stand_in in zip(header, numbered(len(header)), strict=True):
        name = base = " ".join(cell.split()) or stand_in
        count = 1
        while name in taken:
            count += 1
            name = f"{base} ({count})"
        if count > 1:
            repeated.append(name)
        taken.add(name)
        names.append(name)
    shown = ", ".join(map(repr, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
    return tuple(names), [f"repeated names of columns became {shown}"] if repeated else []


def is_unnamed(name: str) -> bool:
    """Return whether a name in a file is that of an index: empty, or what pandas writes for empty."""
    return not name.strip() or re.fullmatch(r"Unnamed: \d+", name) is not None or name.startswith("__index_level_")
