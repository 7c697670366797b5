"""The cells of a file before anything is decided: numbers in float64, and the texts that are not plain numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastssm.data.tables.cells import plain
from fastssm.data.tables.table import Floats

PLAIN_BYTES = b"0123456789+-.eE \n"
LARGEST_FILE_WIDTH = 200_000


@dataclass
class Texts:
    """The cells of a column that are not plain numbers.

    Args:
        rows: their rows, from 0, in order.
        codes: for each, its index in `values`.
        values: the distinct texts.
    """

    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]


@dataclass
class Raw:
    """A file as it was read.

    Args:
        source: what to call it in messages.
        values: plain numbers `[rows, columns]`; NaN where a cell is a text or missing.
        names: names of the columns.
        named: whether the file gave the names.
        texts: by column, the cells that are not plain numbers.
        decimal: the decimal sign.
        certain: whether the decimal sign is beyond doubt, so that the other sign groups thousands.
        indices: columns without a name, which may count or name the rows.
        implied: whether the header is one name short, so that the first column has none.
        notes: sentences for the user.
        faults: sentences about faults that belong to no column.
        image: `(height, width)` of a stack of images.
        parts: for a folder, the first row of each file and its name.
        start: for a piece of a file, the number of rows before it.
    """

    source: str
    values: Floats
    names: tuple[str, ...]
    named: bool = False
    texts: dict[int, Texts] = field(default_factory=dict)
    decimal: str = "."
    certain: bool = True
    indices: tuple[int, ...] = ()
    implied: bool = False
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    image: tuple[int, int] | None = None
    parts: tuple[tuple[int, str], ...] = ()
    start: int = 0

    def row(self, index: int) -> str:
        """Return how messages name a row, given from 0."""
        part = next(((first, name) for first, name in reversed(self.parts) if first <= index), None)
        number = index + self.start + 1
        return f"row {number}" if part is None else f"row {number - part[0]} of {part[1]}"


def numbered(count: int) -> tuple[str, ...]:
    """Return the names of `count` columns of a file that does not name them."""
    return tuple(f"column {index}" for index in range(1, count + 1))


class Cells:
    """Collects rows of cells block by block.

    Args:
        width: number of columns.
        decimal: the decimal sign of plain numbers.
        source: what to call the file in messages.
    """

    def __init__(self, width: int, decimal: str, source: str) -> None:
        self.width, self.decimal, self.source = width, decimal, source
        self.count = 0
        self._values: Floats = np.empty((0, width))
        self._known: dict[int, dict[str, int]] = {}
        self._found: dict[int, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]] = {}
        self._limit = largest_table()

    def add_numbers(self, block: Floats) -> None:
        """Add rows `[n, width]` of numbers."""
        end = self.count + len(block)
        require_memory(self.source, end, self.width, self._limit)
        if end > len(self._values):  # in place where the system can, so that no rows are in memory twice
            self._values.resize((max(end, len(self._values) * 5 // 4), self.width), refcheck=False)
        self._values[self.count : end] = block
        self.count = end

    def add_rows(self, rows: Sequence[Sequence[str]]) -> None:
        """Add rows of cells, each with `width` cells."""
        if not rows:
            return
        block = np.empty((len(rows), self.width))
        for column, cells in enumerate(zip(*rows, strict=True)):
            block[:, column] = self._numbers(column, cells)
        self.add_numbers(block)

    def _numbers(self, column: int, cells: tuple[str, ...]) -> Floats:
        """Return the numbers of the cells of a column, and remember the others."""
        found = plain_numbers(cells, self.decimal)
        if found is not None:
            return found
        pattern, decimal = plain(self.decimal), self.decimal
        known, numbers = self._known.setdefault(column, {}), np.empty(len(cells))
        rows, codes = [], []
        for row, cell in enumerate(cells):
            text = cell.strip()
            value = float(text.replace(decimal, ".")) if pattern.fullmatch(text) else np.nan
            if not np.isfinite(value):
                rows.append(row)
                codes.append(known.setdefault(text, len(known)))
                value = np.nan
            numbers[row] = value
        found_here = (np.array(rows, np.int64) + self.count, np.array(codes, np.int32))
        self._found.setdefault(column, []).append(found_here)
        return numbers

    def finish(self) -> tuple[Floats, dict[int, Texts]]:
        """Return the numbers `[rows, width]` and the texts by column; the collection is empty afterwards."""
        values, self._values = self._values, self._values[:0].copy()
        values.resize((self.count, self.width), refcheck=False)
        texts = {
            column: Texts(
                np.concatenate([rows for rows, _ in parts]),
                np.concatenate([codes for _, codes in parts]),
                tuple(self._known[column]),
            )
            for column, parts in self._found.items()
        }
        return values, texts


def plain_numbers(cells: Sequence[str], decimal: str) -> Floats | None:
    """Return the numbers of cells that are all plain, or None."""
    text = "\n".join(cells)
    if decimal == ",":
        if "." in text:
            return None
        text = text.replace(",", ".")
    if not text.isascii() or text.encode().translate(None, PLAIN_BYTES):
        return None
    parts = text.split("\n")
    return floats(parts) if len(parts) == len(cells) else None


def floats(parts: Sequence[str] | Sequence[bytes]) -> Floats | None:
    """Return the numbers of texts made of `PLAIN_BYTES`, or None if one is not a number; 1e999 is infinite."""
    try:
        return np.fromiter(map(float, parts), np.float64, len(parts))
    except ValueError:
        return None


def largest_table() -> float:
    """Return the largest number of bytes that a table may take: half of the memory of this machine."""
    try:
        return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 16.0 * 2**30


def require_memory(source: str, rows: int, columns: int, limit: float | None = None) -> None:
    """Check that a table fits into memory.

    Raises:
        ValueError: if it takes more than half of the memory of this machine.
    """
    limit = largest_table() if limit is None else limit
    if 8.0 * rows * columns > limit:
        raise ValueError(
            f"{source}: its {rows:,} rows or more of {columns:,} columns must fit into half of the memory, "
            f"{limit / 2**30:.1f} GiB, but they do not; train on it by --stream, or take "
            "fewer rows or columns"
        )
