"""`fastssm report`: one page about a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastssm.cli.options import add_command
from fastssm.report import write_report

DESCRIPTION = """\
Write one HTML file about a finished run: results, figures, columns, settings and versions. It holds everything that it
shows; a browser that opens it sends no request.
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "report", "one page about a trained model", DESCRIPTION)
    parser.epilog = "example: fastssm report runs/measurements"
    parser.add_argument("model", type=Path, metavar="RUN", help="output folder of fastssm train")
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML file (default: report.html in RUN)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.out is not None and not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no folder {args.out.parent}; create it first")
    print(f"report: {write_report(args.model, args.out)}")
    return 0
