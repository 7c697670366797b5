"""Soft truncation: a random earliest time per batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class SoftTruncation:
    """A random earliest time `tau` of a batch, `P(tau) ~ tau^-k` on `[eps, end]`.

    `P(tau <= t) = (1 - (t / eps)^(1 - k)) / (1 - (end / eps)^(1 - k))`, for `k = 1` `log(t / eps) / log(end / eps)`.

    The expected loss of `elbo_loss(..., truncation=self)` without its reconstruction term is that of
    `elbo_loss(..., t_min=eps, time_weight=self.weight)`: the likelihood's weight times `P(tau <= t)`. Small times are
    rarely drawn, so large ones are learned better.

    Args:
        k: how strongly early times are preferred; 0 is uniform, 1 uniform in `log tau`, 2 uniform in `1 / tau`.
        eps: the earliest time.
        end: the last time, T of the SDE.

    Raises:
        ValueError: for times out of order, or a k that is not finite.

    Example:
        >>> soft = SoftTruncation(k=1.0, eps=1e-4)
        >>> soft.weight(torch.tensor([1e-4, 1e-2, 1.0]))
        tensor([0.0000, 0.5000, 1.0000])

    Source: Kim et al. 2022, "Soft truncation: a universal training technique of score-based diffusion models",
    section 4.3; the paper's code does it for VP only; here it works for every SDE.
    """

    k: float = 1.0
    eps: float = 1e-5
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0.0 < self.eps < self.end < math.inf:
            raise ValueError(f"eps and end must satisfy 0 < eps < end < inf, got {self.eps} and {self.end}.")
        if not math.isfinite(self.k):
            raise ValueError(f"k must be finite, got {self.k}; for the fixed earliest time eps use t_min=eps.")

    def cdf(self, t: Tensor) -> Tensor:
        """Return `P(tau <= t)`."""
        span, share = math.log(self.end / self.eps), (t.clamp(self.eps, self.end) / self.eps).log()
        if self.k == 1.0:
            return share / span
        return torch.expm1((1.0 - self.k) * share) / math.expm1((1.0 - self.k) * span)

    def quantile(self, u: Tensor) -> Tensor:
        """Return the inverse of `cdf`."""
        span = math.log(self.end / self.eps)
        if self.k == 1.0:
            return self.eps * (span * u).exp()
        share = torch.log1p(u * math.expm1((1.0 - self.k) * span)) / (1.0 - self.k)
        return (self.eps * share.exp()).clamp(self.eps, self.end)

    def weight(self, t: Tensor) -> Tensor:
        """Return the deterministic equivalent, the weight `P(tau <= t)` of time t."""
        return self.cdf(t)

    def draw(
        self,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
    ) -> Tensor:
        """Draw one `tau`, a scalar tensor: nothing waits for it."""
        source = device if generator is None else generator.device
        return self.quantile(torch.rand((), dtype=dtype, device=source, generator=generator).to(device))
