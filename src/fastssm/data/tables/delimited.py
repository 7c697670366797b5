"""Read a text file of rows and columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from fastssm.data.tables.blocks import plain_block
from fastssm.data.tables.cells import PADDING, is_number
from fastssm.data.tables.decode import BLOCK, Lines, guess_encoding
from fastssm.data.tables.dialect import BLANKS, find_decimal, find_separator, one_or_two, split
from fastssm.data.tables.header import ASK, INTEGER, is_header, is_unnamed, unique_names
from fastssm.data.tables.options import ReadOptions
from fastssm.data.tables.raw import LARGEST_FILE_WIDTH, Cells, Raw, numbered
from fastssm.data.tables.sources import Source
from fastssm.text import counted

SAMPLE_LINES, SAMPLE_CHARACTERS = 200, 2**18
BATCH_CELLS = 40_000
PIECE_BLOCKS = 16  # blocks of text in a piece of a file
LONGEST_QUOTATION = 64  # blocks that a quotation is followed through
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\n', re.IGNORECASE)
RECODED = "the text is not in UTF-8, so it was read as Latin-1 (Windows-1252)"
FALLBACK = "cp1252"  # what Windows writes in Western Europe; Latin-1 where it differs is control characters


def read_delimited(source: Source, options: ReadOptions) -> Raw:
    """Read a text file, whatever separates its columns.

    Args:
        source: the file.
        options: `header` and `decimal` are used.

    Returns:
        Its cells.

    Raises:
        ValueError: if it is not a text or has no rows.
    """
    encoding = guess_encoding(source)
    try:
        return _read(Lines(source, encoding), options)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise ValueError(
                f"{source.label}: its first bytes say {encoding}, but it is damaged; copy it again"
            ) from None
    try:
        raw = _read(Lines(source, FALLBACK), options)
    except UnicodeDecodeError:
        raw = _read(Lines(source, "latin-1"), options)
    raw.notes.insert(0, RECODED)
    return raw


def delimited_pieces(source: Source, options: ReadOptions) -> Iterator[Raw]:
    """Yield the rows of a text file, some at a time, so that a file of any length takes little memory.

    Args:
        source: the file.
        options: `header` and `decimal` are used.

    Raises:
        ValueError: as `read_delimited`.
    """
    lines = Lines(source, _encoding(source))
    layout, blocks = _begin(lines, options)
    start = 0
    while group := _group(blocks):
        cells = Cells(layout.width, layout.dialect.decimal, source.label)
        ragged = _fill(cells, iter(group), layout, start)
        raw = layout.raw(source.label, cells)
        raw.faults.extend(ragged)
        raw.notes = [*raw.notes, *([RECODED] if lines.encoding in (FALLBACK, "latin-1") else [])]
        raw.notes += ["comments, from # to the end of the line, were left out"] if lines.comments else []
        raw.start = start
        start += len(raw.values)
        yield raw


def _group(blocks: Iterator[str]) -> list[str]:
    """Return the next blocks: a few, and as many more as end a quotation."""
    group, quotes = list[str](), 0
    for block in blocks:
        group.append(block)
        quotes += block.count('"')
        if len(group) >= PIECE_BLOCKS and (quotes % 2 == 0 or len(group) > LONGEST_QUOTATION):
            break
    return group


def _encoding(source: Source) -> str:
    """Return the encoding in which the whole file can be read."""
    encoding = guess_encoding(source)
    for candidate in (encoding, FALLBACK, "latin-1"):
        try:
            with io.TextIOWrapper(source.open(), candidate) as file:
                while file.read(BLOCK):
                    pass
        except UnicodeDecodeError:
            if encoding != "utf-8":
                raise ValueError(
                    f"{source.label}: its first bytes say {encoding}, but it is damaged; copy it again"
                ) from None
        else:
            return candidate
    raise AssertionError("every file is Latin-1")


def _read(lines: Lines, options: ReadOptions) -> Raw:
    layout, blocks = _begin(lines, options)
    cells = Cells(layout.width, layout.dialect.decimal, lines.source.label)
    ragged = _fill(cells, blocks, layout)
    raw = layout.raw(lines.source.label, cells)
    raw.faults.extend(ragged)
    if lines.comments:
        raw.notes.append(f"{counted(lines.comments, 'comment')}, from # to the end of the line, left out")
    return raw


def _begin(lines: Lines, options: ReadOptions) -> tuple[_Layout, Iterator[str]]:
    """Return how a file is written, and its rows below the header in blocks of lines."""
    blocks = lines.blocks()
    first = next(blocks, "")
    declared = SEPARATOR_LINE.match(first)
    first = first[declared.end() :] if declared else first
    sample = first[:SAMPLE_CHARACTERS].split("\n")[:SAMPLE_LINES]
    sample = sample[:-1] if len(sample) > 1 else first.split("\n", 1)[:1]
    label = lines.source.label
    if not sample or not sample[0]:
        raise ValueError(f"{label}: expected rows of numbers, but the file is empty")
    if max(map(sample[0].count, ",;\t| ")) > LARGEST_FILE_WIDTH:
        raise ValueError(f"{label}: at most {LARGEST_FILE_WIDTH:,} columns are read, but this has more; transpose it?")
    separator = declared[1] if declared else find_separator(sample, options.decimal)
    rows = _sampled(sample, separator, label)
    layout = _Layout(rows, separator, options, lines.first_comments)
    rest = "\n".join(first.split("\n")[layout.header_lines(sample) :])
    return layout, chain([rest] if rest else [], blocks)


def _sampled(sample: Sequence[str], separator: str | None, label: str) -> list[list[str]]:
    try:
        return [row for row in split(sample, separator) if row]
    except csv.Error as error:
        raise ValueError(f"{label}: not a table ({error}); check its quotation marks") from None


class _Layout:
    """The columns and the header of a text file, from its first rows."""

    def __init__(
        self, rows: list[list[str]], separator: str | None, options: ReadOptions, comments: Sequence[str]
    ) -> None:
        self.faults: list[str] = []
        self.notes: list[str] = []
        head, below = rows[0], rows[1:]
        counts = [len(row) for row in below] or [len(head)]
        width = max(set(counts), key=lambda count: (counts.count(count), count == len(head)))
        self.index_unnamed = len(head) == width - 1 and not all(is_number(cell.strip()) for cell in head)
        full = [row for row in below if len(row) == width]
        self.trailing = width > 1 and bool(full) and not any(row[-1].strip() for row in [*full, ([*head, ""])[:width]])
        if self.trailing:
            width -= 1
            self.index_unnamed = False
            self.notes.append("every row ends with a separator, so an empty last column was left out")
        head = ["", *head] if self.index_unnamed else head[:width] if self.trailing else head
        doubt = one_or_two(rows, separator) if options.decimal == "auto" else ""
        self.faults.extend([doubt] if doubt else [])
        self.dialect = find_decimal([row[:width] for row in below or [head]], separator, options.decimal)
        self.width = width
        self.header = self._decide_header(head, [row[:width] for row in full], options)
        self.names, self.first = self._names(head, comments)

    def _decide_header(self, head: list[str], below: list[list[str]], options: ReadOptions) -> bool:
        if options.header != "auto":
            return options.header
        if len(head) != self.width:
            return not all(is_number(cell.strip(), self.dialect.decimal) for cell in head)
        found = is_header(head, below, self.dialect.decimal)
        shown = ", ".join(cell.strip() for cell in head[:3]) + (", ..." if len(head) > 3 else "")
        if found is ASK:
            self.faults.append(f"the first row ({shown}) may be names or numbers; say which by --header or --no-header")
        elif found and all(INTEGER.fullmatch(cell.strip()) for cell in head):
            self.notes.append(f"the first row ({shown}) was taken for names; --no-header takes it for numbers")
        return bool(found)

    def _names(self, head: list[str], comments: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Return the names of the columns, and the first name as the file has it."""
        if self.header:
            if len(head) != self.width:
                self.faults.append(f"the first row has {len(head)} names, but most rows have {self.width} cells")
            cells = [*head, *[""] * (self.width - len(head))][: self.width]
            names, notes = unique_names(cells)
            self.notes.extend(notes)
            return names, cells[0]
        if comments and self.width > 1:
            cells = [cell.strip() for cell in next(split([comments[-1]], self.dialect.separator), [])]
            if len(cells) == self.width and not any(is_number(cell) or not cell for cell in cells):
                self.notes.append("the names of the columns are those of the comment above the first row")
                return unique_names(cells)[0], cells[0]
        return numbered(self.width), "column 1"

    def header_lines(self, sample: Sequence[str]) -> int:
        """Return how many lines the header takes."""
        if not self.header:
            return 0
        if self.dialect.separator is BLANKS:
            return 1
        reader = csv.reader(sample, delimiter=self.dialect.separator or ",", skipinitialspace=True)
        next(reader)
        return reader.line_num

    def raw(self, label: str, cells: Cells) -> Raw:
        """Return the file with the cells that were read."""
        values, texts = cells.finish()
        dialect = self.dialect
        faults = [*self.faults, *([dialect.doubt] if dialect.doubt else [])]
        if dialect.example and not dialect.doubt:
            value = float(dialect.example.replace(",", "."))
            self.notes.append(
                f"the comma is the decimal sign: {dialect.example} is read as {value}; --decimal . takes it for "
                "grouped thousands"
            )
        indices = (0,) if self.header and is_unnamed(self.first) and self.width > 1 else ()
        return Raw(
            label,
            values,
            self.names,
            named=self.names != numbered(self.width),
            texts=texts,
            decimal=dialect.decimal,
            certain=dialect.certain,
            indices=indices,
            implied=self.index_unnamed,
            notes=self.notes,
            faults=faults,
        )


