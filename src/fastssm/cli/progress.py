"""Shows how a training goes: a bar in a terminal with rich, one line per evaluation elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from torch import Tensor

from fastssm.training import Reporter


class Silent:
    """Shows nothing: the ranks other than the first."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def step(self, step: int, loss: Tensor) -> None:
        """Ignore it."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """Ignore it."""


class Lines:
    """One line per evaluation, to a file, a pipe or a terminal without rich."""

    def __init__(self, steps: int, stream: TextIO) -> None:
        self.steps, self.stream = steps, stream
        self.began, self.first, self.done = time.perf_counter(), -1, 0

    def message(self, text: str) -> None:
        """Print it."""
        print(text, file=self.stream, flush=True)

    def step(self, step: int, loss: Tensor) -> None:
        """Count it."""
        self.first = step - 1 if self.first < 0 else self.first
        self.done = step

    def evaluation(self, row: dict[str, Any]) -> None:
        """Print one line."""
        rate = (self.done - self.first) / (time.perf_counter() - self.began)
        left = timedelta(seconds=round((self.steps - self.done) / rate))
        self.message(
            f"step {self.done:{len(str(self.steps))}d}/{self.steps}  loss {row['train_loss']:10.4f}  "
            f"validation {row['validation_loss']:10.4f}  {rate:7.1f} steps/s  ETA {left}"
        )


class Bar:
    """A rich progress bar."""

    def __init__(self, progress: Any, steps: int, name: str) -> None:
        self.progress = progress
        self.task = progress.add_task(name, total=steps, loss="", validation="", rate="")
        self.shown, self.shown_step = time.perf_counter(), 0

    def message(self, text: str) -> None:
        """Print it above the bar."""
        self.progress.console.print(text, markup=False, highlight=False)

    def step(self, step: int, loss: Tensor) -> None:
        """Move the bar, four times a second at most: reading the loss waits for the device."""
        now = time.perf_counter()
        if now - self.shown < 0.25:
            return
        taken = step - self.shown_step if self.shown_step else 0
        rate = f"{taken / (now - self.shown):.0f} steps/s" if taken else ""
        self.progress.update(self.task, completed=step, loss=f"loss {loss.item():.2f}", rate=rate)
        self.shown, self.shown_step = now, step

    def evaluation(self, row: dict[str, Any]) -> None:
        """Show the validation loss."""
        self.progress.update(self.task, completed=row["step"], validation=f"validation {row['validation_loss']:.3f}")


@contextmanager
def reporter(name: str, steps: int, *, first: bool, json: bool) -> Iterator[Reporter]:
    """Yield the reporter that suits where the output goes; with `json`, standard output stays empty."""
    stream = sys.stderr if json else sys.stdout
    if not first:
        yield Silent()
    elif not stream.isatty() or not _rich_is_installed():
        yield Lines(steps, stream)
    else:
        with _rich_progress(stream) as progress:
            yield Bar(progress, steps, name)


def _rich_is_installed() -> bool:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return False
    return True


def _rich_progress(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[validation]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
