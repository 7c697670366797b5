"""Read blocks of text that hold nothing but plain numbers, all cells at once."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from fastssm.data.tables.dialect import BLANKS, Dialect
from fastssm.data.tables.raw import PLAIN_BYTES, floats
from fastssm.data.tables.table import Floats

ARROW_BYTES = 2**16  # from which a block is worth importing pyarrow for


def plain_block(block: str, dialect: Dialect, width: int, trailing: bool) -> Floats | None:
    """Return the numbers `[n, width]` of a block that holds nothing else, or None.

    Args:
        block: lines, each ended by a line feed.
        dialect: how they are written.
        width: the number of cells in a line.
        trailing: whether a separator ends every line.
    """
    separator, decimal = dialect.separator, dialect.decimal
    if not block.isascii() or (decimal == "," and ("." in block or separator == ",")):
        return None
    packed = block.encode()
    if trailing:
        packed = packed.replace(f"{separator}\n".encode(), b"\n")
    mark = b"\t" if separator is BLANKS else separator.encode()
    if packed.translate(None, PLAIN_BYTES + mark + (b"," if decimal == "," else b"")):
        return None
    if decimal == ",":
        packed = packed.replace(b",", b".")
    if separator is BLANKS:
        return _flat(packed.split(), width) if (_cells_per_line(packed) == width).all() else None
    if not _is_regular(packed, mark, width):
        return None
    found = by_arrow(packed, mark, width) if len(packed) >= ARROW_BYTES else None
    return _flat(packed.replace(b"\n", mark).split(mark)[:-1], width) if found is None else found


def _flat(parts: list[bytes], width: int) -> Floats | None:
    numbers = floats(parts)
    return None if numbers is None else numbers.reshape(-1, width)


def by_arrow(packed: bytes, mark: bytes, width: int) -> Floats | None:
    """Return what `float` makes of the cells of lines, by pyarrow's parser, or None where that is absent or unsure.

    Args:
        packed: lines of `width` cells made of `PLAIN_BYTES`.
        mark: what separates them.
        width: the number of cells in a line.
    """
    try:
        import pyarrow
        from pyarrow import csv
    except ImportError:
        return None
    names = [str(column) for column in range(width)]
    try:
        table = csv.read_csv(
            io.BytesIO(packed),
            csv.ReadOptions(use_threads=False, block_size=len(packed) + 1, column_names=names),
            csv.ParseOptions(delimiter=mark.decode(), quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.float64()), null_values=[], check_utf8=False),
            memory_pool=pyarrow.system_memory_pool(),  # the default one keeps what it had
        )
    except pyarrow.ArrowInvalid:  # such as +1, which float takes for a number
        return None
    if table.num_rows != packed.count(b"\n"):
        return None
    numbers = np.empty((table.num_rows, width))
    for column in range(width):
        numbers[:, column] = table.column(column).to_numpy()
    return numbers


def _is_regular(packed: bytes, mark: bytes, width: int) -> bool:
    """Return whether every line has `width` cells."""
    signs = np.frombuffer(packed, np.uint8)
    signs = signs[(signs == mark[0]) | (signs == 10)]
    if len(signs) % width:
        return False
    ends = signs.reshape(-1, width) == 10
    return bool(ends[:, -1].all() and not ends[:, :-1].any())


def _cells_per_line(packed: bytes) -> npt.NDArray[np.int64]:
    """Return the number of cells in each line, where blanks separate them."""
    signs = np.frombuffer(packed, np.uint8)
    blank = signs <= 32
    starts = ~blank & np.concatenate([[True], blank[:-1]])
    ends: npt.NDArray[np.int64] = np.cumsum(starts)[signs == 10]
    return np.diff(ends, prepend=0)
