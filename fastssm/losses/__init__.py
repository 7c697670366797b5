"""Losses: each a short function beside its equation."""

from fastssm.losses.module import ExactScoreLoss, SlicedScoreLoss
from fastssm.losses.reduction import LossTerms
from fastssm.losses.sliced import exact_loss, sliced_loss

__all__ = ["ExactScoreLoss", "LossTerms", "SlicedScoreLoss", "exact_loss", "sliced_loss"]
