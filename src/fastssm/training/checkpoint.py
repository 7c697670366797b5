"""Atomic checkpoints, and metrics that are consistent with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
FORMAT = 1
TYPES: dict[str, type] = {"config": dict, "fingerprint": str, "step": int, "best": dict, "ending": str}


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replace `path` atomically by the file that `write` writes."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint in `folder` atomically."""
    write_atomically(folder / CHECKPOINT, lambda file: torch.save({"format": FORMAT, **state}, file))


def load(folder: Path) -> dict[str, Any] | None:
    """Return the checkpoint in `folder` with tensors on the CPU, or None if there is none.

    Raises:
        ValueError: if the file is not a checkpoint of this version of fastssm.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); remove it to start over") from error
    if (
        not isinstance(state, dict)
        or state.get("format") != FORMAT
        or not all(type(state.get(name)) is kind for name, kind in TYPES.items())
    ):
        raise ValueError(f"{path} is not a checkpoint of this version of fastssm; remove it to start over")
    return state


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append one line to the metrics."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the metrics, without an incomplete last line."""
    path = folder / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the rows after `step`; a resumed run writes them again.

    Raises:
        ValueError: if the rows are not those of a training.
    """
    try:
        rows = [row for row in read_metrics(folder) if row["step"] <= step]
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ValueError(f"{folder / METRICS} is not readable; remove it, or choose another --out") from None
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / METRICS, lambda file: file.write(text.encode()))
