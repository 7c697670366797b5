"""The engine's mathematics in plain PyTorch: the fast path where nothing is compiled, and the native engines' model."""

from fastssm.sweeps.layers import Gradients, Needs
from fastssm.sweeps.structure import Structure, read, unflatten
from fastssm.sweeps.terms import Terms
from fastssm.sweeps.tiles import FullGradients, Objective, Problem, objective, terms, terms_backward

__all__ = [
    "FullGradients",
    "Gradients",
    "Needs",
    "Objective",
    "Problem",
    "Structure",
    "Terms",
    "objective",
    "read",
    "terms",
    "terms_backward",
    "unflatten",
]
