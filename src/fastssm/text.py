"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned text: the first column left-aligned, the others right-aligned."""
    lengths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(lengths[0]),
            *(cell.rjust(length) for cell, length in zip(row[1:], lengths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in `1 row` and `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
