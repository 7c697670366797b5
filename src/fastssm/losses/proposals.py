"""What fills the gaps of a table: a normal distribution, fitted to what is observed."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from fastssm import checks

_ROWS = 4096  # that are looked at together: each needs matrices of its own
_RIDGE = 1e-6  # of the variances, to keep a covariance positive


class Proposal(Protocol):
    """What `missing_loss` draws missing values from."""

    def __call__(self, x: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return rows `[K, B, D]` with the gaps of x `[B, D]` filled, and the log-densities `[K, B]` of what is new."""


class GaussianProposal:
    """Draws missing values given the observed ones, as of a normal distribution.

    `N(m_u + P_uu^-1 P_uo (m_o - x_o), widen^2 P_uu^-1)`, with the precision matrix P, observed o and missing u.

    Args:
        mean: m, `[D]`.
        covariance: `P^-1`, `[D, D]`.
        widen: factor of the standard deviations; above one, the tails are heavier than those of the normal
            distribution, which keeps importance weights bounded.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes do not fit, or the covariance is not symmetric and positive.

    Example:
        >>> x = torch.randn(200, 3)
        >>> x[torch.rand(200, 3) < 0.3] = torch.nan
        >>> filled, log_density = GaussianProposal.fit(x)(x, 8)
        >>> filled.shape, log_density.shape
        (torch.Size([8, 200, 3]), torch.Size([8, 200]))

    Source: Dempster, Laird, Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm" (the fit).
    """

    def __init__(self, mean: Tensor, covariance: Tensor, widen: float = 1.2) -> None:
        if not isinstance(mean, Tensor) or not isinstance(covariance, Tensor):
            raise TypeError("mean and covariance must be torch.Tensors; use torch.as_tensor, or GaussianProposal.fit.")
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            came = f"{list(mean.shape)} and {list(covariance.shape)}"
            raise ValueError(f"mean must have shape [D] and covariance [D, D], got {came}.")
        if not 0 < widen < math.inf:
            raise ValueError(f"widen must be positive and finite, got {widen}.")
        self.mean, self.covariance, self.widen = mean.detach().double(), covariance.detach().double(), float(widen)
        factor, wrong = torch.linalg.cholesky_ex(self.covariance)
        if int(wrong) or not torch.allclose(self.covariance, self.covariance.mT):
            raise ValueError("covariance must be symmetric and positive; add a little to its diagonal.")
        self._precision = torch.cholesky_inverse(factor)

    @classmethod
    def fit(cls, x: Tensor, *, iterations: int = 50, widen: float = 1.2) -> GaussianProposal:
        """Fit mean and covariance to a table `[n, D]` with NaN for what is missing, by the EM algorithm.

        Raises:
            ValueError: if a column has no two different values.
        """
        checks.check_data(x)
        checks.check_count("iterations", iterations)
        rows = x.detach().flatten(1).double()
        seen = ~rows.isnan()
        mean = rows.nanmean(0)
        variance = (rows - mean).square().nanmean(0)
        poor = ~(variance > 0)
        if bool(poor.any()):
            raise ValueError(
                f"column {int(poor.nonzero()[0])} of x must have two different observed values; drop the column."
            )
        found = cls(mean, torch.diag(variance), widen)
        for _ in range(iterations):
            parts = [found._moments(*part) for part in zip(*(torch.split(t, _ROWS) for t in (rows, seen)), strict=True)]
            mean = torch.stack([first for first, _ in parts]).sum(0) / len(rows)
            second = torch.stack([second for _, second in parts]).sum(0) / len(rows)
            found = cls(mean, second - mean[:, None] * mean + _RIDGE * torch.diag(variance), widen)
        return found

    def _conditional(self, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows with conditional means in their gaps, and a factor L of `P_uu = L L^T`, the identity else."""
        mean, precision = self.mean.to(rows.device), self._precision.to(rows.device)
        gap = (~seen).to(rows.dtype)
        block = precision * gap[:, :, None] * gap[:, None, :] + torch.diag_embed(1 - gap)
        factor = torch.linalg.cholesky(block)
        off = torch.where(seen, rows - mean, 0.0)
        shift = torch.cholesky_solve(((off @ precision) * gap)[:, :, None], factor)[:, :, 0]
        return torch.where(seen, rows, mean - shift), factor

    def _moments(self, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over rows of the expected row and of its outer product, given what is observed."""
        filled, factor = self._conditional(rows, seen)
        gap = (~seen).to(rows.dtype)
        spread = (torch.cholesky_inverse(factor) * gap[:, :, None] * gap[:, None, :]).sum(0)
        return filled.sum(0), filled.mT @ filled + spread

    def __call__(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw what is missing.

        Args:
            x: rows `[B, D]`, NaN where a value is missing.
            count: K, the number of draws for each row.
            generator: source of randomness.

        Returns:
            The filled rows `[K, B, D]`, and the log-density `[K, B]` of the missing values, zero for a whole row.
        """
        if x.shape[1:] != self.mean.shape:
            raise ValueError(
                f"the proposal is for rows of {len(self.mean)} value(s), got {x.shape[1]}; fit it to this table."
            )
        seen = ~x.isnan()
        centre, factor = self._conditional(x.double(), seen)
        device = x.device if generator is None else generator.device
        z = torch.randn(count, *x.shape, generator=generator, dtype=torch.float64, device=device).to(x.device)
        z = torch.where(seen, 0.0, z)
        moved = torch.linalg.solve_triangular(factor.mT, z[..., None], upper=True)[..., 0]
        filled = torch.where(seen, x.double(), centre + self.widen * moved)
        scale = factor.diagonal(dim1=1, dim2=2).log().sum(1) - (~seen).sum(1) * math.log(
            self.widen * math.sqrt(2 * math.pi)
        )
        return filled.to(x.dtype), (scale - 0.5 * z.square().sum(2)).to(checks.widened(x).dtype)

    def __repr__(self) -> str:
        """Show the width of the rows and the factor."""
        return f"GaussianProposal(D={len(self.mean)}, widen={self.widen:g})"
