"""Domains with a boundary, and weights that vanish on it."""

from fastssm.domains.base import Domain, Sections
from fastssm.domains.convex import Ball, Box, Halfspaces, Positive, Simplex
from fastssm.domains.polynomials import Polynomial
from fastssm.domains.unions import Intersection, Intervals, OutsideBall
from fastssm.domains.weights import WEIGHTS, Weight

__all__ = [
    "WEIGHTS",
    "Ball",
    "Box",
    "Domain",
    "Halfspaces",
    "Intersection",
    "Intervals",
    "OutsideBall",
    "Polynomial",
    "Positive",
    "Sections",
    "Simplex",
    "Weight",
]
