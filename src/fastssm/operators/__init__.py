"""Differential operators of a network: what losses are made of, and what other fields compute by the same engine."""

from fastssm.operators.basis import BasisTerms, basis_coefficients, basis_terms
from fastssm.operators.curvature import hvp_form, laplacian
from fastssm.operators.jacobian import divergence, jacobian_diag
from fastssm.operators.terms import Terms, choose_directions, count_of, directions_of, score, terms

__all__ = [
    "BasisTerms",
    "Terms",
    "basis_coefficients",
    "basis_terms",
    "choose_directions",
    "count_of",
    "directions_of",
    "divergence",
    "hvp_form",
    "jacobian_diag",
    "laplacian",
    "score",
    "terms",
]
