"""The command `fastssm`; each subcommand is defined in the file of the same name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import fastssm
from fastssm.cli import bench, check, config, demo, export, info, report, sample, score, train
from fastssm.errors import UnsupportedError
from fastssm.training import CallbackError, DivergedError

COMMANDS = (train, score, sample, report, export, demo, bench, check, info)
EXPECTED_ERRORS = (ValueError, CallbackError, DivergedError, UnsupportedError)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="fastssm",
        description="Train energy and score models by score matching.",
        epilog="Without a command, run info. To start, try `fastssm train moons` or `fastssm demo`.",
    )
    parser.add_argument("--version", action="version", version=f"fastssm {fastssm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `fastssm`; `sys.argv[1:]` if None.

    Returns:
        The exit status: 0 success, 1 failed check, 2 invalid input, 130 interrupted.
    """
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    try:
        if getattr(parsed, "config", None) is not None:  # its settings are defaults, which the arguments override
            config.set_defaults(parsed.command, parsed.config)
            parsed = parser.parse_args(arguments)
        return int(getattr(parsed, "run", info.run)(parsed))
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
