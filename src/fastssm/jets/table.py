"""Every rule: importing this module registers them all."""

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
from fastssm.jets.jet import BY_NAME, RULES

__all__ = [
    "BY_NAME",
    "RULES",
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
