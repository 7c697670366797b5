"""The loss of a family whose log-density is linear in its parameters: a quadratic, from one pass over the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastssm import checks
from fastssm.domains import Box, Domain, Simplex
from fastssm.graphical.families import FAMILIES, Design, Interaction
from fastssm.losses.domain import WeightFunction, Weighting, metric_of

CHUNK = 2**22  # numbers of a design at a time
EVERYWHERE = Box(-math.inf, math.inf)


@dataclass(frozen=True)
class Quadratic:
    """The loss `J(theta) = theta^T Gamma theta / 2 - g^T theta` of a family on data.

    Attributes:
        gamma: Gamma, `[P, P]`, symmetric, without negative eigenvalues.
        g: `[P]`.
        rows: number of samples.
        dim: number of coordinates of a sample.
        family: the family.
    """

    gamma: Tensor
    g: Tensor
    rows: int
    dim: int
    family: Interaction

    def loss(self, theta: Tensor) -> Tensor:
        """Return the loss of parameters `[..., P]`."""
        return ((theta @ self.gamma) * theta).sum(-1) / 2 - theta @ self.g

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrix K, `[..., m, m]`, and eta, `[..., m]`, of parameters `[..., P]`."""
        return self.family.split(theta, self.dim)

    def solve(self, support: Tensor | None = None) -> Tensor:
        """Return the parameters `[P]` with the least loss, `Gamma theta = g`.

        Args:
            support: bool `[P]`, the parameters that may differ from zero; all if None.

        Raises:
            ValueError: if the support has another shape, or Gamma is singular on it: there is no single minimum.
        """
        if support is not None and (support.dtype != torch.bool or support.shape != self.g.shape):
            raise ValueError(
                f"support must be bool with one entry per parameter, {tuple(self.g.shape)}, got {support.dtype} of "
                f"shape {tuple(support.shape)}."
            )
        kept = torch.arange(len(self.g)) if support is None else support.nonzero()[:, 0]
        factor, info = torch.linalg.cholesky_ex(self.gamma[kept][:, kept])
        if int(info):
            raise ValueError(
                f"Gamma of {len(kept)} parameters from {self.rows} row(s) must not be singular; pass more rows, or use "
                "fastssm.graphical.path with diagonal=fastssm.graphical.multiplier(rows, variables)."
            )
        theta = torch.zeros_like(self.g)
        theta[kept] = torch.cholesky_solve(self.g[kept, None], factor)[:, 0]
        return theta


@torch.no_grad()
def quadratic(
    x: Tensor,
    family: Interaction | str = "gaussian",
    *,
    domain: Domain | None = None,
    h: WeightFunction | None = None,
    weighting: Weighting = "coordinate",
) -> Quadratic:
    r"""Return the exact loss of `fastssm.domain_loss` for a family of densities, as a quadratic in its parameters.

    With `s_j = sum_k theta_k t_kj(x)`, `J(theta) = theta^T Gamma theta / 2 - g^T theta`, where
    `Gamma_kl = mean sum_j g_j t_kj t_lj` and `g_k = -mean sum_j (g_j dt_kj/dx_j + (dg_j/dx_j) t_kj)`, with the weights
    `g_j = h(phi_j(x))`. One pass over the data, in double precision; row j of K meets only its own variable, so that n
    rows of m variables take `n m^3` multiplications.

    Args:
        x: data `[n, D]` in the domain.
        family: an `Interaction`, or a name: "gaussian", "exponential_square_root", "gamma", "lognormal",
            "log_interaction" or "dirichlet".
        domain: where the data live; all of space if None.
        h: from distances to `(h, h')`, as for `domain_loss`; `min(t, 1)` if None.
        weighting: "coordinate" or "distance", as for `domain_loss`.

    Returns:
        A `Quadratic`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or names do not match, a row lies outside the domain, a weight is not finite, the
            derivatives of the log-density are not finite in a row, or a family of compositions is not on the simplex.

    Example:
        >>> x = torch.randn(1000, 2).abs()
        >>> k, eta = (found := quadratic(x, domain=fastssm.domains.Positive())).split(found.solve())
        >>> k.shape, eta.shape
        (torch.Size([2, 2]), torch.Size([2]))

    Source: Yu, Drton, Shojaie 2019, "Generalized score matching for non-negative data"; on domains: Yu,
        Drton, Shojaie 2022, "Generalized score matching for general domains".
    """
    chosen, domain = _family_of(family), EVERYWHERE if domain is None else domain
    checks.check_data(x)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must be [n, D] with at least one row, got shape {tuple(x.shape)}.")
    if chosen.last_part and not isinstance(domain, Simplex):
        raise ValueError(
            f"a family with last_part=True describes compositions on Simplex(), got the domain {domain!r}; pass "
            "domain=Simplex() and x without the last part of each composition, x[:, :-1]."
        )
    x = x.detach().double()
    metric = metric_of(x, domain, h, weighting)
    checks.check_rows(
        chosen.finite(x),
        "the log-density of the family must have finite derivatives",
        f"with a={chosen.a} and b={chosen.b} they are infinite where a variable is zero and undefined where it is "
        "negative; move rows on the boundary inside by a little, or drop them",
    )
    weight, tilt = metric.root.square(), metric.tilt
    assert tilt is not None
    size = chosen.size(x.shape[1])
    gamma, g = x.new_zeros(size, size), x.new_zeros(size)
    step = max(1, CHUNK // (2 * x.shape[1] * (x.shape[1] + 2)))
    for rows in (slice(first, first + step) for first in range(0, len(x), step)):
        _add(gamma, g, chosen.design(x[rows]), weight[rows], tilt[rows])
    return Quadratic(gamma / len(x), g / len(x), len(x), x.shape[1], chosen)


def _add(gamma: Tensor, g: Tensor, design: Design, weight: Tensor, tilt: Tensor) -> None:
    """Add the sums over some rows, in place."""
    slope, curvature, place = design
    weighted = weight[..., None] * slope
    blocks = torch.einsum("bdq,bdr->dqr", weighted, slope)
    gamma.index_put_((place[:, :, None], place[:, None, :]), blocks, accumulate=True)
    g.index_put_((place,), -(weight[..., None] * curvature + tilt[..., None] * slope).sum(0), accumulate=True)


def _family_of(family: object) -> Interaction:
    if isinstance(family, Interaction):
        return family
    if not isinstance(family, str):
        raise TypeError(f"family must be an Interaction or a name, got {type(family).__name__}.")
    checks.check_choice("family", family, tuple(FAMILIES))
    return FAMILIES[family]
