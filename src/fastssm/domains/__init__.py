"""Domains with a boundary, and the weights that vanish there."""

from fastssm.domains.domains import Ball, Box, Domain, Halfspaces, Positive, Sections, Simplex
from fastssm.domains.weights import WEIGHTS, Weight

__all__ = ["WEIGHTS", "Ball", "Box", "Domain", "Halfspaces", "Positive", "Sections", "Simplex", "Weight"]
