"""Domains whose sections are unions of intervals: complements of balls, unions of intervals, intersections."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.domains.base import Domain, Sections, alternately, nearer


class OutsideBall(Domain):
    """The complement of a ball, `|x| >= radius`.

    `phi_j = |x_j| - sqrt(radius^2 - |x_-j|^2)` where the line along coordinate j meets the ball, otherwise infinite.
    The distance to the boundary is `|x| - radius`.

    Args:
        radius: a positive number.

    Raises:
        ValueError: if the radius is not positive and finite.

    Example:
        >>> OutsideBall(5.0).sections(torch.tensor([[6.0, 3.0]])).phi
        tensor([[2.0000,    inf]])

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains".
    """

    def __init__(self, radius: float) -> None:
        if not 0 < radius < math.inf:
            raise ValueError(f"radius of OutsideBall must be positive and finite, got {radius}.")
        self.radius = float(radius)

    def contains(self, x: Tensor) -> Tensor:
        """Compare the norm with the radius."""
        outside: Tensor = torch.linalg.vector_norm(x, dim=1) >= self.radius
        return outside

    def sections(self, x: Tensor) -> Sections:
        """Return the distances to the chords of the ball, without cancellation."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        margin = (length - self.radius) * (length + self.radius)  # |x|^2 - radius^2
        square = x.square() - margin  # of half the chord
        phi = torch.where(square > 0, margin / (x.abs() + square.clamp(min=0).sqrt()), math.inf)
        return Sections(phi, torch.where(phi.isfinite(), x.sign(), 0.0))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance along the radius."""
        return torch.linalg.vector_norm(x, dim=1) - self.radius, F.normalize(x, dim=1)

    def nearest(self, x: Tensor) -> Tensor:
        """Lengthen what is too short; the centre goes along the first axis."""
        length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        axis = F.one_hot(torch.zeros_like(length[:, 0], dtype=torch.int64), x.shape[1]).to(x)
        way = torch.where(length > 0, F.normalize(x, dim=1), axis)
        return torch.where(length < self.radius, self.radius * way, x)

    def __repr__(self) -> str:
        """Return the name and the radius."""
        return f"OutsideBall({self.radius})"


class Intervals(Domain):
    """Every coordinate lies in the same union of intervals; an end may be infinite.

    `phi_j` is the distance of `x_j` to the nearer end of its interval, and the distance to the boundary is the least of
    them.

    Args:
        *intervals: pairs `(lower, upper)` in ascending order, which do not meet.

    Raises:
        ValueError: if there is no interval, an interval is empty, or two of them meet.

    Example:
        >>> Intervals((0.0, 1.0), (2.0, torch.inf)).sections(torch.tensor([[0.75, 4.0]])).phi
        tensor([[0.2500, 2.0000]])

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains".
    """

    def __init__(self, *intervals: tuple[float, float]) -> None:
        ends = [float(end) for interval in intervals for end in interval]
        if not ends or len(ends) != 2 * len(intervals) or not all(a < b for a, b in itertools.pairwise(ends)):
            raise ValueError(
                "Intervals requires pairs (lower, upper) in ascending order with gaps between them, such as "
                f"(0, 1), (2, 3), got {', '.join(map(str, intervals)) or 'none'}."
            )
        self.lower, self.upper = (torch.tensor(ends[side::2], dtype=torch.float64) for side in (0, 1))

    def contains(self, x: Tensor) -> Tensor:
        """Compare points with both ends of every interval."""
        return self._gaps(x)[2].any(2).all(1)

    def _gaps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the distances `[B, D, K]` to both ends of every interval, and which contain the coordinate."""
        below, above = x[:, :, None] - self.lower.to(x), self.upper.to(x) - x[:, :, None]
        return below, above, (below >= 0) & (above >= 0)

    def sections(self, x: Tensor) -> Sections:
        """Return the distance to the nearer end of the interval around each coordinate."""
        below, above, within = self._gaps(x)
        return nearer(*(torch.where(within, gap, math.inf).amin(2) for gap in (below, above)))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest end along any coordinate."""
        phi, sign = self.sections(x)
        least = phi.min(1)
        return least.values, torch.zeros_like(x).scatter_(1, least.indices[:, None], 1.0) * sign

    def nearest(self, x: Tensor) -> Tensor:
        """Move each coordinate to the nearest interval."""
        moved = torch.minimum(torch.maximum(x[:, :, None], self.lower.to(x)), self.upper.to(x))
        closest = (moved - x[:, :, None]).abs().argmin(2, keepdim=True)
        return moved.gather(2, closest)[:, :, 0]

    def __repr__(self) -> str:
        """Return the name and the intervals."""
        pairs = zip(self.lower.tolist(), self.upper.tolist(), strict=True)
        return f"Intervals({', '.join(map(str, pairs))})"


class Intersection(Domain):
    """The points that lie in all of several domains.

    `phi_j` is the least of theirs, and so is the distance to the boundary.

    Args:
        *domains: at least two.

    Raises:
        TypeError: if one of them is not a domain.
        ValueError: if there are fewer than two, or their points have different numbers of coordinates.

    Example:
        >>> frame = Intersection(Intervals((-2.0, 2.0)), OutsideBall(1.0))
        >>> frame.contains(torch.tensor([[1.5, 0.0], [0.5, 0.0]]))
        tensor([ True, False])

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains".
    """

    def __init__(self, *domains: Domain) -> None:
        for domain in domains:
            if not isinstance(domain, Domain):
                raise TypeError(
                    f"Intersection takes domains of fastssm.domains, got {type(domain).__name__}; pass instances."
                )
        widths = {domain.width() for domain in domains} - {None}
        if len(domains) < 2 or len(widths) > 1:
            raise ValueError(
                "Intersection requires at least two domains with points of the same number of coordinates, got "
                f"{', '.join(map(repr, domains)) or 'none'}."
            )
        self.domains: Sequence[Domain] = domains

    def width(self) -> int | None:
        """Return the number of coordinates that one of the domains fixes, or None."""
        return next((width for domain in self.domains if (width := domain.width()) is not None), None)

    def contains(self, x: Tensor) -> Tensor:
        """Ask every domain."""
        return torch.stack([domain.contains(x) for domain in self.domains]).all(0)

    def sections(self, x: Tensor) -> Sections:
        """Return the distance to the nearest end of any of the sections."""
        parts = [domain.sections(x) for domain in self.domains]
        ends = (torch.stack([torch.where(p.sign * side >= 0, p.phi, math.inf) for p in parts]) for side in (1, -1))
        return nearer(*(end.amin(0) for end in ends))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least distance to any of the boundaries."""
        distances, gradients = (torch.stack(part) for part in zip(*(d.distance(x) for d in self.domains), strict=True))
        least = distances.min(0)
        return least.values, gradients[least.indices, torch.arange(len(x), device=x.device)]

    def nearest(self, x: Tensor) -> Tensor:
        """Project onto one domain after the other until the points stay; for convex domains this is the nearest."""
        return alternately(x, [domain.nearest for domain in self.domains])

    def __repr__(self) -> str:
        """Return the name and the domains."""
        return f"Intersection({', '.join(map(repr, self.domains))})"
