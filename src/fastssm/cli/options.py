"""Options shared by several commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from fastssm.backends import NAMES


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A formatter that shows informative defaults and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, ()) or "(default: " in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


def add_command(commands: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, formatter_class=Formatter
    )
    return parser


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add `--backend`."""
    parser.add_argument("--backend", choices=("auto", *NAMES), default="auto", help="backend that computes the loss")


def integers(text: str) -> tuple[int, ...]:
    """Parse integers such as `128,128`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def join_integers(values: Iterable[int]) -> str:
    """Format integers as `integers` parses them."""
    return ",".join(map(str, values))


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Check that options are at least 1.

    Raises:
        ValueError: if an option is smaller.
    """
    for name in names:
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
