"""What the programs in experiments/ share: their options, the rows that they write, and the tables made of the rows."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from bench.harness import RESULTS, ROOT, WHO, environment, write_rows
from bench.measure import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw: TypeAlias = Callable[[list[dict[str, Any]], Path], None]
SHARED = (*WHO, "threads", "seed")
"""The first columns of every file."""


def file_of(name: str) -> Path:
    """Return the file of results of an experiment."""
    return RESULTS / f"experiments_{name}.csv"


def figure_of(name: str) -> Path:
    """Return the figure of an experiment."""
    return ROOT / "docs" / "figures" / f"experiments_{name}.png"


def options(name: str, description: str, seeds: int) -> argparse.Namespace:
    """Return the options that every experiment has, from the command line.

    Args:
        name: of the program.
        description: one sentence.
        seeds: number of seeds of a full run; the smoke run has one.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=description)
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes, to see that it runs; writes no files by default"
    )
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {seeds})")
    parser.add_argument("--csv", type=Path, help=f"default: {file_of(name).relative_to(ROOT)}")
    parser.add_argument("--figure", type=Path, help=f"default: {figure_of(name).relative_to(ROOT)}")
    chosen = parser.parse_args()
    chosen.seeds = chosen.seeds or (1 if chosen.smoke else seeds)
    if not chosen.smoke:
        chosen.csv, chosen.figure = chosen.csv or file_of(name), chosen.figure or figure_of(name)
    return chosen


def write(rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Write one row per seed and setting, with what ran them, if there is a file to write to."""
    if out:
        shared = environment() | {"threads": torch.get_num_threads()}
        columns = dict.fromkeys((*SHARED, *(column for row in rows for column in row)))
        write_rows((shared | dict(row) for row in rows), out, tuple(columns))


def run(
    name: str, description: str, rows: Callable[[int, bool], Iterable[dict[str, Any]]], draw: Draw, *, seeds: int
) -> None:
    """Run an experiment from the command line: write its rows as they come, then draw its figure.

    Args:
        name: of the program.
        description: one sentence.
        rows: takes the number of seeds and whether this is a smoke run.
        draw: takes all rows and the file of the figure.
        seeds: number of seeds of a full run.
    """
    chosen = options(name, description, seeds)
    found: list[dict[str, Any]] = []
    for row in rows(chosen.seeds, chosen.smoke):
        found.append(row)
        write(found, chosen.csv)
    if chosen.figure:
        draw(found, chosen.figure)


def save(figure: Figure, out: Path, dpi: int = 120) -> None:
    """Write a figure, in a folder that need not exist yet."""
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=dpi)


def markdown(rows: Sequence[Row], value: str, down: str, across: str, *only: str) -> Iterator[str]:
    """Yield a table of means over the seeds, with their standard errors.

    Args:
        rows: those of a file.
        value: the column of numbers.
        down: the columns that name a row of the table, "domain, n".
        across: the column whose values are the columns of the table.
        only: "column=value", for rows to take.
    """
    wanted = dict(condition.split("=") for condition in only)
    rows = [row for row in rows if row[value] and all(row[column] == text for column, text in wanted.items())]
    names = [name.strip() for name in down.split(",")]
    heads = list(dict.fromkeys(row[across] for row in rows))
    yield _line((*names, *heads))
    yield f"|{'---|' * len(names)}{'---:|' * len(heads)}"
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        mine = [row for row in rows if tuple(row[name] for name in names) == key]
        cells = (mean([float(row[value]) for row in mine if row[across] == head]) for head in heads)
        yield _line((*key, *cells))


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def mean(values: Sequence[float]) -> str:
    """Return the mean and its standard error, with two digits of the error; a single value alone."""
    if not values:
        return ""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    if not error:
        return f"{statistics.mean(values):.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"
