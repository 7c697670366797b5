"""Options of a command from a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NOT_IN_FILES = ("help", "config", "data")


def set_defaults(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make the options of a file the defaults of a command.

    Args:
        parser: the parser of the command.
        path: a JSON or YAML file that maps names of options, without dashes in front, to values.

    Raises:
        ValueError: if the file is not readable, or an option is unknown or has a wrong value.
    """
    actions = {action.dest: action for action in parser._actions if action.dest not in NOT_IN_FILES}
    for name, value in _read(path).items():
        dest = str(name).replace("-", "_")
        if dest not in actions:
            raise ValueError(f"{path}: unknown option {name!r}; known are {', '.join(sorted(actions))}")
        parser.set_defaults(**{dest: _value(path, actions[dest], value)})


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} cannot be read ({type(error).__name__})") from None
    found = _json(path, text) if path.suffix.lower() == ".json" else _yaml(path, text)
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} must map names of options to values, such as steps: 4000")
    return found


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config {path} is not JSON ({error})") from None


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError(f"--config {path}: YAML needs PyYAML (pip install pyyaml); or write JSON") from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"--config {path} is not YAML ({' '.join(str(error).split())})") from None


def _value(path: Path, action: argparse.Action, value: Any) -> Any:
    """Return a value as if it stood on the command line."""
    flag = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    if flag != isinstance(value, bool) or value is None or isinstance(value, dict):
        raise ValueError(f"{path}: {action.dest} must be {'true or false' if flag else 'a value'}, got {value!r}")
    if flag:
        return value
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        found = action.type(text) if callable(action.type) else text
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{path}: {action.dest} cannot be {value!r} ({error})") from None
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"{path}: {action.dest} must be one of {', '.join(map(str, action.choices))}, got {value!r}")
    return found
