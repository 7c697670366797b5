"""Pairwise interaction models: families of densities whose logarithm is linear in the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Design(NamedTuple):
    """The score's dependence on the parameters, `s_j = sum_q slope_jq theta_place[j, q]`.

    Attributes:
        slope: `[B, D, Q]`.
        curvature: the derivative of `slope_jq` in `x_j`, `[B, D, Q]`.
        place: which parameter each of them belongs to, `[D, Q]`.
    """

    slope: Tensor
    curvature: Tensor
    place: Tensor


@dataclass(frozen=True)
class Interaction:
    r"""A pairwise interaction model, `log p(x) = -u^T K u / (2 a) + eta^T w / b + const`, `u = x^a`, `w = x^b`.

    Where an exponent is zero, the logarithm takes the place of the power, and 1 that of the exponent in the divisor.
    K is symmetric, and `K_ij = 0` if and only if x_i and x_j are independent given all others. The parameters are the
    upper triangle of K, row by row, and then eta.

    Attributes:
        a: exponent of the interactions.
        b: exponent of the linear part.
        pairs: whether there are interactions; without, K is zero.
        linear: whether there is a linear part; without, eta is zero.
        last_part: whether the last part of a composition, `1 - sum x`, is one of the variables; on the simplex only.

    Raises:
        ValueError: if an exponent is negative or not finite, or there is neither of the parts.

    Example:
        >>> Interaction(0.5, 0.5).size(3)  # six of K, three of eta
        9

    Source: Yu, Drton, Shojaie 2019, "Generalized score matching for non-negative data"; on the simplex: Yu,
        Drton, Shojaie 2023, "Interaction models and generalized score matching for compositional data".
    """

    a: float
    b: float
    pairs: bool = True
    linear: bool = True
    last_part: bool = False

    def __post_init__(self) -> None:
        """Check the exponents."""
        if not all(0 <= exponent < math.inf for exponent in (self.a, self.b)):
            raise ValueError(f"exponents of Interaction must be finite and at least 0, got a={self.a} and b={self.b}.")
        if not (self.pairs or self.linear):
            raise ValueError("Interaction requires pairs=True, linear=True or both, got neither.")

    def variables(self, dim: int) -> int:
        """Return the number of variables of points with `dim` coordinates."""
        return dim + self.last_part

    def size(self, dim: int) -> int:
        """Return the number of parameters for points with `dim` coordinates."""
        m = self.variables(dim)
        return self.pairs * (m * (m + 1) // 2) + self.linear * m

    def split(self, theta: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return K, `[..., m, m]`, and eta, `[..., m]`, of parameters `[..., P]`."""
        m = self.variables(dim)
        count = self.pairs * (m * (m + 1) // 2)
        k, eta = theta.new_zeros(*theta.shape[:-1], m, m), theta.new_zeros(*theta.shape[:-1], m)
        if self.pairs:
            i, j = torch.triu_indices(m, m, device=theta.device)
            k[..., i, j] = k[..., j, i] = theta[..., :count]
        return k, theta[..., count:] if self.linear else eta

    def off_diagonal(self, dim: int) -> Tensor:
        """Return which parameters are interactions of two different variables, bool `[P]`."""
        found = torch.zeros(self.size(dim), dtype=torch.bool)
        if self.pairs:
            i, j = torch.triu_indices(self.variables(dim), self.variables(dim))
            found[: len(i)] = i != j
        return found

    def finite(self, x: Tensor) -> Tensor:
        """Return whether all derivatives of the log-density are finite at points `[B, D]`, bool `[B]`."""
        parts = self._variables(x)
        found = [*_power(parts, self.a), *_derivatives(parts, self.a)] if self.pairs else []
        found += _derivatives(parts, self.b) if self.linear else []
        return torch.stack(found).isfinite().all(0).all(1)

    def _variables(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) if self.last_part else x

    def design(self, x: Tensor) -> Design:
        """Return how the score depends on the parameters at points `[B, D]`."""
        dim, parts = x.shape[1], self._variables(x)
        moves = torch.eye(dim, dtype=x.dtype, device=x.device)  # of the variables, with each coordinate
        if not self.last_part:
            return self._rows(parts, torch.arange(dim), 1.0, moves)
        moves = F.pad(moves, (0, 1), value=-1.0)
        own = self._rows(parts, torch.arange(dim), 1.0, moves)
        last = self._rows(parts, torch.full((dim,), dim), -1.0, moves)
        return Design(*(torch.cat(both, -1) for both in zip(own, last, strict=True)))

    def _rows(self, parts: Tensor, which: Tensor, sign: float, moves: Tensor) -> Design:
        """Return the part of the score that comes from the variables `which`, `[D]`, which move by `sign`."""
        m = parts.shape[1]
        i, j = torch.triu_indices(m, m)
        found = []
        if self.pairs:
            place = torch.zeros(m, m, dtype=torch.int64)
            place[i, j] = place[j, i] = torch.arange(len(i))
            first, second = _derivatives(parts[:, which], self.a)
            u, steepness = _power(parts, self.a)
            curvature = -second[..., None] * u[:, None] - sign * first[..., None] * steepness[:, None] * moves
            found.append(Design(-sign * first[..., None] * u[:, None], curvature, place[which]))
        if self.linear:
            first, second = _derivatives(parts[:, which], self.b)
            found.append(Design(sign * first[..., None], second[..., None], which[:, None] + self.pairs * len(i)))
        slope, curvature, index = (torch.cat(both, -1) for both in zip(*found, strict=True))
        return Design(slope, curvature, index.to(parts.device))


def _power(x: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Return `x^a` and its derivative; of the logarithm where `a = 0`."""
    return (x**a, a * x ** (a - 1)) if a else (x.log(), 1 / x)


def _derivatives(x: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Return `x^(a - 1)`, which is the derivative of `x^a / a`, and the derivative of that."""
    return x ** (a - 1), (a - 1) * x ** (a - 2) if a != 1 else torch.zeros_like(x)


FAMILIES = {
    "gaussian": Interaction(1.0, 1.0),
    "exponential_square_root": Interaction(0.5, 0.5),
    "gamma": Interaction(0.5, 0.0),
    "lognormal": Interaction(0.0, 0.0),
    "log_interaction": Interaction(0.0, 0.0, last_part=True),
    "dirichlet": Interaction(0.0, 0.0, pairs=False, last_part=True),
}
"""Families by name. A Dirichlet distribution has the concentrations `eta + 1`."""
