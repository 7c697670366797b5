"""Diagnostics of models and of their training."""

from fastssm.diagnostics.estimate import Estimate
from fastssm.diagnostics.measures import Gap, LevelRow, LevelStudy, fisher_divergence, loss_per_level, sliced_gap
from fastssm.diagnostics.projections import ProjectionRow, ProjectionStudy, projection_study
from fastssm.diagnostics.traces import jacobian_trace

__all__ = [
    "Estimate",
    "Gap",
    "LevelRow",
    "LevelStudy",
    "ProjectionRow",
    "ProjectionStudy",
    "fisher_divergence",
    "jacobian_trace",
    "loss_per_level",
    "projection_study",
    "sliced_gap",
]
