"""Domains that a polynomial inequality describes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.domains.base import Domain, Sections, nearer

NEWTON = 3  # steps that polish a root
STEPS = 50  # of the way back to the boundary, at most


class Polynomial(Domain):
    """The points where a polynomial is at most a bound, `sum_t c_t prod_i x_i^(e_ti) <= bound`.

    The ends of a section are roots of a polynomial in one variable. There is no formula for the Euclidean distance.
    For `>=`, negate the coefficients and the bound; for several inequalities, use `Intersection`.

    Args:
        coefficients: c, `[T]`.
        exponents: e, integers `[T, D]` that are not negative.
        bound: the right-hand side.

    Raises:
        ValueError: if shapes do not match, a number is not finite, an exponent is not a natural number, or no
            coordinate occurs.

    Example:
        >>> ellipse = Polynomial([1.0, 4.0], [[2, 0], [0, 2]], 4.0)  # x^2 + 4 y^2 <= 4
        >>> ellipse.sections(torch.tensor([[1.0, 0.0]])).phi
        tensor([[1.0000, 0.8660]])

    Source: Yu, Drton, Shojaie 2022, "Generalized score matching for general domains".
    """

    def __init__(
        self, coefficients: Tensor | Sequence[float], exponents: Tensor | Sequence[Sequence[int]], bound: float
    ):
        c, e = torch.as_tensor(coefficients).double(), torch.as_tensor(exponents)
        fits = c.ndim == 1 and e.ndim == 2 and len(c) == len(e) and e.numel() > 0
        if not fits or not bool(c.isfinite().all()) or not math.isfinite(bound):
            raise ValueError(
                "Polynomial requires finite coefficients [T], exponents [T, D] and a finite bound, got shapes "
                f"{tuple(c.shape)} and {tuple(e.shape)}, and the bound {bound}."
            )
        if e.is_floating_point() or bool((e < 0).any()) or not bool(e[c != 0].any()):
            raise ValueError(
                "exponents of Polynomial must be integers of at least 0, and some coordinate must occur, got "
                f"{e.tolist()}; multiply by a power of x first if it has negative ones."
            )
        self.coefficients, self.exponents, self.bound = c, e, float(bound)

    def width(self) -> int:
        """Return D."""
        return self.exponents.shape[1]

    def excess(self, x: Tensor) -> Tensor:
        """Return the polynomial less the bound, `[B]`."""
        powers = x[:, None] ** self.exponents.to(x)
        return powers.prod(2) @ self.coefficients.to(x) - self.bound

    def contains(self, x: Tensor) -> Tensor:
        """Compare the polynomial with the bound."""
        return self.excess(x) <= 0

    def expansion(self, x: Tensor, j: int) -> Tensor:
        """Return the polynomial less the bound in powers of a step t along coordinate j, `[B, degree + 1]`."""
        e = self.exponents.to(x.device)
        orders = [self.excess(x)]
        for order in range(1, int(e[:, j].max()) + 1):
            ways = _binomial(e[:, j], order).to(x) * self.coefficients.to(x)
            lowered = e.clone()
            lowered[:, j] = (e[:, j] - order).clamp(min=0)
            orders.append((x[:, None] ** lowered.to(x)).prod(2) @ ways)
        return torch.stack(orders, 1)

    @torch.no_grad()
    def sections(self, x: Tensor) -> Sections:
        """Return the distances to the nearest roots where the sign changes, computed in double precision."""
        parts = [_ends(self.expansion(x.double(), j)) for j in range(x.shape[1])]
        phi, sign = (torch.stack(part, 1).to(x) for part in zip(*parts, strict=True))
        return Sections(phi, sign)

    def distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raise ValueError: it has no formula."""
        raise ValueError(
            "the Euclidean distance to the boundary of a Polynomial has no formula; use the distances along the "
            'coordinates, weighting="coordinate".'
        )

    def nearest(self, x: Tensor) -> Tensor:
        """Return points on the boundary by Newton's steps along the gradient.

        Near the boundary they are the nearest points up to the square of the distance.
        """
        for _ in range(STEPS):
            slopes = torch.stack([self.expansion(x, j)[:, 1:2].sum(1) for j in range(x.shape[1])], 1)
            square = slopes.square().sum(1)
            step = torch.where(square > 0, self.excess(x).clamp(min=0) / square, 0.0)[:, None] * slopes
            if bool((step.abs() <= 4 * torch.finfo(x.dtype).eps).all()):
                break
            x = x - step
        return x

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"Polynomial({self.coefficients.tolist()}, {self.exponents.tolist()}, {self.bound})"


def _binomial(n: Tensor, k: int) -> Tensor:
    """Return `n choose k` of integers, zero for `n < k`."""
    return torch.tensor([math.comb(value, k) for value in n.tolist()], dtype=torch.float64, device=n.device)


def _ends(series: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi and its sign at `t = 0` of sections where polynomials in t, `[B, degree + 1]`, are at most zero."""
    series = F.pad(series, (0, 3 - series.shape[1])) if series.shape[1] < 3 else series
    touches = (series[:, :2] == 0).all(1) & (series[:, 2] < 0)  # the boundary, from inside: the sign is that of q / t^2
    series = torch.where(touches[:, None], F.pad(series[:, 2:], (0, 2)), series)
    inner = series[:, 0] < 0
    roots = _roots(torch.where(inner[:, None], series, -1.0))
    odd = torch.arange(series.shape[1], device=series.device) % 2 == 1
    below, above = _exit(torch.where(odd, -series, series), -roots), _exit(series, roots)
    found = nearer(below, above)
    return torch.where(inner, found.phi, 0.0), torch.where(inner, found.sign, -series[:, 1].sign())


def _roots(series: Tensor) -> Tensor:
    """Return the real roots `[B, degree]` of polynomials with a constant term; infinite in place of the others.

    They are the inverses of the eigenvalues of a companion matrix, so that leading coefficients may be zero.
    """
    batch, degree = series.shape[0], series.shape[1] - 1
    companion = series.new_zeros(batch, degree, degree)
    companion[:, 0] = -series[:, 1:] / series[:, :1]
    companion[:, range(1, degree), range(degree - 1)] = 1.0
    inverse = torch.linalg.eigvals(companion)
    real = (inverse.imag.abs() <= 1e-6 * inverse.abs()) & (inverse.real != 0)
    roots = torch.where(real, 1 / inverse.real, math.inf)
    for _ in range(NEWTON):
        value, slope = _horner(series, roots)
        better = roots - value / slope
        kept = better.isfinite() & (_horner(series, better)[0].abs() < value.abs())
        roots = torch.where(kept, better, roots)
    return roots


def _horner(series: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and slopes `[B, K]` of polynomials `[B, degree + 1]` at K points each."""
    value, slope = torch.zeros_like(t), torch.zeros_like(t)
    for coefficient in series.flip(1).unbind(1):
        slope = slope * t + value
        value = value * t + coefficient[:, None]
    return value, slope


def _exit(series: Tensor, roots: Tensor) -> Tensor:
    """Return the first positive root after which the polynomial is positive; infinite if there is none."""
    ordered = torch.where(roots > 0, roots, math.inf).sort(1).values
    after = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], math.inf)], 1)
    middle = torch.where(after.isfinite(), (ordered + after) / 2, 2 * ordered + 1)
    rounding = 8 * torch.finfo(series.dtype).eps * _horner(series.abs(), middle)[0]
    leaves = ordered.isfinite() & (_horner(series, middle)[0] > rounding)
    return torch.where(leaves, ordered, math.inf).amin(1)
