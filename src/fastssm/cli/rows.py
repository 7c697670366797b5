"""Rows in and out of commands that use a trained model."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastssm.data import Table, list_names, read_table
from fastssm.training import Model
from fastssm.training.checkpoint import write_atomically

WRITTEN = (".csv", ".tsv", ".npy")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run, and where its network goes."""
    parser.add_argument("model", type=Path, metavar="RUN", help="output folder of fastssm train")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")


def read_for(model: Model, source: str, **options: Any) -> Table:
    """Read a file as the training read its own.

    Raises:
        ValueError: if the file has faults, or lacks columns.
    """
    if model.schema is not None:
        return read_table(source, like=model.schema, **options)
    table = read_table(source, **options)
    if set(model.columns) <= set(table.names):
        order = [table.names.index(name) for name in model.columns]
        return replace(table, values=table.values[:, order], names=model.columns)
    if len(table.names) != len(model.columns):
        raise ValueError(
            f"{source}: the model has {len(model.columns)} columns, {list_names(model.columns)}, but the file has "
            f"{len(table.names)}; select them with names"
        )
    return table


def check_out(out: Path | None, *others: str) -> None:
    """Raise ValueError unless a table can be written to this file."""
    if out is None:
        return
    if out.suffix.lower() not in WRITTEN:
        raise ValueError(f"--out {out} must end in {', '.join(WRITTEN)}")
    if any(Path(other).exists() and out.exists() and out.samefile(other) for other in others):
        raise ValueError(f"--out {out} is the file that is read; choose another")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; create it first")


def write(out: Path | None, names: Sequence[str], columns: Iterable[np.ndarray[Any, Any]]) -> None:
    """Write columns of numbers to a file, or as CSV to standard output."""
    arrays = [np.asarray(column) for column in columns]
    suffix = ".csv" if out is None else out.suffix.lower()
    if suffix == ".npy":
        assert out is not None
        matrix = np.stack([array.astype(np.float64) for array in arrays], 1)
        write_atomically(out, lambda file: np.save(file, matrix))
        return
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*map(_cells, arrays), strict=True))
    if out is None:
        sys.stdout.write(text.getvalue())
    else:
        write_atomically(out, lambda file: file.write(text.getvalue().encode()))


def _cells(array: np.ndarray[Any, Any]) -> list[str]:
    """Return nine digits of each number, what single precision can tell apart."""
    return [str(value) if isinstance(value, int) else f"{value:.9g}" for value in array.tolist()]
