"""Bounded domains, and weights that vanish on their boundary."""

from fastssm.domains.domains import Ball, Box, Domain, Halfspaces, Positive, Sections, Simplex
from fastssm.domains.weights import WEIGHTS, Weight

__all__ = ["WEIGHTS", "Ball", "Box", "Domain", "Halfspaces", "Positive", "Sections", "Simplex", "Weight"]
