"""`fastssm demo`: learn the two-dimensional toy densities from samples."""

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
Learn two-dimensional densities from samples and plot the samples above exp(-E), all in one figure.
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "demo", "learn and plot the six two-dimensional toy densities", DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(TOYS)} (default: all)")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps per density")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, batches and directions")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="output folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    names = list(args.names) or list(TOYS)
    unknown = [name for name in names if name not in TOYS]
    if unknown:
        raise ValueError(f"NAME must be one of {', '.join(TOYS)}, got {unknown[0]!r}")
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
