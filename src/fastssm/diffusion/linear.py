"""The diffusions of the literature, whose kernels are Gaussian: variance preserving, sub-VP, exploding, reciprocal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastssm.diffusion.sde import LinearSDE, check_end


def _check_order(name: str, low: float, high: float) -> None:
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"{name}_min and {name}_max must satisfy 0 < min < max < inf, got {low} and {high}.")


@dataclass(frozen=True)
class _Beta(LinearSDE):
    """What the variance-preserving diffusions share: `f = -beta(t) x / 2`, `beta` linear in t, `B` its integral."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_order("beta", self.beta_min, self.beta_max)
        check_end(self.end)

    @property
    def prior_std(self) -> float:
        """Deviation 1."""
        return 1.0

    def beta(self, t: Tensor) -> Tensor:
        """Return `beta_min + (beta_max - beta_min) t`."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        """Return `B(t)`, the integral of beta from 0 to t."""
        return (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t) * t

    def time_of_integral(self, value: Tensor) -> Tensor:
        """Solve `B(t) = value` without cancellation."""
        root = (self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * value).sqrt()
        return 2.0 * value / (self.beta_min + root)

    def rate(self, t: Tensor) -> Tensor:
        """Return `-beta(t) / 2`."""
        return -0.5 * self.beta(t)

    def mean(self, t: Tensor) -> Tensor:
        """Return `exp(-B(t) / 2)`."""
        return (-0.5 * self.integral(t)).exp()


@dataclass(frozen=True)
class VP(_Beta):
    """The variance-preserving SDE: `f = -beta x / 2`, `g^2 = beta`, `std^2 = 1 - exp(-B)`.

    Args:
        beta_min: `beta(0)`, per unit of time.
        beta_max: `beta(1)`.
        end: the last time, T.

    Raises:
        ValueError: for rates or times out of order.

    Example:
        >>> VP().mean(torch.tensor(1.0))
        tensor(0.0066)

    Source: Song et al. 2021, "Score-based generative modeling through SDEs", equation 11.
    """

    def std(self, t: Tensor) -> Tensor:
        """Return `sqrt(1 - exp(-B))`."""
        return (-torch.expm1(-self.integral(t))).sqrt()

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(beta)`."""
        return self.beta(t).sqrt()

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """Return `log(exp(B) - 1)`."""
        b = self.integral(t)
        return b + (-torch.expm1(-b)).log()

    def noise_ratio_rate(self, t: Tensor) -> Tensor:
        """Return `beta / (1 - exp(-B))`."""
        return self.beta(t) / -torch.expm1(-self.integral(t))

    def time_of(self, log_noise_ratio: Tensor) -> Tensor:
        """Solve `B = log(1 + exp(log_noise_ratio))` for t."""
        return self.time_of_integral(torch.logaddexp(log_noise_ratio, torch.zeros_like(log_noise_ratio)))


