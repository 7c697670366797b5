"""Turn the cells of a file into numbers, or say everything that stands in the way."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastssm.data.tables.columns import Encoded, encode_column
from fastssm.data.tables.options import ReadOptions
from fastssm.data.tables.raw import Raw, require_memory
from fastssm.data.tables.table import Column, Schema, Table

SHOWN_FAULTS = 25
MINIMUM_ROWS = 10  # one tenth is held out for testing and one tenth for validation
MOST_COLUMNS = 20_000  # the scaler has a matrix of their square


@dataclass(frozen=True)
class Choice:
    """One column to keep: its position in the file, and how it was read before, if it was."""

    position: int
    like: Column | None = None


def encode(raw: Raw, options: ReadOptions, like: Schema | None = None, *, training: bool = False) -> Table:
    """Turn the cells of a file into a table.

    Args:
        raw: the file.
        options: which columns to keep and what to do with missing values and text.
        like: how to read the columns, instead of finding out.
        training: whether too few rows and constant columns are faults too.

    Returns:
        The table.

    Raises:
        ValueError: with all faults of the file.
    """
    faults, notes = list(raw.faults), list(raw.notes)
    choices = choose(raw, options, faults, notes) if like is None else _choose_like(raw, like, faults, notes)
    missing = options.missing if like is None or options.missing != "refuse" else like.missing
    if not len(raw.values):
        faults.append("expected rows of numbers, but it has none")
    encoded = []
    for choice in choices if len(raw.values) else []:
        found = encode_column(raw, choice.position, choice.like, missing, options.categorical)
        faults.extend(found.faults)
        notes.extend(found.notes)
        if found.column is not None:
            encoded.append(found)
            if like is None and _counts_rows(found):
                notes.append(counting_note(found.column.name))
            if training and found.column.kind != "category" and bool((found.parts[0] == found.parts[0][0]).all()):
                faults.append(constant_fault(found.column.name, found.parts[0][0]))
    if not encoded and not faults:
        faults.append("no column is left to read; name some by --columns, or keep more of them")
    if training and 0 < len(raw.values) < MINIMUM_ROWS:
        faults.append(f"at least {MINIMUM_ROWS} rows are required for the split, got {len(raw.values)}; add rows")
    if training and sum(len(found.parts) for found in encoded) > MOST_COLUMNS:
        faults.append(f"a model has at most {MOST_COLUMNS:,} columns; name fewer by --columns")
    raise_faults(raw.source, faults)
    schema = Schema(tuple(found.column for found in encoded if found.column is not None), len(raw.names), missing)
    keep = _kept(raw, encoded, missing)
    require_rows(raw.source, int(keep.sum()), len(keep), MINIMUM_ROWS if training else 1, notes)
    return _table(raw, encoded, keep, notes, schema if like is None else like)


def raise_faults(source: str, faults: Sequence[str]) -> None:
    """Raise one error with all faults, if there are any.

    Raises:
        ValueError: if there is a fault.
    """
    if len(faults) == 1:
        raise ValueError(f"{source}: {faults[0]}")
    if faults:
        shown = "".join(f"\n  - {fault}" for fault in faults[:SHOWN_FAULTS])
        more = len(faults) - SHOWN_FAULTS
        shown += f"\n  - and {more:,} more" if more > 0 else ""
        raise ValueError(f"{source}: {len(faults):,} faults must be dealt with{shown}")


def choose(raw: Raw, options: ReadOptions, faults: list[str], notes: list[str]) -> list[Choice]:
    """Return the columns that the options name, without those that only count the rows.

    Args:
        raw: the file.
        options: `columns` and `drop` are used.
        faults: faults are added here.
        notes: what was left out is added here.
    """
    if options.columns is not None:
        chosen = _find(raw, options.columns, "columns", faults)
        if len(set(chosen)) < len(chosen):
            faults.append("--columns names a column twice; name it once")
        return [Choice(position) for position in chosen]
    dropped = set(_find(raw, options.drop, "drop", faults))
    kept = []
    for position, name in enumerate(raw.names):
        if position in dropped:
            continue
        if position == 0 and raw.implied and not _names_or_counts(raw):
            faults.append(
                f"the first row has {len(raw.names) - 1} names, but most rows have {len(raw.names)} cells; add a name"
            )
        elif position in raw.indices and _is_index(raw, position):
            notes.append(
                f"the column without a name numbers or names the rows, so it was left out; --columns {name!r} keeps it"
            )
        elif name.startswith("column ") and len(raw.names) > 1 and raw.named and _is_empty(raw, position):
            notes.append(f"{name} has neither a name nor a value, so it was left out")
        else:
            kept.append(Choice(position))
    return kept


def encode_piece(raw: Raw, like: Schema) -> Table:
    """Turn some rows of a larger table into numbers; with `--missing drop`, none may be left.

    Args:
        raw: the rows.
        like: how to read the columns.

    Returns:
        The rows, with their numbers in `raw`, and without notes.

    Raises:
        ValueError: with all faults of these rows.
    """
    faults, notes, encoded = list(raw.faults), list[str](), list[Encoded]()
    for choice in _choose_like(raw, like, faults, notes):
        found = encode_column(raw, choice.position, choice.like, like.missing, "refuse", partial=True)
        faults.extend(found.faults)
        encoded.append(found)
    raise_faults(raw.source, faults)
    return _table(raw, encoded, _kept(raw, encoded, like.missing), notes, like)


def _find(raw: Raw, names: Sequence[str], option: str, faults: list[str]) -> list[int]:
    """Return the positions of columns by their names, or by their numbers where no column has them for names."""
    positions = {str(number): number - 1 for number in range(1, len(raw.names) + 1)}
    positions |= {name: position for position, name in enumerate(raw.names)}
    unknown = [name for name in names if name not in positions]
    if unknown:
        close = difflib.get_close_matches(unknown[0], raw.names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the columns are {list_names(raw.names)}"
        word = "is not a column" if len(unknown) == 1 else "are not columns"
        faults.append(f"--{option}: {', '.join(map(repr, unknown))} {word}; {hint}")
    return [positions[name] for name in names if name in positions]


def list_names(names: Sequence[str], most: int = 40) -> str:
    """Return names separated by commas, at most `most` of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f", and {more:,} more up to {names[-1]}" if more > 0 else "")


