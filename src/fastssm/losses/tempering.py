"""How tempered score matching spreads data over levels of noise: a second variable beta, its law, and its noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

_PANELS = 4096


class Tempering(ABC):
    """The levels `beta` in `[0, largest]`, their density r, and the variance of the noise at each.

    Args:
        largest: the last level, positive and finite.

    Raises:
        ValueError: for any other last level.
    """

    def __init__(self, largest: float) -> None:
        if not 0 < largest < math.inf:
            raise ValueError(f"{type(self).__name__} needs a last level that is positive and finite, got {largest}.")
        self.largest = float(largest)
        self._edges, self._cdf, self._mass = self._distribution()

    @abstractmethod
    def variance(self, beta: Tensor) -> Tensor:
        """Return the variance of the noise at levels, 0 at `beta = 0`."""

    @abstractmethod
    def log_density(self, beta: Tensor) -> Tensor:
        """Return `log r(beta)` up to a constant."""

    @abstractmethod
    def slope(self, beta: Tensor) -> Tensor:
        """Return `d log r / d beta`."""

    def _distribution(self) -> tuple[Tensor, Tensor, float]:
        """Return the edges of panels, the distribution function there, and log of the integral of r as given."""
        edges = np.linspace(0.0, self.largest, _PANELS + 1)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        width = self.largest / _PANELS
        inside = torch.from_numpy(edges[:-1, None] + width * (nodes + 1) / 2)
        logs = self.log_density(inside)
        top = logs.max()
        panels = ((logs - top).exp() * torch.from_numpy(weights * width / 2)).sum(1)
        cumulative = torch.cat([panels.new_zeros(1), panels.cumsum(0)])
        return torch.from_numpy(edges), cumulative / cumulative[-1], float(top + cumulative[-1].log())

    def density(self, beta: Tensor) -> Tensor:
        """Return `r(beta)`, which integrates to one."""
        return (self.log_density(beta) - self._mass).exp()

    def sample(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw levels `[B]` for data `[B, ...]` by the inverse of the distribution function, linear in each panel."""
        device = like.device if generator is None else generator.device
        uniform = torch.rand(len(like), generator=generator, dtype=torch.float64, device=device)
        edges, cdf = self._edges.to(device), self._cdf.to(device)
        above = torch.searchsorted(cdf, uniform, right=True).clamp(1, _PANELS)
        low, high = cdf[above - 1], cdf[above]
        beta: Tensor = edges[above - 1] + (uniform - low) / (high - low) * (self.largest / _PANELS)
        return beta.to(like.device, like.dtype)

    def __repr__(self) -> str:
        """Show the last level."""
        return f"{type(self).__name__}(largest={self.largest:g})"


class ContinuousTempering(Tempering):
    """The levels of continuously tempered Langevin dynamics: noise of variance `beta lambda_min`.

    `r(beta) = exp( -7 R^2 / (lambda_min (1 + beta)) ) / Z` on `[0, 14 R^2 / lambda_min - 1]`.

    For mixtures of Gaussians with one covariance. Nearly all of r lies at large beta; with a network that must learn
    what happens at small beta too, use `GeometricTempering`.

    Args:
        lambda_min: the smallest eigenvalue of the components' covariance.
        radius: R, a bound on the length of their means.

    Raises:
        ValueError: if one of them is not positive, or `14 R^2 <= lambda_min`.

    Example:
        >>> ContinuousTempering(lambda_min=1.0, radius=2.0).largest
        55.0

    Source: Qin and Risteski 2023, definition 2 and section 5.
    """

    def __init__(self, lambda_min: float, radius: float) -> None:
        if not (0 < lambda_min < math.inf and 0 < radius < math.inf):
            raise ValueError(f"lambda_min and radius must be positive, got {lambda_min} and {radius}.")
        self.lambda_min, self.radius = float(lambda_min), float(radius)
        self._strength = 7 * self.radius**2 / self.lambda_min
        super().__init__(2 * self._strength - 1)

    def variance(self, beta: Tensor) -> Tensor:
        """Return `beta lambda_min`."""
        return beta * self.lambda_min

    def log_density(self, beta: Tensor) -> Tensor:
        """Return `-7 R^2 / (lambda_min (1 + beta))`."""
        return -self._strength / (1 + beta)

    def slope(self, beta: Tensor) -> Tensor:
        """Return `7 R^2 / (lambda_min (1 + beta)^2)`."""
        return self._strength / (1 + beta).square()


class GeometricTempering(Tempering):
    """Levels at which the variance of data and noise together grows geometrically, all equally likely.

    The noise has variance `lambda_min (e^beta - 1)`, up to `largest_variance`; r is uniform.

    Args:
        lambda_min: the variance of what is narrowest in the data.
        largest_variance: the variance of the noise at the last level; as large as the data's own joins all modes.

    Raises:
        ValueError: if one of them is not positive and finite.

    Example:
        >>> levels = GeometricTempering(lambda_min=0.1, largest_variance=9.9)
        >>> round(levels.largest, 4)
        4.6052

    Source: the noise levels of Song and Ermon 2019, made continuous, for the loss of Qin and Risteski 2023.
    """

    def __init__(self, lambda_min: float, largest_variance: float) -> None:
        if not (0 < lambda_min < math.inf and 0 < largest_variance < math.inf):
            raise ValueError(
                f"lambda_min and largest_variance must be positive and finite, got {lambda_min} and {largest_variance}."
            )
        self.lambda_min = float(lambda_min)
        super().__init__(math.log1p(largest_variance / lambda_min))

    def variance(self, beta: Tensor) -> Tensor:
        """Return `lambda_min (e^beta - 1)`."""
        return self.lambda_min * beta.expm1()

    def log_density(self, beta: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros_like(beta)

    def slope(self, beta: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros_like(beta)
