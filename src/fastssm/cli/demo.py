"""`fastssm demo`: the two-dimensional densities, each learnt from samples in seconds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastssm import plots
from fastssm.cli.options import add_command
from fastssm.cli.train import train_with_progress
from fastssm.data import TOYS
from fastssm.text import table
from fastssm.training import Ranks, TrainConfig, choose_device

DESCRIPTION = """\
Learn two-dimensional densities from samples and draw the samples above exp(-E), all in one figure.
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "demo", "learn and draw the six two-dimensional densities", DESCRIPTION)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of {', '.join(TOYS)}; all of them without a name"
    )
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps for each")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, batches and directions")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="where the files go")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    names = list(args.names) or list(TOYS)
    unknown = [name for name in names if name not in TOYS]
    if unknown:
        raise ValueError(f"the demo draws {', '.join(TOYS)}; {unknown[0]!r} is none of them")
    ranks = Ranks(choose_device(args.device))
    configs = [TrainConfig(data=name, activation="silu", steps=args.steps, seed=args.seed) for name in names]
    outcomes = [train_with_progress(config, args.out / config.data, ranks, overwrite=True) for config in configs]
    print()
    print(
        table(
            [
                ("exact score matching loss on the test rows", "Gaussian", "energy network", "seconds"),
                *(
                    (o.config.data, f"{o.baseline.value:.3f}", f"{o.test.value:.3f}", f"{o.seconds:.1f}")
                    for o in outcomes
                ),
            ]
        )
    )
    figure = args.out / f"{names[0] if len(names) == 1 else 'demo'}.png"
    try:
        plots.draw_densities(outcomes, figure)
    except ImportError as error:
        print(f"no figure was drawn: {error}")
        return 0
    print(f"figure: {figure}")
    return 0
