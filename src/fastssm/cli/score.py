"""`fastssm score`: energies and anomalies of the rows of a file, by a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastssm.cli.options import add_command
from fastssm.cli.reading import add_reading
from fastssm.cli.rows import add_run, check_out, read_for, write
from fastssm.training import Model, load

DESCRIPTION = """\
Score the rows of a file with a trained model. The file is read as the file of the training was: columns are found by
name, and encoded alike.

Writes a table with one row for each row of the file and the columns
  row       its number in the file, from 1 after the header
  energy    lower is more likely: log p = -energy + const, in the units of the data
  log_prob  the log density in nats, of models of loss composite or likelihood
  anomaly   the percentage of held-out rows that are more likely; 100 is the most unusual
  d/d NAME  with --gradient, and for a score network: the derivative of log p in each column
"""
EPILOG = """\
examples:
  fastssm score runs/measurements new.csv --out scores.csv
  fastssm score runs/measurements new.csv | sort -t, -k3 -g -r | head
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "score", "energies and anomalies of the rows of a file", DESCRIPTION)
    parser.epilog = EPILOG
    add_run(parser)
    parser.add_argument("file", metavar="FILE", help="file, folder, or - for standard input")
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV, TSV or NPY file (default: standard output, CSV)")
    parser.add_argument("--gradient", action="store_true", help="also write the derivative of log p in each column")
    add_reading(parser, "header", "decimal", "missing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_out(args.out, args.file)
    model = load(args.model, device=args.device)
    table = read_for(model, args.file, header=args.header, decimal=args.decimal, missing=args.missing)
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    found = {"row": table.row_numbers, **scores(model, table.values, args.gradient)}
    write(args.out, list(found), found.values())
    if args.out is not None:
        print(f"{len(table.values):,} rows: {', '.join(list(found)[1:4])} in {args.out}", file=sys.stderr)
    return 0


def scores(model: Model, values: np.ndarray[Any, Any], gradient: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a model knows of rows, by the name of the column."""
    found = {}
    if model.kind == "energy":
        found["energy"] = model.energy(values)
    if model.normalised:
        found["log_prob"] = model.log_prob(values)
    if model.held_out is not None:
        found["anomaly"] = model.anomaly(values)
    if gradient or model.kind == "score":
        slopes = model.score(values)
        found |= {f"d/d {name}": slopes[:, index] for index, name in enumerate(model.columns)}
    return found