def _is_index(raw: Raw, position: int) -> bool:
    """Return whether a column has a whole number or a text of its own for every row of a file."""
    texts = raw.texts.get(position)
    numbers = raw.values[:, position]
    if texts is None and not bool((numbers == np.floor(numbers)).all()):
        return False
    if texts is not None and len(texts.rows) != len(numbers):
        return False
    marks = numbers if texts is None else texts.codes
    starts = [first for first, _ in raw.parts if first > 0]
    return all(len(np.unique(part)) == len(part) for part in np.split(marks, starts))


def _names_or_counts(raw: Raw) -> bool:
    """Return whether the first column has texts or consecutive whole numbers."""
    return 0 in raw.texts or bool((np.diff(raw.values[:, 0]) == 1.0).all())


def _counts_rows(found: Encoded) -> bool:
    """Return whether a column is 0, 1, 2, ... or 1, 2, 3, ..."""
    values = found.parts[0]
    if len(values) < MINIMUM_ROWS or values[0] not in (0.0, 1.0):
        return False
    return bool((np.diff(values) == 1.0).all())


def constant_fault(name: str, value: float) -> str:
    """Return what is said of a column of numbers that are all the same."""
    return f"column {name!r} is constant: {value:g} in every row; leave it out by --drop {name!r}"


def counting_note(name: str) -> str:
    """Return what is said of a column that only counts the rows."""
    return f"column {name!r} only counts the rows; --drop {name!r} leaves it out"


def _is_empty(raw: Raw, position: int) -> bool:
    texts = raw.texts.get(position)
    return texts is not None and texts.values == ("",) and len(texts.rows) == len(raw.values)


def _choose_like(raw: Raw, like: Schema, faults: list[str], notes: list[str]) -> list[Choice]:
    """Return the columns of a schema: by name, or by position in a file without names."""
    if not raw.named:
        width = len(raw.names)
        if width == like.width:
            return [Choice(column.position, column) for column in like.columns]
        if width == len(like.columns):
            return [Choice(position, column) for position, column in enumerate(like.columns)]
        faults.append(
            f"its {width} columns have no names, so there must be {len(like.columns)} or {like.width} as in training; "
            "add a header"
        )
        return []
    positions = {name: position for position, name in enumerate(raw.names)}
    absent = [column.name for column in like.columns if column.name not in positions]
    if absent:
        faults.append(
            f"the model was trained on {list_names([column.name for column in like.columns])}, but "
            f"{list_names(absent)} {'is' if len(absent) == 1 else 'are'} not in this file; add or rename"
        )
    wanted = {column.name for column in like.columns}
    extra = [name for name in raw.names if name not in wanted]
    if extra and not absent:
        notes.append(f"not in the model, so left out: {list_names(extra)}")
    return [Choice(positions[column.name], column) for column in like.columns if column.name in positions]


def _kept(raw: Raw, encoded: Sequence[Encoded], missing: str) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(raw.values), bool)
    for found in encoded if missing == "drop" else ():
        if found.absent is not None:
            keep &= ~found.absent
    return keep


def require_rows(source: str, kept: int, rows: int, required: int, notes: list[str]) -> None:
    """Check that `--missing drop` leaves enough rows, and note how many it leaves out.

    Raises:
        ValueError: if too few are left.
    """
    if kept < rows:
        notes.append(f"{rows - kept:,} of {rows:,} rows with missing values were left out")
    if not kept:
        raise ValueError(f"{source}: every row has a missing value, so --missing drop leaves none; use --missing mean")
    if kept < required:
        left = "" if kept == rows else " without missing values"
        raise ValueError(f"{source}: at least {required} rows{left} are required for the split, got {kept}; add rows")


def _table(
    raw: Raw, encoded: Sequence[Encoded], keep: npt.NDArray[np.bool_], notes: Sequence[str], schema: Schema
) -> Table:
    values = _values(raw, encoded, keep)
    values.flags.writeable = False
    numbers: npt.NDArray[np.int64] = np.flatnonzero(keep).astype(np.int64) + 1
    numbers.flags.writeable = False
    whole = len(schema.names) == len(raw.names)
    return Table(values, schema.names, numbers, tuple(notes), schema, raw.image if whole else None)


def _values(raw: Raw, encoded: Sequence[Encoded], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    untouched = all(e.untouched and e.column and e.column.position == j for j, e in enumerate(encoded))
    if untouched and len(encoded) == raw.values.shape[1] and keep.all():
        return raw.values
    width = sum(len(found.parts) for found in encoded)
    require_memory(raw.source, int(keep.sum()), width)
    values = np.empty((int(keep.sum()), width))
    place = 0
    for found in encoded:
        for part in found.parts:
            values[:, place] = part[keep]
            place += 1
    return values