def _fill(cells: Cells, blocks: Iterator[str], layout: _Layout, start: int = 0) -> list[str]:
    """Read all blocks: at once those that hold nothing but plain numbers, the others row by row. Return the faults.

    Args:
        cells: where the rows go.
        blocks: the blocks of lines.
        layout: the columns.
        start: the number of rows of the file before them.
    """
    wrong: list[tuple[int, int]] = []
    try:
        for block in blocks:
            numbers = plain_block(block, layout.dialect, layout.width, layout.trailing)
            if numbers is not None:
                cells.add_numbers(numbers)
            else:  # a quotation may end in a later block
                _fill_slowly(cells, chain([block], blocks if '"' in block else ()), layout, start, wrong)
    except csv.Error as error:
        failed = [f"after row {start + cells.count} a row cannot be read ({error}); check its quotation marks"]
        return failed + _say_wrong(wrong, layout.width)
    return _say_wrong(wrong, layout.width)


def _fill_slowly(
    cells: Cells, blocks: Iterable[str], layout: _Layout, start: int, wrong: list[tuple[int, int]]
) -> None:
    """Read blocks row by row, and add the number and the cells of each row that has too few or too many to `wrong`."""
    width = layout.width
    rows = split((line for block in blocks for line in block.split("\n")[:-1]), layout.dialect.separator, strict=True)
    while batch := list(islice(rows, max(1, BATCH_CELLS // width))):
        batch = [row for row in batch if row]
        for index, row in enumerate(batch):
            if layout.trailing and len(row) == width + 1 and not row[-1].strip():
                row.pop()
            if len(row) != width:
                wrong.append((start + cells.count + index + 1, len(row)))
                batch[index] = [*row, *[PADDING] * width][:width]
        cells.add_rows(batch)


def _say_wrong(wrong: Sequence[tuple[int, int]], width: int) -> list[str]:
    if not wrong:
        return []
    number, count = wrong[0]
    first = f"row {number:,} has {counted(count, 'cell')} instead of {width}"
    if len(wrong) == 1:
        return [f"{first}; correct or remove it"]
    return [f"{len(wrong):,} rows have another number of cells than {width}: {first}; correct or remove them"]
