"""Progress of a training run: a bar in a notebook or in a terminal with rich, otherwise one line per evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from torch import Tensor

from fastssm.training.following import StepRecord
from fastssm.training.loop import Reporter

EVERY = 0.25  # seconds between two pictures of a bar, because reading the loss synchronises the device


class Silent:
    """Reports nothing; used by all ranks but the first."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def step(self, step: int, loss: Tensor | float) -> None:
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

    def step(self, step: int, loss: Tensor | float) -> None:
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

    def step(self, step: int, loss: Tensor | float) -> None:
        """Update the bar at most four times per second."""
        now = time.perf_counter()
        if now - self.shown < EVERY:
            return
        taken = step - self.shown_step if self.shown_step else 0
        rate = f"{taken / (now - self.shown):.0f} steps/s" if taken else ""
        self.progress.update(self.task, completed=step, loss=f"loss {float(loss):.2f}", rate=rate)
        self.shown, self.shown_step = now, step

    def evaluation(self, row: dict[str, Any]) -> None:
        """Show the validation loss."""
        self.progress.update(self.task, completed=row["step"], validation=f"validation {row['validation_loss']:.3f}")


class Notebook:
    """Shows a bar in a notebook, by the element that browsers have for it, so that no package is needed."""

    def __init__(self, steps: int) -> None:
        from IPython.display import display

        self.steps, self.loss, self.validation, self.shown = steps, "", "", time.perf_counter()
        self.handle: Any = display(self._picture(0), raw=True, display_id=True)

    def message(self, text: str) -> None:
        """Print the message below the bar."""
        print(text, flush=True)

    def step(self, step: int, loss: Tensor | float) -> None:
        """Draw the bar anew, at most four times per second; an evaluation follows the last step."""
        now = time.perf_counter()
        if now - self.shown >= EVERY:
            self.loss, self.shown = f"loss {float(loss):.3f}", now
            self.handle.update(self._picture(step), raw=True)

    def evaluation(self, row: dict[str, Any]) -> None:
        """Show the losses of an evaluation."""
        self.loss, self.validation = f"loss {row['train_loss']:.3f}", f"validation {row['validation_loss']:.3f}"
        self.handle.update(self._picture(row["step"]), raw=True)

    def _picture(self, step: int) -> dict[str, str]:
        """Return the bar for browsers, and a line for what shows text alone."""
        text = "  ".join(part for part in (f"step {step}/{self.steps}", self.loss, self.validation) if part)
        bar = f'<progress value="{step}" max="{self.steps}" style="width: 20em"></progress>'
        return {"text/plain": text, "text/html": f"<div>{bar} <code>{text}</code></div>"}


class Progress:
    """A callback that shows the progress of a training: a bar in a notebook, elsewhere one line per evaluation.

    Example:
        >>> from fastssm.training import Progress, TrainConfig, fit
        >>> model = fit(TrainConfig("moons", steps=10, hidden=(16,)), callbacks=[Progress()])
        step 10/10  loss ...
    """

    def __init__(self) -> None:
        self.reporter: Reporter = Silent()

    def __call__(self, record: StepRecord) -> None:
        """Show a step; the first one begins a new bar."""
        if record.step == 1 or isinstance(self.reporter, Silent):
            self.reporter = Notebook(record.steps) if _in_notebook() else Lines(record.steps, sys.stdout)
        self.reporter.step(record.step, record.loss)
        if record.validation_loss is not None:
            self.reporter.evaluation(vars(record))


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


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
