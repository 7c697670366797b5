"""Read libsvm and ARFF files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import numpy as np

from fastssm.data.tables.arrays import require_width
from fastssm.data.tables.cells import plain
from fastssm.data.tables.decode import Lines, guess_encoding
from fastssm.data.tables.header import unique_names
from fastssm.data.tables.raw import Cells, Raw, require_memory
from fastssm.data.tables.sources import Source

ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.+)", re.IGNORECASE)
BATCH = 5000


def _lines(source: Source) -> Iterator[str]:
    try:
        for block in Lines(source, guess_encoding(source)).blocks():
            yield from block.split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{source.label}: not a text file in UTF-8 ({error.reason}); convert it to UTF-8") from None


def read_libsvm(source: Source) -> Raw:
    """Read a libsvm file: on each line a label, then `index:value` for each value that is not zero.

    Raises:
        ValueError: if a line has another form.
    """
    labels, rows, places, values = [], list[int](), list[int](), list[float]()
    faults, left_out, number = list[str](), 0, plain(".")
    for row, line in enumerate(_lines(source)):
        label, *pairs = line.partition("#")[0].split() or [""]
        wrong = [] if number.fullmatch(label) else [label]
        labels.append(float(label) if not wrong else 0.0)
        for pair in pairs:
            place, colon, value = pair.partition(":")
            if place == "qid" and colon:
                left_out += 1
            elif colon and place.isascii() and place.isdigit() and number.fullmatch(value):
                rows.append(row)
                places.append(int(place))
                values.append(float(value))
            else:
                wrong.append(pair)
        if wrong:
            faults.append(f"row {row + 1} has {wrong[0]!r} where a label or index:value is expected; correct it")
    first = min(places, default=1) and 1  # indices start at 1, or at 0 in some files
    width = max(places, default=0) + 1 - first
    require_width(source.label, width + 1)
    require_memory(source.label, len(labels), width + 1)
    dense = np.zeros((len(labels), width + 1))
    dense[:, 0] = labels
    dense[rows, np.array(places, np.int64) + 1 - first] = values
    notes = ["the label of each row is the column 'label'; --drop label leaves it out"]
    notes += [f"{left_out:,} query identifiers (qid) were left out"] if left_out else []
    names = ("label", *(str(index) for index in range(first, width + first)))
    return Raw(source.label, dense, names, named=True, notes=notes, faults=faults)


def read_arff(source: Source) -> Raw:
    """Read an ARFF file.

    Raises:
        ValueError: if it has no attributes and data, or is sparse.
    """
    lines = (line.strip() for line in _lines(source))
    lines = (line for line in lines if line and not line.startswith("%"))
    names = []
    for line in lines:
        if line.lower().startswith("@data"):
            break
        attribute = ATTRIBUTE.match(line)
        if attribute:
            names.append(attribute[1].strip("'\"").replace("\\'", "'"))
        elif not line.lower().startswith("@relation"):
            raise ValueError(f"{source.label}: expected @relation, @attribute or @data, got {line[:40]!r}; correct it")
    if not names:
        raise ValueError(f"{source.label}: not an ARFF file: it has no @attribute; correct it")
    require_width(source.label, len(names))
    unique, notes = unique_names(names)
    cells, faults = Cells(len(names), ".", source.label), list[str]()
    batch = list[list[str]]()
    for line in lines:
        row = _arff_row(line, source)
        if len(row) != len(names):
            where = cells.count + len(batch) + 1
            faults.append(f"row {where} has {len(row)} cells instead of {len(names)}; correct it")
            continue
        batch.append(row)
        if len(batch) == BATCH:
            cells.add_rows(batch)
            batch = []
    cells.add_rows(batch)
    values, texts = cells.finish()
    return Raw(source.label, values, unique, True, texts, notes=notes, faults=faults)


def _arff_row(line: str, source: Source) -> list[str]:
    if line.startswith("{"):
        raise ValueError(f"{source.label}: sparse ARFF is not read; write every value, or use the libsvm format")
    quote = "'" if "'" in line else '"'
    try:
        return next(csv.reader([line], quotechar=quote, skipinitialspace=True, escapechar="\\"))
    except csv.Error as error:
        raise ValueError(f"{source.label}: not an ARFF file ({error}); correct it") from None
