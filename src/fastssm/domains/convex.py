"""Convex domains."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.domains.base import Bound, Domain, Sections, alternately, as_bound, nearer


class Box(Domain):
    """The box `lower <= x <= upper`; a bound may be infinite.

    `phi_j = min(x_j - lower_j, upper_j - x_j)`, and the distance to the boundary is the smallest of them.

    Args:
        lower: one bound for all coordinates, or `[D]`.
        upper: same.

    Raises:
        ValueError: unless each lower bound is below its upper bound.

    Example:
        >>> Box(0.0, 1.0).sections(torch.tensor([[0.2, 0.9]])).sign
        tensor([[ 1., -1.]])

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains".
    """

    def __init__(self, lower: Bound, upper: Bound) -> None:
        self.lower, self.upper = as_bound(lower), as_bound(upper)
        if max(self.lower.ndim, self.upper.ndim) > 1 or not bool((self.lower < self.upper).all()):
            raise ValueError(
                "Box requires lower < upper in every coordinate, each a number or a tensor [D], "
                f"got lower={lower} and upper={upper}."
            )
        self._width = max((len(bound) for bound in (self.lower, self.upper) if bound.ndim), default=None)

    def width(self) -> int | None:
        """Return D if a bound has one entry per coordinate, otherwise None."""
        return self._width

    def _gaps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - self.lower.to(x), self.upper.to(x) - x

    def contains(self, x: Tensor) -> Tensor:
        """Compare points with both bounds."""
        below, above = self._gaps(x)
        return ((below >= 0) & (above >= 0)).all(1)

    def sections(self, x: Tensor) -> Sections:
        """Return the distance to the nearer bound."""
        return nearer(*self._gaps(x))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest face."""
        phi, sign = self.sections(x)
        least = phi.min(1)
        return least.values, torch.zeros_like(x).scatter_(1, least.indices[:, None], 1.0) * sign

    def nearest(self, x: Tensor) -> Tensor:
        """Move each coordinate to the nearer bound."""
        return torch.minimum(torch.maximum(x, self.lower.to(x)), self.upper.to(x))

    def reflect(self, x: Tensor, before: Tensor) -> Tensor:
        """Fold each coordinate into its interval, as often as it takes."""
        lower, upper = self.lower.to(x), self.upper.to(x)
        width = upper - lower
        both = lower + width - (torch.remainder(x - lower, 2 * width) - width).abs()
        one = torch.where(x < lower, 2 * lower - x, 2 * upper - x)
        folded = self.nearest(torch.where(width.isfinite(), both, one))
        return torch.where((x < lower) | (x > upper), folded, x)

    def __repr__(self) -> str:
        """Return the name and the bounds."""
        return f"{type(self).__name__}({self.lower.tolist()}, {self.upper.tolist()})"


class Positive(Box):
    """The orthant `x >= 0`: `phi_j = x_j`.

    Example:
        >>> Positive().contains(torch.tensor([[1.0, 0.0], [2.0, -1.0]]))
        tensor([ True, False])

    Source: Hyvarinen 2007; Yu, Drton, Shojaie 2019.
    """

    def __init__(self) -> None:
        super().__init__(0.0, math.inf)

    def __repr__(self) -> str:
        """Return the name."""
        return "Positive()"


class Halfspaces(Domain):
    """The polyhedron `A x <= b`.

    With the slacks `r_k = b_k - A_k . x`, coordinate j can increase by the smallest `r_k / A_kj` with `A_kj > 0`, and
    decrease by the smallest `r_k / |A_kj|` with `A_kj < 0`. The distance to the boundary is the smallest `r_k / |A_k|`.

    Args:
        normals: A, `[K, D]`, without zero rows.
        offsets: b, `[K]`.

    Raises:
        ValueError: if the shapes do not match, or a row of A is zero.

    Example:
        >>> triangle = Halfspaces(torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]]), torch.tensor([0.0, 0.0, 2.0]))
        >>> triangle.sections(torch.tensor([[1.0, 0.25]])).phi
        tensor([[0.5000, 0.2500]])

    Source: Yu, Drton, Shojaie 2022.
    """

    def __init__(self, normals: Tensor, offsets: Tensor) -> None:
        a, b = torch.as_tensor(normals), torch.as_tensor(offsets)
        if a.ndim != 2 or b.shape != a.shape[:1] or not bool((a != 0).any(1).all()):
            raise ValueError(
                "Halfspaces requires normals [K, D], none of them zero, and offsets [K], for A x <= b, got shapes "
                f"{tuple(a.shape)} and {tuple(b.shape)}."
            )
        self.normals, self.offsets = a, b

    def width(self) -> int:
        """Return D."""
        return self.normals.shape[1]

    def _slack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.normals.to(x)
        return self.offsets.to(x) - x @ a.t(), a

    def contains(self, x: Tensor) -> Tensor:
        """Return whether all slacks are non-negative."""
        return (self._slack(x)[0] >= 0).all(1)

    def sections(self, x: Tensor) -> Sections:
        """Return the distances along each coordinate to the nearest face."""
        slack, a = self._slack(x)
        steps = slack[:, :, None] / torch.where(a == 0, 1.0, a.abs())  # [B, K, D]
        return nearer(*(torch.where(a * sign > 0, steps, math.inf).amin(1) for sign in (-1.0, 1.0)))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest face."""
        slack, a = self._slack(x)
        length = torch.linalg.vector_norm(a, dim=1)
        least = (slack / length).min(1)
        return least.values, -(a / length[:, None])[least.indices]

    def nearest(self, x: Tensor) -> Tensor:
        """Project onto one halfspace after the other, with Dykstra's corrections, until the points stay."""
        faces = zip(self.normals.to(x), self.offsets.to(x), strict=True)
        return alternately(x, [partial(_into, normal, offset) for normal, offset in faces])

    def __repr__(self) -> str:
        """Return the name, A and b."""
        return f"Halfspaces({self.normals.tolist()}, {self.offsets.tolist()})"


