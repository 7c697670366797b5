"""Taylor-mode derivatives through any module: value, tangents and curvature of what its forward computes."""

from fastssm.jets import (
    attention,
    composed,
    constants,
    elementwise,
    extremes,
    inplace,
    linear,
    matrices,
    norms,
    products,
    reductions,
)
from fastssm.jets.jet import RULES, Jet, NoRule, Tape

__all__ = [
    "RULES",
    "Jet",
    "NoRule",
    "Tape",
    "attention",
    "composed",
    "constants",
    "elementwise",
    "extremes",
    "inplace",
    "linear",
    "matrices",
    "norms",
    "products",
    "reductions",
]
