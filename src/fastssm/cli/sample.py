"""`fastssm sample`: rows drawn from a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fastssm.cli.options import add_command
from fastssm.cli.rows import add_run, check_out, write
from fastssm.training import load

DESCRIPTION = """\
Draw rows from a trained model, in the units of the data. With noise on the training rows, the samples have it too.
"""
EPILOG = "example: fastssm sample runs/measurements -n 1000 --out samples.csv"


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "sample", "draw rows from a trained model", DESCRIPTION)
    parser.epilog = EPILOG
    add_run(parser)
    parser.add_argument("-n", type=int, default=1000, metavar="N", help="number of rows")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="steps of each Markov chain")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers")
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV, TSV or NPY file (default: standard output, CSV)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_out(args.out)
    model = load(args.model, device=args.device)
    found = model.sample(args.n, steps=args.steps, seed=args.seed)
    write(args.out, model.columns, found.T)
    if args.out is not None:
        print(f"{len(found):,} rows of {len(model.columns)} columns in {args.out}", file=sys.stderr)
    return 0