class Ball(Domain):
    """The ball `|x| <= radius`.

    `phi_j = sqrt(radius^2 - |x_-j|^2) - |x_j|`, and the distance to the boundary is `radius - |x|`.

    Args:
        radius: a positive number.

    Raises:
        ValueError: if the radius is not positive and finite.

    Example:
        >>> Ball(5.0).sections(torch.tensor([[3.0, 0.0]])).phi
        tensor([[2., 4.]])

    Source: Yu, Drton, Shojaie 2022; Liu, Kanamori, Williams 2022 (the distance).
    """

    def __init__(self, radius: float) -> None:
        if not 0 < radius < math.inf:
            raise ValueError(f"radius of Ball must be positive and finite, got {radius}.")
        self.radius = float(radius)

    def contains(self, x: Tensor) -> Tensor:
        """Compare the norm with the radius."""
        inside: Tensor = torch.linalg.vector_norm(x, dim=1) <= self.radius
        return inside

    def sections(self, x: Tensor) -> Sections:
        """Return the distances to the ends of the chords, without cancellation."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        margin = (self.radius - length) * (self.radius + length)  # radius^2 - |x|^2
        longer = (margin + x.square()).clamp(
            min=0
        ).sqrt() + x.abs()  # distance to the farther end; phi times this is margin
        return Sections(torch.where(longer > 0, margin / longer, 0.0), -x.sign())

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance along the radius."""
        length = torch.linalg.vector_norm(x, dim=1)
        return self.radius - length, -F.normalize(x, dim=1)

    def nearest(self, x: Tensor) -> Tensor:
        """Shorten what is too long."""
        length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x * (self.radius / length.clamp(min=self.radius))

    def __repr__(self) -> str:
        """Return the name and the radius."""
        return f"Ball({self.radius})"


class Simplex(Domain):
    """The simplex `x >= 0`, `sum x <= 1`, for compositional data without the last part.

    A composition of p parts has p - 1 free coordinates. Its density is a function of these, so omit the last part.
    `phi_j = min(x_j, 1 - sum x)`.

    Example:
        >>> parts = torch.tensor([[0.5, 0.3, 0.2]])
        >>> Simplex().sections(parts[:, :-1]).phi
        tensor([[0.2000, 0.2000]])

    Source: Yu, Drton, Shojaie 2023, "Interaction models and generalized score matching for compositional data".
    """

    advice = "omit the last part of each composition, x[:, :-1]"

    def contains(self, x: Tensor) -> Tensor:
        """Return whether every part is non-negative, including the last."""
        return (x >= 0).all(1) & (_last_part(x) >= 0)[:, 0]

    def sections(self, x: Tensor) -> Sections:
        """Return the distances to zero and to where the last part is zero, whichever is smaller."""
        return nearer(x, _last_part(x).expand_as(x))

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest face, including `sum x = 1`."""
        dim = x.shape[1]
        least = torch.cat([x, _last_part(x) / math.sqrt(dim)], 1).min(1)
        slopes = torch.cat([torch.eye(dim).to(x), x.new_full((1, dim), -1 / math.sqrt(dim))])
        return least.values, slopes[least.indices]

    def nearest(self, x: Tensor) -> Tensor:
        """Set negative parts to zero; if their sum is still above 1, first subtract a number that makes it 1.

        Source: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions", figure 1.
        """
        ordered = x.sort(1, descending=True).values
        excess = ordered.cumsum(1) - 1
        rank = torch.arange(1, x.shape[1] + 1, device=x.device)
        kept = (ordered * rank > excess).sum(1, keepdim=True).clamp(min=1)
        on_face = (x - excess.gather(1, kept - 1) / kept).clamp(min=0)
        positive = x.clamp(min=0)
        return torch.where(_last_part(positive) < 0, on_face, positive)

    def __repr__(self) -> str:
        """Return the name."""
        return "Simplex()"


def _last_part(x: Tensor) -> Tensor:
    return 1 - x.sum(1, keepdim=True)


def _into(normal: Tensor, offset: Tensor, x: Tensor) -> Tensor:
    """Project onto one halfspace."""
    excess = ((x @ normal - offset) / normal.square().sum()).clamp(min=0)
    return x - excess[:, None] * normal
