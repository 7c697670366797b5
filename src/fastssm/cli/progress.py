"""Progress of a training run: a bar in a terminal with rich, otherwise one line per evaluation."""

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
    """Reports nothing; used by all ranks but the first."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def step(self, step: int, loss: Tensor) -> None:
        """Do nothing."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """Do nothing."""


class Lines:
    """Prints one line per evaluation, to a file, a pipe or a terminal without rich."""

    def __init__(self, steps: int, stream: TextIO) -> None:
        self.steps, self.stream = steps, stream
        self.began, self.first, self.done = 0.0, -1, 0

    def message(self, text: str) -> None:
        """Print the message."""
        print(text, file=self.stream, flush=True)

    def step(self, step: int, loss: Tensor) -> None:
        """Count the step; the clock starts after the first, which also imports and compiles."""
        if self.first < 0:
            self.first, self.began = step, time.perf_counter()
        self.done = step

    def evaluation(self, row: dict[str, Any]) -> None:
        """Print one line."""
        self.message(
            f"step {self.done:{len(str(self.steps))}d}/{self.steps}  loss {row['train_loss']:10.4f}  "
            f"validation {row['validation_loss']:10.4f}{self._pace()}"
        )

    def _pace(self) -> str:
        """Return the rate since the first step of this process and the time left, once there are two steps."""
        taken, seconds = self.done - self.first, time.perf_counter() - self.began
        if not taken or not seconds:
            return ""
        left = timedelta(seconds=round((self.steps - self.done) * seconds / taken))
        return f"  {taken / seconds:7.1f} steps/s  ETA {left}"


class Bar:
    """Shows a rich progress bar."""

    def __init__(self, progress: Any, steps: int, name: str) -> None:
        self.progress = progress
        self.task = progress.add_task(name, total=steps, loss="", validation="", rate="")
        self.shown, self.shown_step = time.perf_counter(), 0

    def message(self, text: str) -> None:
        """Print the message above the bar."""
        self.progress.console.print(text, markup=False, highlight=False)

    def step(self, step: int, loss: Tensor) -> None:
        """Update the bar at most four times per second, because reading the loss synchronises the device."""
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
    """Yield a reporter for the output stream; with `json`, nothing goes to standard output."""
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
