"""Diffusions `dx = f(x, t) dt + g(t) dw` that turn data into noise, and the reverse-time processes that undo them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.directions import gaussian


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Return numbers `[B]` in a shape that multiplies `[B, ...]`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def normal_like(x: Tensor, generator: Generator | None) -> Tensor:
    """Return standard normal noise like x, in the dtype of losses."""
    wide = checks.widened(x)
    return gaussian((1, 1, x.numel()), wide.detach(), generator).reshape(x.shape)


class SDE(ABC):
    """A diffusion `dx = f(x, t) dt + g(t) dw` from data at time `start` to nearly pure noise at time `end`.

    Times are tensors `[B]`, one per sample, or scalars.

    Attributes:
        end: the last time, T.
    """

    end: float

    @property
    def start(self) -> float:
        """The earliest time that has a meaning."""
        return 0.0

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Deviation of the centred Gaussian that stands for the data at time `end`."""

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `f(x, t)`, like x."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Return `g(t)`, like t."""

    @abstractmethod
    def perturb(self, x: Tensor, t: Tensor, noise: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Draw the state at times t of the process that started in data x."""

    def condition(self, t: Tensor) -> Tensor:
        """Return what a model gets for the time: `model(x, *cond, sde.condition(t))`."""
        return t

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor, lam: float = 0.0) -> Tensor:
        """Return the drift of a process that, run from `end` to `start`, has the marginals of this one.

        `f(x, t) - (1 - lam / 2) g(t)^2 s`, with the noise `sqrt(1 - lam) g(t) dw`: the reverse-time SDE for `lam = 0`,
        the probability-flow ODE for `lam = 1`.

        Args:
            x: state `[B, ...]`.
            t: times `[B]`.
            score: `d log p_t / dx` at x.
            lam: member of the family, from 0 to 1.

        Returns:
            The drift, like x, in forward time: integrate it with negative time steps.

        Source: Huang, Lim and Courville 2021, section 4; Song et al. 2021, equations 6 and 13.
        """
        square = (1.0 - 0.5 * lam) * self.diffusion(t).square()
        return self.drift(x, t) - per_sample(square, x) * score

    def prior_sample(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
    ) -> Tensor:
        """Draw `N(0, prior_std^2 I)`: where samplers start."""
        like = torch.empty(shape, dtype=dtype, device=device)
        return self.prior_std * normal_like(like, generator).to(dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Return `log N(x; 0, prior_std^2 I)` in nats, `[B]`."""
        flat = checks.widened(x.flatten(1)) / self.prior_std
        constant = 0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std)
        return -0.5 * flat.square().sum(1) - flat.shape[1] * constant


class LinearSDE(SDE):
    """A diffusion with `f(x, t) = rate(t) x`, whose kernel is Gaussian: `x_t = mean(t) x_0 + std(t) z`.

    Everything else follows from `mean`, `std` and the growth of `log(std^2 / mean^2)`, whose derivative is
    `g^2 / std^2` for every SDE.
    """

    @property
    def start_std(self) -> float:
        """`std(start)`, as a number; 0 for a diffusion that starts in the data themselves."""
        return 0.0

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Return `f(x, t) / x`."""

    @abstractmethod
    def mean(self, t: Tensor) -> Tensor:
        """Return the factor of the data in the kernel's mean."""

    @abstractmethod
    def std(self, t: Tensor) -> Tensor:
        """Return the kernel's deviation."""

    @abstractmethod
    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """Return `log(std(t)^2 / mean(t)^2)`, increasing in t."""

    @abstractmethod
    def noise_ratio_rate(self, t: Tensor) -> Tensor:
        """Return its derivative, `g(t)^2 / std(t)^2`."""

    @abstractmethod
    def time_of(self, log_noise_ratio: Tensor) -> Tensor:
        """Return the time at which `log_noise_ratio` has a value."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `rate(t) x`."""
        return per_sample(self.rate(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `g(t) = std(t) sqrt(noise_ratio_rate(t))`."""
        return self.std(t) * self.noise_ratio_rate(t).sqrt()

    def perturb(self, x: Tensor, t: Tensor, noise: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Return `mean(t) x + std(t) z`, with `z` drawn if not given."""
        z = normal_like(x, generator) if noise is None else noise
        return per_sample(self.mean(t), x) * checks.widened(x) + per_sample(self.std(t), x) * z


def check_end(end: float) -> None:
    """Raise unless the last time is a positive number."""
    if not 0.0 < end < math.inf:
        raise ValueError(f"end must be positive and finite, got {end}.")


@dataclass(frozen=True)
class CustomSDE(SDE):
    """A diffusion of your own, whose kernel is not known: states are simulated by Euler and Maruyama's scheme.

    `x <- x + f(x, t) dt + g(t) sqrt(dt) z`, in `steps` steps from 0 to the time that each sample is wanted at; for
    `elbo_loss` and `elbo` in `steps` steps from 0 to T, of which the drawn time cuts one in two.

    Args:
        f: the drift `(x [B, ...], t [B]) -> [B, ...]`; samples must not mix.
        g: the diffusion `t [B] -> [B]`.
        end: the last time, T.
        steps: of the simulation.
        prior: deviation of the centred Gaussian that stands for the data at time T.

    Raises:
        TypeError: if f or g cannot be called.
        ValueError: for an end or a deviation that is not positive, or a number of steps below one.

    Example:
        >>> double_well = CustomSDE(lambda x, t: x - x**3, lambda t: torch.ones_like(t), steps=20)
        >>> double_well.perturb(torch.zeros(5, 2), torch.rand(5)).shape
        torch.Size([5, 2])

    Source: Huang, Lim and Courville 2021, section 3 (the bound needs no closed-form kernel).
    """

    f: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]
    end: float = 1.0
    steps: int = 100
    prior: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not callable(self.f) or not callable(self.g):
            raise TypeError("f and g must be functions, f(x, t) and g(t); for a constant g use torch.full_like(t, c).")
        check_end(self.end)
        checks.check_count("steps", self.steps)
        if not 0.0 < self.prior < math.inf:
            raise ValueError(f"prior must be a positive deviation, got {self.prior}.")

    @property
    def prior_std(self) -> float:
        """The deviation given."""
        return self.prior

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `f(x, t)`."""
        found = self.f(x, t)
        if found.shape != x.shape:
            raise ValueError(f"f(x, t) must have the shape of x, {tuple(x.shape)}, got {tuple(found.shape)}.")
        return found

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `g(t)`."""
        found = self.g(t)
        if found.shape != t.shape:
            raise ValueError(f"g(t) must have the shape of t, {tuple(t.shape)}, got {tuple(found.shape)}.")
        return found

    def perturb(self, x: Tensor, t: Tensor, noise: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Simulate each sample up to its own time; the noise, if given, is `[steps, *x.shape]`."""
        x, size = checks.widened(x), t / self.steps
        for step in range(self.steps):
            x = self.advance(x, step * size, size, normal_like(x, generator) if noise is None else noise[step])
        return x

    def advance(self, x: Tensor, t: Tensor, size: Tensor, noise: Tensor) -> Tensor:
        """Take one step of Euler and Maruyama's scheme.

        Args:
            x: states `[B, ...]`.
            t: their times `[B]`.
            size: of their steps `[B]`.
            noise: standard normal, like x.

        Returns:
            The states at `t + size`.
        """
        deviation = self.diffusion(t) * size.sqrt()
        return x + per_sample(size, x) * self.drift(x, t) + per_sample(deviation, x) * noise
