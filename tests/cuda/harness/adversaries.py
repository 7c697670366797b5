"""Matrices that products of float32 find hard, and the error of a product."""

from __future__ import annotations

import numpy as np

DECADES = tuple(10.0**power for power in range(-6, 7))
SHAPE = (24, 20, 96)  # m, n, k


def adversaries(scale: float, shape: tuple[int, int, int] = SHAPE) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pairs of matrices in float32.

    Args:
        scale: of the entries.
        shape: m, n and k of the product.

    Returns:
        By name: numbers of one sign, whose errors add up; of both; rows and columns of very different sizes; sums that
        cancel to a few units in the last place; numbers whose 24 bits are all ones.
    """
    m, n, k = shape
    random = np.random.default_rng(round(1000 + 10 * np.log10(scale)))
    a, b = random.standard_normal((m, k)), random.standard_normal((k, n))
    spread_a, spread_b = 10.0 ** random.uniform(-4, 4, (m, 1)), 10.0 ** random.uniform(-4, 4, (1, n))
    mirrored = np.concatenate([a[:, ::2], -a[:, ::2] * (1 + 2.0**-22)], 1)
    ones = (2 - 2.0**-23) * 2.0 ** random.integers(-3, 4, (m, k))
    pairs = {
        "one sign": (np.abs(a), np.abs(b)),
        "both signs": (a, b),
        "rows apart": (a * spread_a, b * spread_b),
        "entries apart": (a * 10.0 ** random.uniform(-6, 6, a.shape), b * 10.0 ** random.uniform(-6, 6, b.shape)),
        "cancelling": (mirrored, np.concatenate([b[::2], b[::2]])),
        "full mantissas": (ones, np.abs(b)),
    }
    return {name: ((scale * a).astype(np.float32), b.astype(np.float32)) for name, (a, b) in pairs.items()}


def error(found: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest error of a product, each relative to sum |a| |b|, in float64."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    return float((np.abs(found - left @ right) / (np.abs(left) @ np.abs(right))).max())
