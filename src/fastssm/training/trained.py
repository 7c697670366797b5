"""Gives a finished or interrupted training back as a network."""

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
    """A network with its best weights, and the scaler that maps data to what the network takes.

    `net(scaler.scale(rows).float())` is the energy, or the score in scaled coordinates, of rows in their own units. A
    noise-conditional network takes the logarithm of its noise level, too: `net.at(log_sigma)` is it at one level.
    """

    net: nn.Module
    scaler: Scaler
    config: TrainConfig


def load_trained(folder: str | Path) -> Trained:
    """Load what `fastssm train` left in `folder`.

    Args:
        folder: the `--out` of the training.

    Returns:
        The network on the CPU in evaluation mode, its scaler and its settings.

    Raises:
        ValueError: there is no readable checkpoint.

    Example:
        >>> trained = load_trained("runs/white-wine")  # doctest: +SKIP
    """
    state = checkpoint.load(Path(folder))
    if state is None:
        raise ValueError(f"{folder} holds no {checkpoint.CHECKPOINT}; give the --out folder of a training")
    scaler, config = Scaler(**state["scaler"]), TrainConfig(**state["config"])
    net = build_net(config, len(scaler.mean))
    net.load_state_dict(state["best"]["weights"])
    return Trained(net.eval(), scaler, config)
