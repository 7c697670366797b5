"""Rows as people have them, NumPy arrays, pandas tables, tensors or lists, to tensors and back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssm.data import Schema, read_table

OUTPUTS = ("numpy", "pandas", "torch")
PRECISE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Rows:
    """Rows to evaluate, and how results go back.

    Attributes:
        values: `[n, D]`, float64, finite, on the CPU.
        given: what the caller passed.
    """

    values: Tensor
    given: Any

    def one_each(self, result: Tensor, name: str) -> Any:
        """Return a result `[n]` in the kind of the rows."""
        if isinstance(self.given, Tensor):
            return result.to(self.given.device, _dtype(self.given))
        array = _array(result, self.given)
        if not is_frame(self.given):
            return array
        return _pandas().Series(array, index=self.given.index, name=name)

    def like_rows(self, result: Tensor, columns: tuple[str, ...]) -> Any:
        """Return a result `[n, D]` in the kind of the rows."""
        if isinstance(self.given, Tensor):
            return result.to(self.given.device, _dtype(self.given))
        array = _array(result, self.given)
        return _pandas().DataFrame(array, index=self.given.index, columns=columns) if is_frame(self.given) else array


def read_rows(rows: Any, columns: tuple[str, ...], schema: Schema | None = None) -> Rows:
    """Return rows in data units as a tensor.

    Args:
        rows: `[n, D]`: an array, a tensor, a list of rows, or a table of pandas, whose columns are found by name.
        columns: names of the D columns of the model.
        schema: how a table with the columns of the training's file becomes those columns; None if there was no file.

    Raises:
        TypeError: if the rows are not numbers.
        ValueError: if columns are missing, the shape is wrong, or a value is not finite; the message names the row.
    """
    values = _frame_values(rows, columns, schema) if is_frame(rows) else _tensor(rows)
    if values.ndim != 2 or values.shape[1] != len(columns):
        hint = "; pass one row as rows[None]" if tuple(values.shape) == (len(columns),) else ""
        raise ValueError(
            f"rows must have the shape (n, {len(columns)}), one column for each of {_listed(columns)}, "
            f"got {tuple(values.shape)}{hint}."
        )
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"every value must be finite, but row {row}, column {columns[column]!r} is {values[row, column].item()}; "
            f"{len(bad)} value(s) are not; drop or impute them."
        )
    return Rows(values, rows)


def is_frame(rows: Any) -> bool:
    """Return whether rows are a table of pandas, without importing it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def check_output(kind: str) -> None:
    """Raise ValueError unless samples can be returned as this kind."""
    if kind not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {kind!r}.")


def made(values: Tensor, kind: str, columns: tuple[str, ...]) -> Any:
    """Return new rows `[n, D]` as the kind that was asked for."""
    if kind == "torch":
        return values
    array = values.cpu().numpy()
    return _pandas().DataFrame(array, columns=columns) if kind == "pandas" else array


def _frame_values(frame: Any, columns: tuple[str, ...], schema: Schema | None) -> Tensor:
    names = [str(name) for name in frame.columns]
    if schema is not None and not set(columns) <= set(names):
        table = read_table(frame, like=schema)
        if len(table.values) != len(frame):
            raise ValueError(
                f"{len(frame) - len(table.values)} row(s) have missing values, which training dropped; drop them first."
            )
        return table.tensor()
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(
            f"the table lacks {len(missing)} of the {len(columns)} columns that the model was trained on, "
            f"{_listed(tuple(missing))}; it has {_listed(tuple(names))}."
        )
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise ValueError(f"the table must have each column once, but has {twice[0]!r} {names.count(twice[0])} times.")
    chosen = frame.iloc[:, [names.index(name) for name in columns]]
    return torch.from_numpy(_floats(chosen.to_numpy(na_value=np.nan) if len(columns) else chosen.to_numpy()))


def _tensor(rows: Any) -> Tensor:
    if isinstance(rows, Tensor):
        if rows.is_complex():
            raise TypeError(f"rows must be real numbers, got a tensor of {rows.dtype}.")
        return rows.detach().cpu().double()  # not every device has float64
    return torch.from_numpy(_floats(rows))


def _floats(rows: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(rows)
        if array.dtype.kind not in "fiubO":
            raise TypeError
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        got = f"an array of {np.asarray(rows).dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(
            f"rows must be numbers [n, D]: an array, a tensor, a table of pandas or a list of rows, got {got}; encode "
            "text columns as in training."
        ) from None


def _dtype(given: Tensor) -> torch.dtype:
    return given.dtype if given.dtype in PRECISE else torch.float64


def _array(result: Tensor, given: Any) -> np.ndarray[Any, Any]:
    single = isinstance(given, np.ndarray) and given.dtype == np.float32
    found: np.ndarray[Any, Any] = result.cpu().numpy().astype(np.float32 if single else np.float64)
    return found


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError('output="pandas" needs pandas, which is not installed (pip install pandas)') from None
    return pandas


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown if len(names) <= 8 else f"{shown}, … ({len(names)} in all)"
