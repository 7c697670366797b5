"""Training as in `fastssm train`: `train` with a `TrainConfig`, and `load_trained` to load the result."""

from __future__ import annotations

from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks, choose_device, join
from fastssm.training.evaluate import COMPOSITE, EXACT, Mean, Measure
from fastssm.training.loop import Outcome, Reporter, train
from fastssm.training.objectives import KINDS, LOSSES, OBJECTIVES, Objective
from fastssm.training.trained import Trained, load_trained
from fastssm.training.trainer import DivergedError, Training

__all__ = [
    "COMPOSITE",
    "EXACT",
    "KINDS",
    "LOSSES",
    "OBJECTIVES",
    "DivergedError",
    "Mean",
    "Measure",
    "Objective",
    "Outcome",
    "Ranks",
    "Reporter",
    "TrainConfig",
    "Trained",
    "Training",
    "choose_device",
    "join",
    "load_trained",
    "train",
]
