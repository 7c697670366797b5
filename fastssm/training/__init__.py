"""The main job behind `fastssm train`: `train` with a `TrainConfig`, and `load_trained` for what it leaves behind."""

from __future__ import annotations

from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks, choose_device, join
from fastssm.training.evaluate import Mean, exact_mean, gaussian_baseline
from fastssm.training.loop import Outcome, Reporter, train
from fastssm.training.objectives import KINDS, LOSSES, OBJECTIVES, Objective
from fastssm.training.trained import Trained, load_trained
from fastssm.training.trainer import DivergedError, Training

__all__ = [
    "KINDS",
    "LOSSES",
    "OBJECTIVES",
    "DivergedError",
    "Mean",
    "Objective",
    "Outcome",
    "Ranks",
    "Reporter",
    "TrainConfig",
    "Trained",
    "Training",
    "choose_device",
    "exact_mean",
    "gaussian_baseline",
    "join",
    "load_trained",
    "train",
]
