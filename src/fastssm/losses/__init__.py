"""Losses: each a short function beside its equation."""

from fastssm.losses.annealed import AnnealedSlicedLoss, annealed_sliced_loss
from fastssm.losses.composite import CompositeLoss, composite_loss
from fastssm.losses.denoising import AnnealedDenoisingLoss, DenoisingLoss, annealed_denoising_loss, denoising_loss
from fastssm.losses.density_ratio import DensityRatioLoss, density_ratio_loss, log_density_ratio
from fastssm.losses.domain import DomainLoss, domain_loss
from fastssm.losses.entropy import entropy_gradient
from fastssm.losses.finite_difference import (
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    finite_difference_denoising_loss,
    finite_difference_loss,
)
from fastssm.losses.manifold import ManifoldLoss, manifold_loss
from fastssm.losses.missing import MissingLoss, missing_loss
from fastssm.losses.preconditioned import PreconditionedLoss, preconditioned_loss
from fastssm.losses.proposals import GaussianProposal, Proposal
from fastssm.losses.reduction import LossTerms
from fastssm.losses.sliced import ExactScoreLoss, SlicedScoreLoss, exact_loss, sliced_loss
from fastssm.losses.tempered import TemperedLoss, tempered_loss
from fastssm.losses.tempering import ContinuousTempering, GeometricTempering, Tempering

__all__ = [
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "CompositeLoss",
    "ContinuousTempering",
    "DenoisingLoss",
    "DensityRatioLoss",
    "DomainLoss",
    "ExactScoreLoss",
    "FiniteDifferenceDenoisingLoss",
    "FiniteDifferenceLoss",
    "GaussianProposal",
    "GeometricTempering",
    "LossTerms",
    "ManifoldLoss",
    "MissingLoss",
    "PreconditionedLoss",
    "Proposal",
    "SlicedScoreLoss",
    "TemperedLoss",
    "Tempering",
    "annealed_denoising_loss",
    "annealed_sliced_loss",
    "composite_loss",
    "denoising_loss",
    "density_ratio_loss",
    "domain_loss",
    "entropy_gradient",
    "exact_loss",
    "finite_difference_denoising_loss",
    "finite_difference_loss",
    "log_density_ratio",
    "manifold_loss",
    "missing_loss",
    "preconditioned_loss",
    "sliced_loss",
    "tempered_loss",
]
