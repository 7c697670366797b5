"""Find out how to read a table that is larger than memory: one pass over its pieces, and one report of all faults."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import get_args

from fastssm.data.tables.columns import MOST_CATEGORIES, Encoded, category_note, encode_column, mean_note
from fastssm.data.tables.encode import MOST_COLUMNS, Choice, choose, constant_fault, raise_faults
from fastssm.data.tables.options import ReadOptions
from fastssm.data.tables.raw import Raw
from fastssm.data.tables.table import Column, Kind, Schema

MOST_FAULTS = 1000
KIND_WORDS = dict(zip(get_args(Kind), ("numbers", "True and False", "percentages", "text"), strict=True))


@dataclass
class _Known:
    """What the pieces so far tell of one column."""

    column: Column | None = None
    kind: Kind | None = None
    sign: str = ""
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    present: int = 0
    absent: int = 0
    faulty: bool = False

    @property
    def mean(self) -> float:
        return self.total / max(1, self.present)


@dataclass(frozen=True)
class Survey:
    """How a table is read.

    Args:
        schema: how to read each piece.
        notes: sentences for the user.
        image: `(height, width)` if each row is a greyscale image.
    """

    schema: Schema
    notes: tuple[str, ...]
    image: tuple[int, int] | None


def survey(pieces: Iterable[Raw], options: ReadOptions, label: str) -> Survey:
    """Find out how to read a table, from all of its pieces.

    The first piece tells which columns there are. Their kinds, the categories and the means are those of all pieces.

    Args:
        pieces: the rows, some at a time.
        options: which columns to keep and what to do with missing values and text.
        label: what to call the table in messages.

    Returns:
        How to read it.

    Raises:
        ValueError: with all faults of the table.
    """
    found = _Survey(options)
    for raw in pieces:
        found.add(raw)
    return found.finish(label)


class _Survey:
    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.known: dict[str, _Known] | None = None
        self.width = 0
        self.image: tuple[int, int] | None = None
        self.faults: dict[str, None] = {}  # a set that keeps its order
        self.notes: dict[str, None] = {}

    def add(self, raw: Raw) -> None:
        """Add the rows of a piece."""
        faults, notes = list(raw.faults), list(raw.notes)
        if not len(raw.values):
            self.faults |= dict.fromkeys(faults)
            return
        choices = self._choices(raw, faults, notes)
        for fault in faults:
            self._fault(fault)
        for choice in choices:
            self._add_column(raw, choice, notes)
        self.notes |= dict.fromkeys(notes)

    def _choices(self, raw: Raw, faults: list[str], notes: list[str]) -> list[Choice]:
        """Return the columns to keep; the first piece decides which."""
        if self.known is not None:
            return choose(raw, replace(self.options, columns=tuple(self.known), drop=()), faults, [])
        choices = choose(raw, self.options, faults, notes)
        self.known = {raw.names[choice.position]: _Known() for choice in choices}
        self.width = len(raw.names)
        self.image = raw.image if len(choices) == self.width else None
        return choices

    def _fault(self, fault: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.setdefault(fault)

    def _add_column(self, raw: Raw, choice: Choice, notes: list[str]) -> None:
        assert self.known is not None
        name = raw.names[choice.position]
        known, options = self.known[name], self.options
        found = encode_column(raw, choice.position, None, options.missing, options.categorical, partial=True)
        where = f"rows {raw.start + 1:,} to {raw.row(len(raw.values) - 1).removeprefix('row ')}"
        faults = found.faults or self._differences(name, known, found)
        if faults and not known.faulty:  # those of a column in one piece are enough
            known.faulty = True
            for fault in faults:
                self._fault(f"{where}: {fault}")
        notes.extend(found.notes)
        if not known.faulty:
            self._join(known, found, choice.position, name, len(raw.values))

    def _differences(self, name: str, known: _Known, found: Encoded) -> list[str]:
        if found.kind and known.kind and found.kind != known.kind:
            return [
                f"column {name!r} holds {KIND_WORDS[found.kind]}, but {KIND_WORDS[known.kind]} in the rows before; "
                f"correct it, or leave the column out by --drop {name!r}"
            ]
        if found.sign and known.sign and found.sign != known.sign:
            return [
                f"column {name!r} mixes the currencies {known.sign} and {found.sign}; leave it out by --drop {name!r}"
            ]
        if (
            found.column
            and known.column
            and len(set(found.column.categories + known.column.categories)) > MOST_CATEGORIES
        ):
            return [
                f"column {name!r} holds text of more than {MOST_CATEGORIES} values; leave it out by --drop {name!r}"
            ]
        return []

    def _join(self, known: _Known, found: Encoded, position: int, name: str, rows: int) -> None:
        """Add what a piece tells of a column."""
        known.kind, known.sign = found.kind or known.kind, found.sign or known.sign
        absent = rows if found.kind is None else 0 if found.absent is None else int(found.absent.sum())
        known.absent += absent
        known.present += rows - absent
        if found.column is None:
            return
        known.total += found.column.fill * (rows - absent)
        if found.column.kind != "category":
            known.low, known.high = min(known.low, found.parts[0].min()), max(known.high, found.parts[0].max())
        before = () if known.column is None else known.column.categories
        known.column = Column(name, position, found.column.kind, tuple(sorted({*before, *found.column.categories})))

    def finish(self, label: str) -> Survey:
        """Return how to read the table, or raise one error with all faults."""
        columns = []
        for name, known in (self.known or {}).items():
            if known.column is not None and not known.faulty:
                columns.append(self._column(known.column, known))
            elif known.kind is None and not known.faulty:
                self._fault(f"column {name!r} has no value; leave it out by --drop")
        if self.known is None:
            self._fault("expected rows of numbers, but it has none")
        elif not columns and not self.faults:
            self._fault("no column is left to read; name some by --columns, or keep more of them")
        schema = Schema(tuple(columns), self.width, self.options.missing)
        if len(schema.names) > MOST_COLUMNS:
            self._fault(f"a model has at most {MOST_COLUMNS:,} columns; name fewer by --columns")
        raise_faults(label, list(self.faults))
        return Survey(schema, tuple(self.notes), self.image)

    def _column(self, column: Column, known: _Known) -> Column:
        """Return a column with what all pieces tell of it."""
        marked = self.options.missing == "indicator" and known.absent > 0
        if column.kind != "category" and known.low == known.high:
            self._fault(constant_fault(column.name, known.low))
        filled = known.absent and self.options.missing in ("mean", "indicator")
        if column.kind == "category":
            if len(column.categories) == 1:
                self._fault(
                    f"column {column.name!r} has the same text, {column.categories[0]!r}, in every row; leave it "
                    f"out by --drop {column.name!r}"
                )
            self.notes.setdefault(f"column {column.name!r} {category_note(column.categories)}")
            return replace(column, marked=marked)
        if filled:
            self.notes.setdefault(f"column {column.name!r} {mean_note(known.absent, known.mean)}")
        return replace(column, fill=known.mean, marked=marked)
