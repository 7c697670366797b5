"""How a table is read: the options that a user can set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Header = bool | Literal["auto"]
Decimal = Literal["auto", ".", ","]
Missing = Literal["refuse", "drop", "mean", "indicator"]
Categorical = Literal["refuse", "drop", "onehot"]


@dataclass(frozen=True)
class ReadOptions:
    """How a table is read.

    Args:
        columns: names of the columns to keep, in this order; all if None. A column also has its position as a name,
            from `"1"`, unless another column is called so.
        drop: names of columns to leave out.
        header: whether the first row holds the names of the columns.
        decimal: the decimal sign.
        missing: what to do with missing values: refuse the file, drop their rows, fill in the mean of the column, or
            fill in the mean and add a column of 0 and 1 that marks them.
        categorical: what to do with columns of text: refuse the file, drop them, or encode every category but the
            first as a column of 0 and 1.

    Raises:
        ValueError: if an option has another value, or `columns` and `drop` name the same column.
    """

    columns: Sequence[str] | None = None
    drop: Sequence[str] = ()
    header: Header = "auto"
    decimal: Decimal = "auto"
    missing: Missing = "refuse"
    categorical: Categorical = "refuse"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("columns", "drop"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a sequence of names, got the string {getattr(self, name)!r}")
        if not (isinstance(self.header, bool) or self.header == "auto"):
            raise ValueError(f"header must be True, False or 'auto', got {self.header!r}")
        for name, allowed in (("decimal", Decimal), ("missing", Missing), ("categorical", Categorical)):
            value, choices = getattr(self, name), get_args(allowed)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        both = sorted(set(self.columns or ()) & set(self.drop))
        if both:
            raise ValueError(f"columns and drop both name {', '.join(map(repr, both))}; name a column in one of them")
