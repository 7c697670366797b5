"""Losses: each a short function beside its equation."""

from fastssm.losses.annealed import AnnealedSlicedLoss, annealed_sliced_loss
from fastssm.losses.denoising import AnnealedDenoisingLoss, DenoisingLoss, annealed_denoising_loss, denoising_loss
from fastssm.losses.finite_difference import (
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    finite_difference_denoising_loss,
    finite_difference_loss,
)
from fastssm.losses.module import ExactScoreLoss, SlicedScoreLoss
from fastssm.losses.reduction import LossTerms
from fastssm.losses.sliced import exact_loss, sliced_loss

__all__ = [
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "DenoisingLoss",
    "ExactScoreLoss",
    "FiniteDifferenceDenoisingLoss",
    "FiniteDifferenceLoss",
    "LossTerms",
    "SlicedScoreLoss",
    "annealed_denoising_loss",
    "annealed_sliced_loss",
    "denoising_loss",
    "exact_loss",
    "finite_difference_denoising_loss",
    "finite_difference_loss",
    "sliced_loss",
]
