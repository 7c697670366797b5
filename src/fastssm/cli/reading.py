"""Options of commands that read a table."""

from __future__ import annotations

import argparse
import csv
import textwrap
from typing import Any

from fastssm.data import COMPRESSED, READERS, ReadOptions

FORMATS = textwrap.fill(
    f"A file is one of {', '.join(READERS)}, possibly compressed ({', '.join(COMPRESSED)}). Separators, encoding, "
    "decimal sign and header of a text are found out.",
    width=112,
)


def names(text: str) -> tuple[str, ...]:
    """Parse names separated by commas; a name with a comma stands in double quotes."""
    found = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    if not found or not all(found):
        raise argparse.ArgumentTypeError(f"expected names of columns separated by commas, got {text!r}")
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "columns": {"type": names, "metavar": "A,B,...", "help": "columns to read, by name or number (default: all)"},
    "drop": {"type": names, "metavar": "A,B,...", "help": "columns to leave out, by name or number"},
    "header": {
        "action": argparse.BooleanOptionalAction,
        "help": "whether the first row of the file holds the names of the columns (default: found out)",
    },
    "decimal": {"choices": ("auto", ".", ","), "help": "decimal sign of the file"},
    "missing": {
        "choices": ("refuse", "drop", "mean", "indicator"),
        "help": "missing values: refuse the file, drop their rows, fill in the mean of the column, or also add a "
        "column of 0 and 1 that marks them",
    },
    "categorical": {
        "choices": ("refuse", "drop", "onehot"),
        "help": "columns of text: refuse the file, drop them, or encode each value but the first as a column of "
        "0 and 1",
    },
}


def add_reading(parser: argparse.ArgumentParser, *wanted: str) -> None:
    """Add options of reading, whose defaults are those of `ReadOptions`.

    Args:
        parser: the parser of a command.
        wanted: names of `OPTIONS`; all if left out.
    """
    group = parser.add_argument_group("options of reading a file")
    for name in wanted or OPTIONS:
        group.add_argument(f"--{name}", default=getattr(ReadOptions(), name), **OPTIONS[name])
