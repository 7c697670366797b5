"""`fastssm train`: train a model on a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastssm import plots
from fastssm.activations import BY_NAME
from fastssm.cli.importing import find
from fastssm.cli.options import add_backend, add_command, integers, join_integers
from fastssm.cli.reading import FORMATS, add_reading
from fastssm.cli.threads import threads
from fastssm.data import NAMES, SCALES, STANDARD_INPUT, base_name
from fastssm.text import table
from fastssm.training import (
    KINDS,
    LOGGERS,
    LOSSES,
    OBJECTIVES,
    Callback,
    Logger,
    Outcome,
    Ranks,
    TrainConfig,
    choose_device,
    join,
    train,
)
from fastssm.training.progress import reporter

DESCRIPTION = f"""\
Train an energy or score network on a data set by score matching, and compare its exact score matching loss on
held-out rows with that of a fitted Gaussian. Lower is better.

DATA is a file, a folder of files with the same columns, - for standard input, or one of
  {", ".join(NAMES[:6])} (two dimensions)
  {", ".join(NAMES[6:])}

{FORMATS}

Writes the model (model.safetensors, model.json), checkpoint.pt, metrics.jsonl, result.json and figure.png to the
folder --out. Then use it: `fastssm score`, `sample`, `report` and `export`.
"""
EPILOG = """\
examples:
  fastssm train moons
  fastssm train white-wine
  fastssm train measurements.csv --hidden 256,256 --steps 20000
  fastssm train patients.csv --drop id --missing mean --categorical onehot
  torchrun --nproc_per_node=2 -m fastssm train white-wine
