"""What every domain knows: its points, and distances to its boundary, along each coordinate and Euclidean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Bound = Tensor | float
SWEEPS = 500  # of alternating projections, at most


class Sections(NamedTuple):
    """Distances along the coordinates, `[B, D]` each.

    The section of coordinate j at x is the interval around `x_j` of `{y : (y, x_-j) in the domain}`, with all other
    coordinates fixed.

    Attributes:
        phi: distance from `x_j` to the nearer end of its section; infinite if the section is unbounded.
        sign: `d phi_j / d x_j`: +1 nearer the lower end, -1 nearer the upper end, 0 halfway or if unbounded.
    """

    phi: Tensor
    sign: Tensor


class Domain(ABC):
    """A closed subset of `R^D` that contains the data."""

    advice = "drop those rows, or pass a domain that contains the data"

    def check_width(self, dim: int) -> None:
        """Raise ValueError unless the domain has points of `dim` coordinates."""
        width = self.width()
        if width is not None and width != dim:
            raise ValueError(
                f"{type(self).__name__} has points of {width} coordinate(s), but x has {dim}; give the domain "
                "one bound per coordinate."
            )

    def width(self) -> int | None:
        """Return the number of coordinates of the points, or None if it is arbitrary."""
        return None

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Return whether points `[B, D]` lie in the domain, boundary included, as bool `[B]`."""

    @abstractmethod
    def sections(self, x: Tensor) -> Sections:
        """Return the distances along the coordinates from points `[B, D]` of the domain."""

    @abstractmethod
    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Euclidean distance `[B]` to the boundary from points `[B, D]` of the domain, and its gradient."""

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """Return the point of the domain nearest to each of the points `[B, D]`, up to rounding."""

    def project(self, x: Tensor, before: Tensor) -> Tensor:
        """Return points `[B, D]`, with those outside moved to the nearest point of the domain.

        Args:
            x: points, such as the states after a step. Those that are not finite stay as they are.
            before: points of the domain, such as the states before the step. A point whose nearest point lies outside
                by a rounding error moves a little towards them.
        """
        return self._returned(x, before, mirror=False)

    def reflect(self, x: Tensor, before: Tensor) -> Tensor:
        """Return points `[B, D]`, with those outside mirrored at the nearest point of the domain: `2 nearest(x) - x`.

        Where the mirror image lies outside too, this is `project`.

        Args:
            x: points, such as the states after a step. Those that are not finite stay as they are.
            before: points of the domain, such as the states before the step.

        Source: Bossy, Gobet, Talay 2004, "A symmetrized Euler scheme for an efficient approximation of reflected
        diffusions".
        """
        return self._returned(x, before, mirror=True)

    def _returned(self, x: Tensor, before: Tensor, mirror: bool) -> Tensor:
        out = x.isfinite().all(1) & ~self.contains(x)
        if not bool(out.any()):
            return x
        left, found = x[out], before[out]
        nearest = self.nearest(left)
        inner = nearest + math.sqrt(torch.finfo(x.dtype).eps) * (found - nearest)
        for candidate in (inner, nearest, *((2 * nearest - left,) if mirror else ())):
            found = torch.where(self.contains(candidate)[:, None], candidate, found)
        return x.index_put((out,), found)


def as_bound(value: Bound) -> Tensor:
    """Return a number or a tensor as a tensor; a number becomes float64."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def nearer(below: Tensor, above: Tensor) -> Sections:
    """Return the distance to the nearer end, and its sign."""
    return Sections(torch.minimum(below, above), torch.sign(above - below).nan_to_num(0.0))


def alternately(x: Tensor, projections: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Project points onto one set after the other, with Dykstra's corrections, until they stay.

    For convex sets this is the nearest point of their intersection.

    Source: Boyle, Dykstra 1986, "A method for finding projections onto the intersection of convex sets in Hilbert
    spaces".
    """
    corrections = [torch.zeros_like(x) for _ in projections]
    for _ in range(SWEEPS):
        last = x
        for k, project in enumerate(projections):
            moved = x + corrections[k]
            x = project(moved)
            corrections[k] = moved - x
        if torch.allclose(x, last, rtol=0.0, atol=4 * torch.finfo(x.dtype).eps):
            break
    return x
