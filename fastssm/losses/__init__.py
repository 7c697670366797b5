"""Losses: each a short function beside its equation."""

from fastssm.losses.module import SlicedScoreLoss
from fastssm.losses.sliced import LossTerms, exact_loss, sliced_loss

__all__ = ["LossTerms", "SlicedScoreLoss", "exact_loss", "sliced_loss"]
