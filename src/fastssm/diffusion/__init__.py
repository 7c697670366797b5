"""Diffusion models: their likelihood as a loss and evaluated, soft truncation, any drift, samplers."""

from fastssm.diffusion.evaluation import elbo
from fastssm.diffusion.flow import flow_log_prob
from fastssm.diffusion.likelihood import ElboLoss, ElboTerms, elbo_loss
from fastssm.diffusion.linear import VE, VP, ReciprocalVE, SubVP
from fastssm.diffusion.matching import SlicedDiffusionLoss, sliced_diffusion_loss
from fastssm.diffusion.sampling import euler_maruyama, predictor_corrector, probability_flow
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE
from fastssm.diffusion.times import TimeSampling
from fastssm.diffusion.truncation import SoftTruncation

__all__ = [
    "SDE",
    "VE",
    "VP",
    "CustomSDE",
    "ElboLoss",
    "ElboTerms",
    "LinearSDE",
    "ReciprocalVE",
    "SlicedDiffusionLoss",
    "SoftTruncation",
    "SubVP",
    "TimeSampling",
    "elbo",
    "elbo_loss",
    "euler_maruyama",
    "flow_log_prob",
    "predictor_corrector",
    "probability_flow",
    "sliced_diffusion_loss",
]
