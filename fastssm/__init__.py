"""fastssm: energy-based and score-based models trained by sliced score matching, exactly and fast."""

from fastssm import domains, nn
from fastssm.backends import Plan, backend, explain
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.losses import (
    AnnealedDenoisingLoss,
    AnnealedSlicedLoss,
    ContinuousTempering,
    DenoisingLoss,
    DomainLoss,
    ExactScoreLoss,
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    GeometricTempering,
    LossTerms,
    PreconditionedLoss,
    SlicedScoreLoss,
    TemperedLoss,
    annealed_denoising_loss,
    annealed_sliced_loss,
    denoising_loss,
    domain_loss,
    exact_loss,
    finite_difference_denoising_loss,
    finite_difference_loss,
    preconditioned_loss,
    sliced_loss,
    tempered_loss,
)
from fastssm.networks import Network, Refusal, recognize
from fastssm.operators import Terms, score, terms

__version__ = "0.1.0"

__all__ = [
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "ContinuousTempering",
    "DenoisingLoss",
    "DomainLoss",
    "ExactScoreLoss",
    "FastSSMWarning",
    "FiniteDifferenceDenoisingLoss",
    "FiniteDifferenceLoss",
    "GeometricTempering",
    "LossTerms",
    "Network",
    "Plan",
    "PreconditionedLoss",
    "Refusal",
    "SlicedScoreLoss",
    "TemperedLoss",
    "Terms",
    "UnsupportedError",
    "annealed_denoising_loss",
    "annealed_sliced_loss",
    "backend",
    "denoising_loss",
    "domain_loss",
    "domains",
    "exact_loss",
    "explain",
    "finite_difference_denoising_loss",
    "finite_difference_loss",
    "nn",
    "preconditioned_loss",
    "recognize",
    "score",
    "sliced_loss",
    "tempered_loss",
    "terms",
]
