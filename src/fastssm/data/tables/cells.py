"""What a cell of text means: a number as people write it, a missing value, a category."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Meaning = Literal[
    "missing",
    "padding",  # of a short row
    "infinite",
    "bool",
    "percent",
    "currency",
    "grouped",  # digits in groups, beyond doubt
    "number",
    "ambiguous",  # digits in groups, or a decimal sign
    "decimal",  # a number with the other decimal sign
    "underscore",
    "date",
    "text",
]
MISSING = frozenset(
    {"", "?", "-", ".", "na", "n/a", "#n/a", "#na", "#n/a n/a", "nan", "-nan", "+nan", "null", "none", "<na>", "nat"}
    | {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "missing"}
)
PADDING = "\0"  # fills up a short row, which is a fault of its own
BOOLS = {"true": 1.0, "false": 0.0}
NUMERIC = frozenset(["percent", "currency", "grouped", "number", "ambiguous"])
OTHER = {".": ",", ",": "."}  # the sign that may group thousands, by the decimal sign

_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_UNDERSCORE = re.compile(r"[+-]?\d[\d.,]*_[\d_.,]*\d([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?")
_SIGN = r"[+-]?"
_GROUP_MARKS = "[ '’\u00a0\u2009\u202f]"
_CURRENCY = "$€£¥₹₩₽₺"
_MONEY = re.compile(rf"([+-]?)\s*([{_CURRENCY}])\s*([+-]?.+)|([+-]?.+?)\s*([{_CURRENCY}])")


@dataclass(frozen=True)
class Cell:
    """What one text means.

    Args:
        meaning: what kind of text it is.
        value: its number, if it has one.
        sign: the currency.
    """

    meaning: Meaning
    value: float = 0.0
    sign: str = ""


@cache
def plain(decimal: str) -> re.Pattern[str]:
    """Return the pattern of a number without anything that groups its digits."""
    point = re.escape(decimal)
    return re.compile(rf"{_SIGN}(\d+({point}\d*)?|{point}\d+)([eE][+-]?\d+)?", re.ASCII)


@cache
def _grouped(decimal: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    point, comma = re.escape(decimal), re.escape(OTHER[decimal])
    by_comma = rf"{_SIGN}[1-9]\d{{0,2}}({comma}\d{{3}})+({point}\d*)?"
    by_mark = rf"{_SIGN}[1-9]\d{{0,2}}({_GROUP_MARKS}\d{{3}})+({point}\d*)?"
    return re.compile(by_comma, re.ASCII), re.compile(by_mark, re.ASCII)


def is_number(text: str, decimal: str = ".") -> bool:
    """Return whether a stripped text is a plain number, or one with grouped digits or a percent or currency sign."""
    return plain(decimal).fullmatch(text) is not None or meaning(text, decimal).meaning in NUMERIC


def is_missing(text: str) -> bool:
    """Return whether a text stands for a missing value."""
    return text.strip().lower() in MISSING


def meaning(text: str, decimal: str) -> Cell:
    """Return what a text means.

    Args:
        text: the cell, which may be a plain number too.
        decimal: the decimal sign.

    Returns:
        Its meaning, with its value if it has one.
    """
    stripped = text.strip()
    lower = stripped.lower()
    if lower in MISSING:
        return Cell("missing")
    if text == PADDING:
        return Cell("padding")
    if lower in BOOLS:
        return Cell("bool", BOOLS[lower])
    if _INFINITE.fullmatch(lower):
        return Cell("infinite")
    found = _number(stripped.replace("\u2212", "-"), decimal)
    return found if found is not None else _not_a_number(stripped, decimal)


def _number(text: str, decimal: str) -> Cell | None:
    if text.endswith("%"):
        inner = _bare(text[:-1].rstrip(), decimal)
        return Cell("percent", inner.value / 100) if inner is not None and inner.meaning != "ambiguous" else None
    money = _MONEY.fullmatch(text)
    if money:
        sign = money[2] or money[5]
        inner = _bare((money[1] or "") + (money[3] or money[4]), decimal)
        return Cell("ambiguous" if inner.meaning == "ambiguous" else "currency", inner.value, sign) if inner else None
    return _bare(text, decimal)


def _bare(text: str, decimal: str) -> Cell | None:
    if plain(decimal).fullmatch(text):
        value = float(text.replace(decimal, "."))
        return Cell("infinite") if value in (float("inf"), float("-inf")) else Cell("number", value)
    by_comma, by_mark = _grouped(decimal)
    if by_comma.fullmatch(text):
        value = float(text.replace(OTHER[decimal], "").replace(decimal, "."))
        several = text.count(OTHER[decimal]) > 1 or decimal in text
        return Cell("grouped" if several else "ambiguous", value)
    if by_mark.fullmatch(text):
        return Cell("grouped", float(re.sub(_GROUP_MARKS, "", text).replace(decimal, ".")))
    return None


def _not_a_number(text: str, decimal: str) -> Cell:
    if plain(OTHER[decimal]).fullmatch(text):
        return Cell("decimal")
    if _UNDERSCORE.fullmatch(text):
        return Cell("underscore")
    return Cell("date" if _DATE.fullmatch(text) else "text")
