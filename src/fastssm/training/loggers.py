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

    def __call__(self, record: StepRecord) -> None:
        """Log the record of a step that ends with an evaluation."""
        if record.validation_loss is not None:
            names = ("train_loss", "validation_loss", "lr", "seconds")
            self.write({name: getattr(record, name) for name in names}, record.step)

    @abstractmethod
    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers by name at a step."""

    @abstractmethod
    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Log the summary of a finished training, if there is one, and end."""


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
        self.writer: Any = None

    def __call__(self, record: StepRecord) -> None:
        """Log the record; the first opens the file."""
        if self.writer is None:
            self.writer = self.make(str(self.folder / "tensorboard"), purge_step=record.step)
            lines = [f"    {name}: {value}" for name, value in vars(self.config).items()]
            self.writer.add_text("settings", "\n".join(lines), record.step)
        super().__call__(record)

    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers as scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Log the numbers of a summary at the last step, and close the file."""
        if self.writer is None:
            return
        if summary is not None:
            self.write(_numbers(summary), summary["steps"])
        self.writer.close()
        self.writer = None


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
        self.run: Any = None

    def __call__(self, record: StepRecord) -> None:
        """Log the record; the first starts the run."""
        if self.run is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.run = self.wandb.init(
                project="fastssm", name=self.folder.name, dir=str(self.folder), config=dict(vars(self.config))
            )
        super().__call__(record)

    def write(self, values: dict[str, float], step: int) -> None:
        """Log numbers as one row."""
        self.run.log(values, step=step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Put the numbers of a summary into that of the run, and finish it; a run without one counts as failed."""
        if self.run is None:
            return
        if summary is not None:
            self.run.summary.update(_numbers(summary))
        self.run.finish(exit_code=0 if summary is not None else 1)
        self.run = None


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


def _missing(package: str) -> ImportError:
    return ImportError(f"logging to {package} needs a package that is not installed (pip install {package})")


def _numbers(summary: dict[str, Any]) -> dict[str, float]:
    names = ("test_loss", "test_loss_standard_error", "gaussian_test_loss", "best_step")
    return {name: summary[name] for name in names}
