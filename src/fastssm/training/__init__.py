"""Training as in `fastssm train`: `train` with a `TrainConfig`, and `load` to load the model that it wrote."""

from __future__ import annotations

from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks, choose_device, join
from fastssm.training.evaluate import COMPOSITE, EXACT, Mean, Measure
from fastssm.training.following import Callback, CallbackError, StepRecord
from fastssm.training.loggers import LOGGERS, Logger, TensorBoard, WandB
from fastssm.training.loop import Outcome, Reporter, fit, train
from fastssm.training.model import Model
from fastssm.training.model_files import load, save
from fastssm.training.objectives import KINDS, LOSSES, OBJECTIVES, Objective
from fastssm.training.progress import Progress
from fastssm.training.trainer import DivergedError, Training

__all__ = [
    "COMPOSITE",
    "EXACT",
    "KINDS",
    "LOGGERS",
    "LOSSES",
    "OBJECTIVES",
    "Callback",
    "CallbackError",
    "DivergedError",
    "Logger",
    "Mean",
    "Measure",
    "Model",
    "Objective",
    "Outcome",
    "Progress",
    "Ranks",
    "Reporter",
    "StepRecord",
    "TensorBoard",
    "TrainConfig",
    "Training",
    "WandB",
    "choose_device",
    "fit",
    "join",
    "load",
    "save",
    "train",
]
