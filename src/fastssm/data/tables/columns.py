"""Turn the cells of one column into numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from fastssm.data.tables.cells import NUMERIC, Meaning, meaning
from fastssm.data.tables.raw import Raw, Texts
from fastssm.data.tables.table import Column, Floats, Kind
from fastssm.text import counted

MOST_CATEGORIES = 100
Mask = npt.NDArray[np.bool_]


@dataclass
class Encoded:
    """What became of one column.

    Args:
        column: how it was read; None if it was left out or has faults.
        parts: the columns of numbers `[rows]` that it became.
        absent: where values are missing; None if none is.
        untouched: whether `parts` is the column of `raw.values` itself.
        kind: what it holds, also if it was left out; None if it has no value or faults.
        sign: the currency of its numbers.
        faults: sentences about what stands in the way.
        notes: sentences for the user.
    """

    column: Column | None = None
    parts: list[Floats] = field(default_factory=list)
    absent: Mask | None = None
    untouched: bool = False
    kind: Kind | None = None
    sign: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def encode_column(
    raw: Raw, position: int, like: Column | None, missing: str, categorical: str, *, partial: bool = False
) -> Encoded:
    """Turn a column of cells into numbers, or say what stands in the way.

    Args:
        raw: the file.
        position: the column, from 0.
        like: how it was read before, if it was.
        missing: the option.
        categorical: the option, without `like`.
        partial: whether the rows are some of a larger table, so that no value, or one, need not be a fault.
    """
    return _Reading(raw, position, like, missing, categorical, partial).encode()


def mean_note(count: int, mean: float) -> str:
    """Return what follows the name of a column in which the mean was filled in."""
    return f"had {counted(count, 'missing value')}, which became its mean {mean:.6g}"


def category_note(categories: Sequence[str]) -> str:
    """Return what follows the name of a column of text that was encoded."""
    return f"became {counted(len(categories) - 1, 'column')} of 0 and 1; {categories[0]!r} is where all are 0"


class _Reading:
    """The meaning of the cells of one column."""

    def __init__(
        self, raw: Raw, position: int, like: Column | None, missing: str, categorical: str, partial: bool
    ) -> None:
        self.partial = partial
        self.raw, self.position, self.like = raw, position, like
        self.missing, self.categorical = missing, categorical
        self.name = raw.names[position]
        self.result = Encoded()
        self.numbers = raw.values[:, position]
        empty = Texts(np.empty(0, np.int64), np.empty(0, np.int32), ())
        self.texts = raw.texts.get(position, empty)
        self.cells = [meaning(text, raw.decimal) for text in self.texts.values]
        counted = np.bincount(self.texts.codes, minlength=len(self.cells)).tolist()
        self.counts = Counter[str]()
        for cell, count in zip(self.cells, counted, strict=True):
            self.counts[cell.meaning] += count
        self.plain = len(self.numbers) - len(self.texts.rows)
        self.absent = self._absent()

    def _rows(self, *meanings: Meaning) -> npt.NDArray[np.int64]:
        wanted = np.array([cell.meaning in meanings for cell in self.cells], bool)
        return self.texts.rows[wanted[self.texts.codes]] if len(wanted) else self.texts.rows

    def _absent(self) -> Mask | None:
        nan = np.isnan(self.numbers)
        nan[self.texts.rows] = False
        self.plain -= int(nan.sum())
        nan[self._rows("missing")] = True
        return nan if nan.any() else None

    def _fault(self, sentence: str) -> None:
        self.result.faults.append(f"column {self.name!r} {sentence}")

    def _note(self, sentence: str) -> None:
        self.result.notes.append(f"column {self.name!r} {sentence}")

    def _first(self, *meanings: Meaning) -> str:
        """Return the first cell of some meanings, quoted, with its row."""
        row = int(self._rows(*meanings)[0])
        code = self.texts.codes[np.searchsorted(self.texts.rows, row)]
        text = self.texts.values[code]
        shown = text if len(text) <= 40 else text[:37] + "..."
        return f"{shown!r} in {self.raw.row(row)}"

    def encode(self) -> Encoded:
        """Decide what the column is and encode it."""
        kind = self.result.kind = self._kind()
        if kind is not None:
            self._check_kind(kind)
        self._check_infinite()
        if kind == "category" and self.like is None and self.categorical == "drop":
            self._note("holds text and was left out")
            return self.result
        self._check_missing(kind)
        if kind is None or self.result.faults:
            return self.result
        if kind == "category":
            self._encode_category()
        else:
            self._encode_numbers(kind)
        if self.result.column is not None and self.missing == "indicator" and self._marks():
            self.result.column = replace(self.result.column, marked=True)
            mark = np.zeros(len(self.numbers)) if self.absent is None else self.absent.astype(np.float64)
            self.result.parts.append(mark)
            self.result.untouched = False
        return self.result if not self.result.faults else Encoded(faults=self.result.faults)

    def _marks(self) -> bool:
        return self.absent is not None if self.like is None else self.like.marked

    def _kind(self) -> Kind | None:
        """Return what the column is, or None after saying why it is nothing."""
        counts, numeric = self.counts, sum(self.counts[meaning] for meaning in NUMERIC)
        words = counts["text"] + counts["date"] + counts["decimal"] + counts["underscore"]
        known = self.plain + numeric + words + counts["bool"] + counts["infinite"]
        if not known:
            if self.like is None and not self.partial:
                self._fault("has no value; leave it out by --drop")
            return None if self.like is None else self.like.kind
        if counts["text"] + counts["date"] and not self.plain and numeric <= words:
            return self._category_kind()
        if self._say_mixed(numeric, words):
            return None
        self._note_groups()
        if counts["percent"]:
            self._note("has percentages, which are read as fractions: 9.9% is 0.099")
            return "percent"
        return "bool" if counts["bool"] else "number"

    def _category_kind(self) -> Kind | None:
        values = len(self._values())
        if self.like is not None or self.categorical == "drop":
            return "category"
        what = "dates or times" if self.counts["date"] > self.counts["text"] else "text"
        if self.categorical == "onehot" and values <= MOST_CATEGORIES:
            return "category"
        options = "--categorical drop leaves such columns out" + (
            ", --categorical onehot encodes them" if values <= MOST_CATEGORIES else f", --drop {self.name!r} this one"
        )
        self._fault(
            f"holds {what}, {counted(values, 'different value')}, first {self._first('text', 'date')}; {options}"
        )
        return None

    def _say_mixed(self, numeric: int, words: int) -> bool:
        """Say what is wrong with a column of numbers, and return whether anything is."""
        counts, before = self.counts, len(self.result.faults)
        drop = f"correct it, or leave the column out by --drop {self.name!r}"
        if counts["underscore"]:
            self._fault(f"has an underscore in {self._first('underscore')}, which no number has in a table; {drop}")
        if counts["decimal"]:
            other = "comma" if self.raw.decimal == "." else "point"
            sign = "," if self.raw.decimal == "." else "."
            self._fault(
                f"has a decimal {other} in {self._first('decimal')}, unlike the rest of the file; "
                f"say --decimal {sign} if all numbers have one"
            )
        if counts["text"] + counts["date"]:
            word = "cell" if counts["text"] + counts["date"] == 1 else "cells"
            where = self._first("text", "date")
            self._fault(
                f"has text in {counts['text'] + counts['date']:,} {word} among its numbers, first {where}; {drop}"
            )
        if counts["ambiguous"] and not self._groups_thousands():
            self._fault(
                f"has {self._first('ambiguous')}, which may have a decimal sign or grouped thousands; say which sign "
                "is decimal by --decimal , or --decimal ."
            )
        if counts["bool"] and self.plain + numeric:
            self._fault(f"mixes numbers with {self._first('bool')}; {drop}")
        if counts["percent"] and self.plain + numeric > counts["percent"]:
            self._fault(f"has {self._first('percent')}, but other cells without a percent sign; {drop}")
        signs = sorted({cell.sign for cell in self.cells if cell.sign})
        if len(signs) > 1:
            self._fault(f"mixes the currencies {' and '.join(signs)}; {drop}")
        elif signs:
            self.result.sign = signs[0]
            self._note(f"has the sign {signs[0]}, which was left out")
        return len(self.result.faults) > before

    def _note_groups(self) -> None:
        """Say how a number with grouped digits was read."""
        for text, cell in zip(self.texts.values, self.cells, strict=True):
            if cell.meaning in ("grouped", "ambiguous"):
                self._note(f"has digits in groups: {text} is read as {cell.value:.15g}")
                return

    def _groups_thousands(self) -> bool:
        return self.raw.certain or self.counts["grouped"] > 0

    def _check_kind(self, kind: Kind) -> None:
        if self.like is None or kind == self.like.kind or {kind, self.like.kind} <= {"number", "bool"}:
            return
        words = dict(zip(get_args(Kind), ("numbers", "True and False", "percentages", "text"), strict=True))
        self._fault(f"holds {words[kind]}, but held {words[self.like.kind]} in training; make it the same")

    def _check_infinite(self) -> None:
        infinite = np.isinf(self.numbers)
        infinite[self._rows("infinite")] = True
        count = int(infinite.sum())
        if count:
            row = self.raw.row(int(infinite.argmax()))
            self._fault(
                f"has {count:,} infinite or too large value{'s' if count > 1 else ''}, first in {row}; correct or "
                f"remove, or leave the column out by --drop {self.name!r}"
            )

    def _check_missing(self, kind: Kind | None) -> None:
        if self.absent is None or self.missing == "drop":
            return
        if kind is None and not self.result.faults and not self.partial:
            return
        count, row = int(self.absent.sum()), int(self.absent.argmax())
        found = np.searchsorted(self.texts.rows, row)
        is_text = found < len(self.texts.rows) and self.texts.rows[found] == row
        text = self.texts.values[self.texts.codes[found]] if is_text else "nan"
        first = f"{text!r} in {self.raw.row(row)}" if text else f"the empty cell in {self.raw.row(row)}"
        what = f"has {count:,} missing value{'s' if count > 1 else ''}, first {first}"
        if self.missing == "refuse":
            ways = "--missing drop leaves such rows out, --missing mean fills in the mean of the column"
            self._fault(f"{what}; {ways}")
        elif kind == "category" and not (self.missing == "indicator" and (self.like is None or self.like.marked)):
            self._fault(
                f"{what}, and text has no mean; --missing drop leaves such rows out, --missing indicator marks them"
            )
        elif self.missing == "indicator" and self.like is not None and not self.like.marked:
            self._fault(f"{what}, but had none in training, so nothing marks them; --missing drop leaves such rows out")

    def _read_numbers(self) -> Floats:
        """Return the numbers, also of texts; NaN where they are missing."""
        if not len(self.texts.rows):
            return self.numbers
        values = self.numbers.copy()
        known = np.array([cell.value if cell.meaning != "missing" else np.nan for cell in self.cells])
        values[self.texts.rows] = known[self.texts.codes]
        return values

    def _encode_numbers(self, kind: Kind) -> None:
        values = self._read_numbers()
        mean = float(np.mean(values if self.absent is None else values[~self.absent])) if self.like is None else 0.0
        self.result.column = self.like or Column(self.name, self.position, kind, fill=mean)
        self.result.absent = self.absent
        self.result.untouched = values is self.numbers and self.absent is None
        if self.absent is not None:
            values = np.where(self.absent, self.result.column.fill, values)
            if self.missing in ("mean", "indicator") and not self.partial:
                self._note(mean_note(int(self.absent.sum()), self.result.column.fill))
        self.result.parts = [values]

    def _values(self) -> list[str]:
        cells = zip(self.texts.values, self.cells, strict=True)
        return sorted(text for text, cell in cells if cell.meaning not in ("missing", "padding"))

    def _encode_category(self) -> None:
        values = self._values()
        categories = tuple(values) if self.like is None else self.like.categories
        unknown = [value for value in values if value not in categories]
        if unknown:
            code = self.texts.values.index(unknown[0])
            row = self.raw.row(int(self.texts.rows[self.texts.codes == code][0]))
            self._fault(
                f"has {unknown[0]!r} in {row}, which is none of its values in training: {', '.join(categories)}"
            )
            return
        if len(categories) == 1 and self.like is None and not self.partial:
            self._fault(f"has the same text, {categories[0]!r}, in every row; leave it out by --drop {self.name!r}")
            return
        self.result.column = self.like or Column(self.name, self.position, "category", categories)
        self.result.absent = self.absent
        place = {text: code for code, text in enumerate(self.texts.values)}
        for category in categories[1:]:
            part = np.zeros(len(self.numbers))
            if category in place:
                part[self.texts.rows[self.texts.codes == place[category]]] = 1.0
            self.result.parts.append(part)
        if self.like is None and not self.partial:
            self._note(category_note(categories))
