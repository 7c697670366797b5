"""How a text file is written: what separates its columns and which sign is decimal."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fastssm.data.tables.cells import BOOLS, NUMERIC, is_missing, meaning, plain

WHOLE = re.compile(r"[-+\d ]+", re.ASCII)
PADDED = re.compile(r"0\d+", re.ASCII)
ONE_COLUMN = ";"  # separates nothing where it does not occur
BLANKS = None  # the separator of columns that any run of spaces and tabs separates
SEPARATORS: tuple[str | None, ...] = (";", "\t", "|", ",", BLANKS)  # the first of equally good ones is taken


@dataclass(frozen=True)
class Dialect:
    """How a text file is written.

    Args:
        separator: the sign between columns; None for blanks.
        decimal: the decimal sign.
        certain: whether the decimal sign is beyond doubt.
        doubt: a sentence, if only the user can tell the decimal sign.
        example: a number with a decimal comma that could be another number with a decimal point, or "".
    """

    separator: str | None
    decimal: str = "."
    certain: bool = False
    doubt: str = ""
    example: str = ""


def split(lines: Iterable[str], separator: str | None, strict: bool = False) -> Iterator[list[str]]:
    """Yield the cells of each row; with `strict`, raise `csv.Error` for wrong quotation marks."""
    if separator is not None:
        ended = (line + "\n" for line in lines)  # so that a line feed in quotation marks is kept
        yield from csv.reader(ended, delimiter=separator, skipinitialspace=True, strict=strict)
        return
    for line in lines:
        text = line.replace("\t", " ").strip()
        yield next(csv.reader([text], delimiter=" ", skipinitialspace=True)) if '"' in text else text.split()


def find_separator(lines: Sequence[str], decimal: str) -> str | None:
    """Return the separator that gives rows of one length and cells that are numbers.

    Args:
        lines: the first lines of the file.
        decimal: the option `decimal`; a decimal comma separates no columns.
    """
    best: str | None = "," if decimal != "," else ONE_COLUMN
    best_score = -1.0
    for separator in SEPARATORS:
        if separator == "," and decimal == "," and not any('"' in line for line in lines):
            continue
        try:
            rows = list(split(lines, separator))
        except csv.Error:
            continue
        width, frequency = Counter(map(len, rows)).most_common(1)[0]
        if width > 1:
            score = frequency / len(rows) + _numeric_share(rows[1:] or rows, separator)
            if score > best_score + 1e-9:
                best, best_score = separator, score
    return ONE_COLUMN if best == "," and _is_one_column(lines) else best


def _is_one_column(lines: Sequence[str]) -> bool:
    """Return whether the commas are decimal signs of a single column: all rows have one, and its name has none."""
    head, *below = (line.strip() for line in lines)
    return "," not in head and bool(below) and all(plain(",").fullmatch(line) and "," in line for line in below)


def _numeric_share(rows: Sequence[Sequence[str]], separator: str | None) -> float:
    cells = [cell.strip() for row in rows for cell in row]
    joined = separator in (",", BLANKS)  # a blank inside a number then shows that two cells are taken for one
    return sum(_is_numeric(cell) and not (joined and " " in cell) for cell in cells) / max(1, len(cells))


def _is_numeric(cell: str) -> bool:
    if is_missing(cell) or cell.lower() in BOOLS:
        return True
    return any(meaning(cell, decimal).meaning in NUMERIC for decimal in ".,")


def one_or_two(rows: Sequence[Sequence[str]], separator: str | None) -> str:
    """Return a sentence if two columns of whole numbers may be one column with decimal commas, as 9,05 shows."""
    if separator != "," or not all(len(row) == 2 and WHOLE.fullmatch("".join(row)) for row in rows):
        return ""
    padded = next((row for row in rows if PADDED.fullmatch(row[1].strip())), None)
    if padded is None:
        return ""
    shown = ",".join(padded)
    return f"{shown} may be two numbers or one with a decimal comma; say which by --decimal . or --decimal ,"


def find_decimal(rows: Sequence[Sequence[str]], separator: str | None, option: str) -> Dialect:
    """Return the dialect of rows of data, which are without the header.

    A number such as 9,5 shows that the comma is decimal, 9.5 or 1,234,567 that the point is; 9,896 and 9.896 can be
    read both ways. If all numbers can, semicolons between columns show that the comma is decimal.
    """
    if option != "auto":
        return Dialect(separator, option, certain=True)
    verdicts, examples = Counter[str](), dict[str, str]()
    for cell in (cell.strip() for row in rows for cell in row if "," in cell or "." in cell):
        verdict = _verdict(cell)
        verdicts[verdict] += 1
        examples.setdefault(verdict, cell)
    if verdicts["."] or verdicts[","]:
        return Dialect(separator, "." if verdicts["."] >= verdicts[","] else ",", certain=True)
    if not verdicts["maybe ,"] or verdicts["maybe ."]:
        return Dialect(separator, doubt="" if separator == "," else _doubt(rows, "."))
    if separator == ";":
        return Dialect(separator, ",", True, _doubt(rows, ","), examples["maybe ,"])
    return Dialect(separator)


def _verdict(cell: str) -> str:
    """Return which decimal sign a cell proves, `"maybe ,"` or `"maybe ."` if it proves none, or `""`."""
    point, comma = meaning(cell, ".").meaning, meaning(cell, ",").meaning
    for sign, own, other in ((".", point, comma), (",", comma, point)):
        if own in NUMERIC and own != "ambiguous":
            return f"maybe {sign}" if other == "ambiguous" else sign if other not in NUMERIC else ""
    return ""


def _doubt(rows: Sequence[Sequence[str]], decimal: str) -> str:
    """Return a sentence if the sign rather groups thousands: if a column also has numbers below 1000 without it."""
    for column in zip(*(row for row in rows if len(row) == len(rows[0])), strict=True):
        cells = [cell.strip() for cell in column if not is_missing(cell)]
        signed = [cell for cell in cells if decimal in cell]
        others = [cell for cell in cells if decimal not in cell]
        below_1000 = all(re.fullmatch(r"[+-]?\d{1,3}", cell, re.ASCII) for cell in others)
        if signed and others and below_1000 and all(_verdict(cell) == f"maybe {decimal}" for cell in signed):
            return (
                f"{signed[0]!r} beside {others[0]!r} may have a decimal sign or grouped thousands; "
                "say which sign is decimal by --decimal , or --decimal ."
            )
    return ""
