"""Differential operators of a network: what losses are made of, and what other fields compute by the same engine."""

from fastssm.operators.curvature import hvp_form, laplacian
from fastssm.operators.jacobian import divergence, jacobian_diag
from fastssm.operators.terms import Cond, Terms, choose_directions, score, terms

__all__ = [
    "Cond",
    "Terms",
    "choose_directions",
    "divergence",
    "hvp_form",
    "jacobian_diag",
    "laplacian",
    "score",
    "terms",
]