@dataclass(frozen=True)
class SubVP(_Beta):
    """The sub-variance-preserving SDE: `f = -beta x / 2`, `g^2 = beta (1 - exp(-2 B))`, `std = 1 - exp(-B)`.

    Args:
        beta_min: `beta(0)`, per unit of time.
        beta_max: `beta(1)`.
        end: the last time, T.

    Raises:
        ValueError: for rates or times out of order.

    Example:
        >>> bool(SubVP().std(torch.tensor(0.3)) < VP().std(torch.tensor(0.3)))
        True

    Source: Song et al. 2021, equation 12.
    """

    def std(self, t: Tensor) -> Tensor:
        """Return `1 - exp(-B)`."""
        return -torch.expm1(-self.integral(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(beta (1 - exp(-2 B)))`."""
        return (self.beta(t) * -torch.expm1(-2.0 * self.integral(t))).sqrt()

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """Return `2 log(2 sinh(B / 2))`."""
        b = self.integral(t)
        return b + 2.0 * (-torch.expm1(-b)).log()

    def noise_ratio_rate(self, t: Tensor) -> Tensor:
        """Return `beta coth(B / 2)`."""
        return self.beta(t) / torch.tanh(0.5 * self.integral(t))

    def time_of(self, log_noise_ratio: Tensor) -> Tensor:
        """Solve `sinh(B / 2) = exp(log_noise_ratio / 2) / 2` for t."""
        return self.time_of_integral(2.0 * torch.asinh(0.5 * (0.5 * log_noise_ratio).exp()))


class _Exploding(LinearSDE):
    """What the variance-exploding diffusions share: no drift."""

    def rate(self, t: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(t)

    def mean(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t)

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """Return `2 log std`."""
        return 2.0 * self.std(t).log()


@dataclass(frozen=True)
class VE(_Exploding):
    """The variance-exploding SDE: `f = 0`, `g^2 = d std^2 / dt`, `std = sigma_min (sigma_max / sigma_min)^(t / T)`.

    As in Song et al., time 0 is data that already carry noise of deviation `sigma_min`.

    Args:
        sigma_min: the smallest noise, in the units of the data.
        sigma_max: the largest; about the largest distance between two rows.
        end: the last time, T.

    Raises:
        ValueError: for deviations or times out of order.

    Example:
        >>> VE(0.5, 10.0).std(torch.tensor([0.0, 1.0]))
        tensor([ 0.5000, 10.0000])

    Source: Song et al. 2021, equation 9.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_order("sigma", self.sigma_min, self.sigma_max)
        check_end(self.end)

    @property
    def start_std(self) -> float:
        """The smallest noise."""
        return self.sigma_min

    @property
    def prior_std(self) -> float:
        """The largest noise."""
        return self.sigma_max

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min) / self.end

    def std(self, t: Tensor) -> Tensor:
        """Return `sigma_min (sigma_max / sigma_min)^(t / T)`."""
        return self.sigma_min * (self._growth * t).exp()

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """Return `2 log std`, linear in t."""
        return 2.0 * (self._growth * t + math.log(self.sigma_min))

    def noise_ratio_rate(self, t: Tensor) -> Tensor:
        """Return `2 log(sigma_max / sigma_min) / T`."""
        return torch.full_like(t, 2.0 * self._growth)

    def time_of(self, log_noise_ratio: Tensor) -> Tensor:
        """Solve `2 log std = log_noise_ratio` for t."""
        return (0.5 * log_noise_ratio - math.log(self.sigma_min)) / self._growth


@dataclass(frozen=True)
class ReciprocalVE(_Exploding):
    """The reciprocal variance-exploding SDE, whose log deviation is linear in `1 / t`; the model gets more than t.

    `std^2 = sigma_max^2 (eta / sigma_max)^(2 (1/t - 1) / (1/eps - 1)) + (sigma_min^2 - eta^2) 1.01^((1/eps - 1/t) /
    (1/eps - 1))` on `[eps, 1]`: from `sigma_min` at `eps` to about `sigma_max` at 1, and `g^2 = d std^2 / dt`.

    The authors' code has the sign of the second part of `g^2` reversed; here it is the derivative.

    Args:
        sigma_min: deviation at time eps, in the units of the data.
        sigma_max: deviation at time 1.
        eta: deviation that the first part would have without the second at eps, at most `sigma_min`.
        eps: the earliest time.

    Raises:
        ValueError: for deviations or times out of order.

    Example:
        >>> ReciprocalVE(0.01, 50.0).std(torch.tensor([1e-5, 1.0], dtype=torch.float64))
        tensor([1.0000e-02, 5.0000e+01], dtype=torch.float64)

    Source: Kim et al. 2022, "Soft truncation" (called UDM in an earlier version of the paper).
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    eta: float = 1e-5
    eps: float = 1e-5

    end = 1.0
    knee = 0.01  # deviation below which the conditioning turns from log(std) to a line in 1 / std

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_order("sigma", self.sigma_min, self.sigma_max)
        if not 0.0 < self.eta <= self.sigma_min:
            raise ValueError(f"eta must satisfy 0 < eta <= sigma_min, got {self.eta} and {self.sigma_min}.")
        if not 0.0 < self.eps < 1.0:
            raise ValueError(f"eps must lie between 0 and 1, got {self.eps}.")

    @property
    def start(self) -> float:
        """The earliest time, eps."""
        return self.eps

    @property
    def start_std(self) -> float:
        """The smallest noise."""
        return self.sigma_min

    @property
    def prior_std(self) -> float:
        """The largest noise."""
        return math.sqrt(self.sigma_max**2 + 1.01 * (self.sigma_min**2 - self.eta**2))

    def _parts(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two parts of `std^2`."""
        span = 1.0 / self.eps - 1.0
        share = (1.0 / t - 1.0) / span
        large = (2.0 * (math.log(self.sigma_max) + share * math.log(self.eta / self.sigma_max))).exp()
        floor = (self.sigma_min**2 - self.eta**2) * (math.log(1.01) * (1.0 - share)).exp()
        return large, floor

    def std(self, t: Tensor) -> Tensor:
        """Return the square root of the sum of both parts."""
        large, floor = self._parts(t)
        return (large + floor).sqrt()

    def noise_ratio_rate(self, t: Tensor) -> Tensor:
        """Return `d log std^2 / dt`."""
        large, floor = self._parts(t)
        slope = 2.0 * math.log(self.sigma_max / self.eta) * large + math.log(1.01) * floor
        return slope / (large + floor) / ((1.0 / self.eps - 1.0) * t.square())

    def time_of(self, log_noise_ratio: Tensor) -> Tensor:
        """Solve `2 log std = log_noise_ratio` for `log t` by bisection, which needs no care where std is flat."""
        low = torch.full_like(log_noise_ratio, math.log(self.eps))
        high = torch.zeros_like(log_noise_ratio)
        for _ in range(60 if low.dtype == torch.float64 else 30):
            middle = 0.5 * (low + high)
            below = self.log_noise_ratio(middle.exp()) < log_noise_ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (0.5 * (low + high)).exp()

    def condition(self, t: Tensor) -> Tensor:
        """Return `log std`, and below `knee` `log knee + 1 - knee / std`: unbounded, and linear in `1 / std`."""
        std = self.std(t)
        return torch.where(std > self.knee, std.log(), math.log(self.knee) + 1.0 - self.knee / std)
