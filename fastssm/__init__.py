"""fastssm: energy-based and score-based models trained by sliced score matching, exactly and fast."""

from fastssm import nn
from fastssm.backends import Plan, backend, explain
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.losses import ExactScoreLoss, LossTerms, SlicedScoreLoss, exact_loss, sliced_loss
from fastssm.networks import Network, Refusal, recognize
from fastssm.operators import Terms, terms

__version__ = "0.1.0"

__all__ = [
    "ExactScoreLoss",
    "FastSSMWarning",
    "LossTerms",
    "Network",
    "Plan",
    "Refusal",
    "SlicedScoreLoss",
    "Terms",
    "UnsupportedError",
    "backend",
    "exact_loss",
    "explain",
    "nn",
    "recognize",
    "sliced_loss",
    "terms",
]
