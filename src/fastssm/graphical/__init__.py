"""Graphical models: pairwise interactions estimated by score matching, on any domain, as one quadratic."""

from fastssm.graphical.families import FAMILIES, Interaction
from fastssm.graphical.paths import Graph, Path, multiplier, path
from fastssm.graphical.quadratics import Quadratic, quadratic

__all__ = ["FAMILIES", "Graph", "Interaction", "Path", "Quadratic", "multiplier", "path", "quadratic"]
