"""Coordinate descent on a quadratic with an l1 penalty on some of its variables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
TOLERANCE = 1e-10  # of the optimality conditions, relative to the largest entry of g
SWEEPS = 2  # of coordinate descent in a round
STEPS = 8  # towards the minimum for fixed signs, at most, in a round
ROUNDS = 1000


@dataclass(frozen=True)
class Problem:
    """Minimise `theta^T Gamma theta / 2 - g^T theta + penalty sum_k |theta_k|` over the penalised k.

    Attributes:
        gamma: Gamma, `[P, P]`, positive definite.
        g: `[P]`.
        penalised: `[P]`.
    """

    gamma: Vector
    g: Vector
    penalised: Mask

    def first(self) -> float:
        """Return the least penalty that leaves all penalised variables at zero."""
        theta = self._solved(~self.penalised, np.zeros_like(self.g))
        return float(np.abs((self.g - self.gamma @ theta)[self.penalised]).max())

    def minima(self, penalties: Vector) -> Iterator[Vector]:
        """Yield the minimum for each penalty; every one starts from that before."""
        theta = np.zeros_like(self.g)
        for penalty in penalties:
            theta = self._minimum(theta, np.where(self.penalised, penalty, 0.0))
            yield theta

    def _minimum(self, theta: Vector, penalty: Vector) -> Vector:
        """Alternate coordinate descent, which finds the signs, with steps that are exact for them."""
        tolerance = TOLERANCE * float(np.abs(self.g).max())
        theta = theta.copy()
        for _ in range(ROUNDS):
            residual = self.g - self.gamma @ theta
            chosen = np.flatnonzero((theta != 0) | (np.abs(residual) > penalty))
            for _ in range(SWEEPS):
                self._sweep(theta, residual, penalty, chosen)
            theta = self._straight(theta, penalty)
            if self._violation(theta, penalty) <= tolerance:
                return theta
        raise ValueError(
            f"coordinate descent must converge, which it does not in {ROUNDS} rounds for the penalty "
            f"{penalty.max() / 2:g}: Gamma is nearly singular; pass more rows, or a larger diagonal."
        )

    def _sweep(self, theta: Vector, residual: Vector, penalty: Vector, chosen: npt.NDArray[np.int64]) -> None:
        """Minimise over one variable after the other, in place; `residual` is `g - Gamma theta`."""
        for k in chosen:
            curvature = self.gamma[k, k]
            pull = residual[k] + curvature * theta[k]
            value = np.sign(pull) * max(abs(pull) - penalty[k], 0.0) / curvature
            if value != theta[k]:
                residual -= (value - theta[k]) * self.gamma[k]
                theta[k] = value

    def _straight(self, theta: Vector, penalty: Vector) -> Vector:
        """Go towards the minimum for the present signs, as far as no variable changes its own; each step descends."""
        for _ in range(STEPS):
            solved = self._solved((theta != 0) | ~self.penalised, penalty * np.sign(theta))
            crossing = self.penalised & (solved * theta < 0)
            if not crossing.any():
                return solved
            share = np.where(crossing, theta / np.where(crossing, theta - solved, 1.0), np.inf)
            theta = np.where(share == share.min(), 0.0, theta + share.min() * (solved - theta))
        return theta

    def _solved(self, support: Mask, signed: Vector) -> Vector:
        """Return the minimum over a support where the penalty is `signed . theta`."""
        theta = np.zeros_like(self.g)
        theta[support] = np.linalg.solve(self.gamma[np.ix_(support, support)], (self.g - signed)[support])
        return theta

    def _violation(self, theta: Vector, penalty: Vector) -> float:
        """Return by how much the optimality conditions fail."""
        residual = self.g - self.gamma @ theta
        moving = np.abs(residual - penalty * np.sign(theta))
        return float(np.where(theta != 0, moving, np.maximum(np.abs(residual) - penalty, 0.0)).max())
