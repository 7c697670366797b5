"""Callbacks that send the losses of a training to TensorBoard or to Weights & Biases, where these are installed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from fastssm.training.config import TrainConfig
from fastssm.training.following import StepRecord


class Logger(ABC):
    """A callback that logs every evaluation, and in the end the result.

    Args:
        folder: output folder of the training.
        config: its settings, which are logged too.

    Raises:
        ImportError: if the package is not installed; the message says how to install it.
    """

    def __init__(self, folder: str | Path, config: TrainConfig) -> None:
        self.folder, self.config = Path(folder), config
        self.log: Any = None

    def __call__(self, record: StepRecord) -> None:
        """Log the record of a step that ends with an evaluation; the first record opens the log."""
        if self.log is None:
            self.log = self.open(record.step)
        if record.validation_loss is not None:
            names = ("train_loss", "validation_loss", "lr", "seconds")
            self.write({name: getattr(record, name) for name in names}, record.step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Log the summary of a finished training, if there is one, and end."""
        if self.log is not None:
            self.finish(summary)
            self.log = None

    @abstractmethod
    def open(self, step: int) -> Any:
        """Return what is written to from a step on."""

    @abstractmethod
    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers by name at a step."""

    @abstractmethod
    def finish(self, summary: dict[str, Any] | None) -> None:
        """Log the numbers of a summary, if there is one, and close what was opened."""


class TensorBoard(Logger):
    """Writes event files to the folder `tensorboard` in the output folder: `tensorboard --logdir RUN` shows them.

    A training that is resumed or begun again replaces the points after its first step.

    Example:
        >>> logger = TensorBoard("runs/moons", config)  # doctest: +SKIP
        >>> train(config, "runs/moons", callbacks=[logger])  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, config: TrainConfig) -> None:
        super().__init__(folder, config)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self.make: Any = SummaryWriter

    def open(self, step: int) -> Any:
        """Open the file, and log the settings."""
        writer = self.make(str(self.folder / "tensorboard"), purge_step=step)
        lines = [f"    {name}: {value}" for name, value in vars(self.config).items()]
        writer.add_text("settings", "\n".join(lines), step)
        return writer

    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers as scalars."""
        for name, value in values.items():
            self.log.add_scalar(name, value, step)
        self.log.flush()

    def finish(self, summary: dict[str, Any] | None) -> None:
        """Log the numbers of a summary at the last step, and close the file."""
        if summary is not None:
            self.write(_numbers(summary), summary["steps"])
        self.log.close()


class WandB(Logger):
    """Logs to a run of the project `fastssm` of Weights & Biases, whose variables such as `WANDB_MODE` apply.

    Example:
        >>> logger = WandB("runs/moons", config)  # doctest: +SKIP
        >>> train(config, "runs/moons", callbacks=[logger])  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, config: TrainConfig) -> None:
        super().__init__(folder, config)
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        self.wandb: Any = wandb

    def open(self, step: int) -> Any:
        """Start the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = dict(vars(self.config))
        return self.wandb.init(project="fastssm", name=self.folder.name, dir=str(self.folder), config=settings)

    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers as one row."""
        self.log.log(values, step=step)

    def finish(self, summary: dict[str, Any] | None) -> None:
        """Put the numbers of a summary into that of the run, and finish it; a run without one counts as failed."""
        if summary is not None:
            self.log.summary.update(_numbers(summary))
        self.log.finish(exit_code=0 if summary is not None else 1)


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


def _missing(package: str) -> ImportError:
    return ImportError(f"logging to {package} needs a package that is not installed (pip install {package})")


def _numbers(summary: dict[str, Any]) -> dict[str, float]:
    names = ("test_loss", "test_loss_standard_error", "gaussian_test_loss", "best_step")
    return {name: summary[name] for name in names}