"""
WORSE = (
    "\nThe network is worse than the Gaussian: do not use it. Train longer (--steps, --patience), with a lower --lr, "
    "or with more --noise.\n"
)
HELP: dict[str, dict[str, Any]] = {
    "kind": {"choices": KINDS, "help": "output of the network: an energy E (log p = -E + const) or the score"},
    "loss": {"choices": LOSSES, "help": "; ".join(f"{name}: {row.about}" for name, row in OBJECTIVES.items())},
    "projections": {"type": int, "metavar": "M", "help": "random directions per row in the sliced loss"},
    "hidden": {"type": integers, "metavar": "W,W,...", "help": "widths of the hidden layers"},
    "activation": {"choices": tuple(BY_NAME), "metavar": "NAME", "help": f"one of {', '.join(BY_NAME)}"},
    "steps": {"type": int, "metavar": "N", "help": "total number of optimiser steps"},
    "batch": {"type": int, "metavar": "N", "help": "rows per step, summed over all processes"},
    "lr": {"type": float, "help": "peak learning rate of Adam (linear warm-up, then cosine decay to zero)"},
    "clip": {"type": float, "help": "maximum gradient norm"},
    "ema": {"type": float, "help": "decay of the moving average of the weights, which is evaluated"},
    "evaluate_every": {"type": int, "metavar": "N", "help": "steps between evaluations and checkpoints"},
    "patience": {"type": int, "metavar": "N", "help": "stop after N steps without a better validation loss"},
    "noise": {
        "type": float,
        "metavar": "SIGMA",
        "help": "standard deviation of the noise on the scaled rows (default: from the data set)",
    },
    "scale": {
        "choices": SCALES,
        "help": "scaling of the columns (default: from the data set; files are whitened, or standardised if 2-D)",
    },
    "stream": {
        "action": "store_true",
        "help": "train by batches from disk, for a file or folder larger than memory; takes 12 bytes of disk in --out "
        "for each number while it runs, and holds out other rows than without",
    },
    "seed": {
        "type": int,
        "help": "seed of the weights, batches and directions; the data split does not depend on it",
    },
}


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "train", "train on a data set and plot the result", DESCRIPTION)
    parser.epilog = EPILOG
    parser.add_argument("data", metavar="DATA", help="built-in data set, file, folder, or -")
    for field in fields(TrainConfig):
        if field.name in HELP:
            default = join_integers(TrainConfig.hidden) if field.name == "hidden" else field.default
            parser.add_argument(f"--{field.name.replace('_', '-')}", default=default, **HELP[field.name])
    parser.set_defaults(run=run, command=parser)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON or YAML file of options, such as steps: 4000; these here win"
    )
    add_reading(parser)
    add_backend(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; auto uses CUDA if it is available")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/DATA)")
    parser.add_argument("--log", choices=tuple(LOGGERS), help="also log the losses to this package, if it is installed")
    parser.add_argument(
        "--callback", metavar="MODULE:NAME", help="function that is called with a StepRecord after every step"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out, if it exists")
    parser.add_argument("--overwrite", action="store_true", help="replace an unfinished run in --out")
    parser.add_argument("--json", action="store_true", help="print only a JSON object to standard output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    config = TrainConfig(**{field.name: getattr(args, field.name) for field in fields(TrainConfig)})
    folder = args.out or Path("runs") / base_name(args.data)
    with join(choose_device(args.device)) as ranks:
        if args.data == STANDARD_INPUT and ranks.world > 1:
            raise ValueError(
                f"standard input can be read once, but there are {ranks.world} processes; write it to a file first"
            )
        with following(args, config, folder, ranks) as (callbacks, close):
            outcome = train_with_progress(
                config, folder, ranks, callbacks, resume=args.resume, overwrite=args.overwrite, json=args.json
            )
            close(outcome)
        if ranks.first:
            report(outcome, args.json)
    return 0


@contextmanager
def following(
    args: argparse.Namespace, config: TrainConfig, folder: Path, ranks: Ranks
) -> Iterator[tuple[list[Callback], Callable[[Outcome], None]]]:
    """Yield the callbacks that are asked for, and what logs the result; both are found before anything is read.

    Raises:
        ValueError: if one is not installed, not found or not a function.
    """
    callbacks: list[Callback] = [] if args.callback is None else [_callback(args.callback)]
    logger: Logger | None = None
    if args.log is not None:
        try:
            logger = LOGGERS[args.log](folder, config)
        except ImportError as error:
            raise ValueError(f"--log {args.log}: {error}") from None
        callbacks.append(logger)
    try:
        yield (callbacks if ranks.first else []), lambda outcome: logger.close(outcome.summary()) if logger else None
    finally:
        if logger is not None:
            logger.close()


def _callback(name: str) -> Callback:
    found = find("--callback", name)
    if not callable(found):
        raise ValueError(f"--callback {name} must be a function of one StepRecord, got {type(found).__name__}")
    callback: Callback = found
    return callback


def train_with_progress(
    config: TrainConfig,
    folder: Path,
    ranks: Ranks,
    callbacks: Sequence[Callback] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> Outcome:
    """Train and show progress."""
    with threads(config, ranks.device), reporter(folder.name, config.steps, first=ranks.first, json=json) as report:
        return train(
            config, folder, ranks=ranks, reporter=report, callbacks=callbacks, resume=resume, overwrite=overwrite
        )


def report(outcome: Outcome, as_json: bool) -> None:
    """Draw the figure and print the table or the JSON object."""
    figure, reason = draw(outcome)
    if as_json:
        print(json.dumps({**outcome.summary(), "figure": str(figure) if figure else None}))
        return
    print(summary_text(outcome))
    print(f"figure: {figure}" if figure else f"no figure was drawn: {reason}")


def draw(outcome: Outcome) -> tuple[Path | None, str]:
    """Draw the figure and return its path, or None and the reason."""
    path = outcome.folder / "figure.png"
    try:
        plots.draw_outcome(outcome, path)
    except ImportError as error:
        return None, str(error)
    return path, ""


def summary_text(outcome: Outcome) -> str:
    """Return the summary of a finished run as text."""
    summary, test, baseline = outcome.summary(), outcome.test, outcome.baseline
    rows, speed = summary["rows"], outcome.steps / max(outcome.seconds, 1e-9)
    shape = join_integers(outcome.config.hidden)
    losses = table(
        [
            (f"{outcome.measure.name} on the test rows (lower is better)", "mean", "std. error"),
            ("Gaussian with the training rows' mean and covariance", f"{baseline.value:.3f}", f"{baseline.error:.3f}"),
            (f"{outcome.config.kind} network {shape}", f"{test.value:.3f}", f"{test.error:.3f}"),
        ]
    )
    worse = "" if outcome.beats_gaussian else WORSE
    return (
        f"\n{summary['data']}: {rows['train']:,} training, {rows['validation']:,} validation and {rows['test']:,} test "
        f"rows of {summary['features']} features; {summary['parameters']:,} parameters\n\n{losses}\n{worse}\n"
        f"best weights at step {outcome.best_step:,} of {outcome.steps:,} ({outcome.ending}); "
        f"{outcome.seconds:.1f} s, {speed:.0f} steps/s"
    )
