"""Load the network of a finished or interrupted run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fastssm.data import Scaler
from fastssm.training import checkpoint
from fastssm.training.config import TrainConfig
from fastssm.training.trainer import build_net


@dataclass(frozen=True)
class Trained:
    """A network with its best weights, and the scaler of its inputs.

    `net(scaler.scale(rows).float())` is the energy, or the score in scaled coordinates, of rows in data units. A
    noise-conditional network also takes the logarithm of the noise level; `net.at(log_sigma)` fixes it.
    """

    net: nn.Module
    scaler: Scaler
    config: TrainConfig


def load_trained(folder: str | Path) -> Trained:
    """Load the result of `fastssm train`.

    Args:
        folder: output folder of the run (`--out`).

    Returns:
        The network on the CPU in evaluation mode, its scaler and settings.

    Raises:
        ValueError: if there is no readable checkpoint.

    Example:
        >>> trained = load_trained("runs/white-wine")  # doctest: +SKIP
    """
    state = checkpoint.load(Path(folder))
    if state is None:
        raise ValueError(
            f"{folder} must contain {checkpoint.CHECKPOINT}, but it does not; pass the --out folder of a run"
        )
    scaler, config = Scaler(**state["scaler"]), TrainConfig(**state["config"])
    net = build_net(config, len(scaler.mean))
    net.load_state_dict(state["best"]["weights"])
    return Trained(net.eval(), scaler, config)
