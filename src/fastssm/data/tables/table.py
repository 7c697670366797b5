"""A table of numbers, and the schema that reads other rows in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Kind = Literal["number", "bool", "percent", "category"]
KINDS = ("number", "bool", "percent", "category")
VERSION = 1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """How one column of a file becomes columns of a table.

    Args:
        name: name in the file.
        position: position in the file, from 0, by which a file without names is read.
        kind: `"number"`, `"bool"` (as 1 and 0), `"percent"` (divided by 100) or `"category"`.
        categories: the values of a category; each but the first becomes a column of 0 and 1.
        fill: the mean that is filled in for missing numbers; NaN never occurs.
        marked: whether a column of 0 and 1 that marks missing values follows.
    """

    name: str
    position: int
    kind: Kind = "number"
    categories: tuple[str, ...] = ()
    fill: float = 0.0
    marked: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that it becomes."""
        own = tuple(f"{self.name}={value}" for value in self.categories[1:])
        own = own if self.kind == "category" else (self.name,)
        return (*own, f"{self.name} is missing") if self.marked else own


@dataclass(frozen=True)
class Schema:
    """How a file became a table; `read_table(source, like=schema)` reads other rows in the same way.

    Args:
        columns: the columns of the file that are kept, in the order of the table.
        width: number of columns in the file.
        missing: the option `missing` with which it was read.
    """

    columns: tuple[Column, ...]
    width: int
    missing: str = "refuse"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of the table."""
        return tuple(name for column in self.columns for name in column.names)

    def renamed(self, names: Sequence[str]) -> Schema:
        """Return the schema of a file with other names, one for each of `columns`."""
        columns = (replace(column, name=name) for column, name in zip(self.columns, names, strict=True))
        return replace(self, columns=tuple(columns))

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a dictionary of plain values for JSON."""
        columns = [{**asdict(column), "categories": list(column.categories)} for column in self.columns]
        return {"version": VERSION, "width": self.width, "missing": self.missing, "columns": columns}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Schema:
        """Return the schema that `to_json` wrote.

        Args:
            saved: the dictionary.

        Returns:
            The schema.

        Raises:
            ValueError: if `saved` is not such a dictionary.
        """
        try:
            if saved["version"] != VERSION:
                raise ValueError(f"version {saved['version']!r} instead of {VERSION}")
            columns = tuple(_column(entry) for entry in saved["columns"])
            schema = cls(columns, _typed(saved["width"], int), _typed(saved["missing"], str))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected the schema of a table as Schema.to_json writes it, got something else "
                f"({type(error).__name__}: {error}); train again"
            ) from None
        return schema


def _column(entry: dict[str, Any]) -> Column:
    fields = dict(entry)
    categories = tuple(_typed(value, str) for value in fields.pop("categories"))
    column = Column(categories=categories, **fields)
    for value, wanted in ((column.name, str), (column.position, int), (column.marked, bool)):
        _typed(value, wanted)
    if column.kind not in KINDS or not np.isfinite(_typed(column.fill, float)):
        raise ValueError(f"a column of kind {column.kind!r} filled with {column.fill!r}")
    return column


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"{value!r} is not of type {wanted.__name__}")
    return value


@dataclass(frozen=True)
class Table:
    """Rows of finite numbers, as `read_table` returns them.

    Args:
        values: the numbers `[rows, columns]` in float64; read-only.
        names: one name per column.
        row_numbers: the number `[rows]` of each row in the file, from 1 after the header.
        notes: sentences about what was left out or converted, for the user.
        schema: how the columns were made.
        image: `(height, width)` if each row is a greyscale image.
    """

    values: Floats
    names: tuple[str, ...]
    row_numbers: npt.NDArray[np.int64]
    notes: tuple[str, ...]
    schema: Schema
    image: tuple[int, int] | None = None

    def tensor(self) -> Tensor:
        """Return the values as a tensor `[rows, columns]` in float64, which shares their memory; do not modify it."""
        with warnings.catch_warnings():  # torch has no read-only tensors and says so
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(self.values)
