"""fastssm: energy-based and score-based models trained by sliced score matching, exactly and fast."""

from fastssm import nn
from fastssm.backends import Plan, backend, explain
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.losses import (
    AnnealedDenoisingLoss,
    AnnealedSlicedLoss,
    DenoisingLoss,
    ExactScoreLoss,
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    LossTerms,
    SlicedScoreLoss,
    annealed_denoising_loss,
    annealed_sliced_loss,
    denoising_loss,
    exact_loss,
    finite_difference_denoising_loss,
    finite_difference_loss,
    sliced_loss,
)
from fastssm.networks import Network, Refusal, recognize
from fastssm.operators import Terms, score, terms

__version__ = "0.1.0"

__all__ = [
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "DenoisingLoss",
    "ExactScoreLoss",
    "FastSSMWarning",
    "FiniteDifferenceDenoisingLoss",
    "FiniteDifferenceLoss",
    "LossTerms",
    "Network",
    "Plan",
    "Refusal",
    "SlicedScoreLoss",
    "Terms",
    "UnsupportedError",
    "annealed_denoising_loss",
    "annealed_sliced_loss",
    "backend",
    "denoising_loss",
    "exact_loss",
    "explain",
    "finite_difference_denoising_loss",
    "finite_difference_loss",
    "nn",
    "recognize",
    "score",
    "sliced_loss",
    "terms",
]
