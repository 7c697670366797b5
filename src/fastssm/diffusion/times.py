"""Which times a diffusion loss looks at, and the weights that keep it unbiased whatever they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fastssm.diffusion.sde import SDE, LinearSDE

TIMES = ("importance", "uniform")
FLAT = 1e-3  # share of the whole time below which importance sampling is flat where its density would diverge


def uniform(like: Tensor, generator: Generator | None) -> Tensor:
    """Draw one number of [0, 1) per sample, `[B]`, in the dtype and on the device of `like` `[B, ...]`."""
    count, dtype = like.shape[:1], like.dtype
    if generator is None:
        return torch.rand(count, dtype=dtype, device=like.device)
    return torch.rand(count, generator=generator, dtype=dtype, device=generator.device).to(like.device)


@dataclass(frozen=True)
class TimeDensity:
    """A density `q` of times on `[first, end]`.

    Uniform, or for a linear SDE `q ~ g^2 / std^2`, which makes the likelihood's weight of the noise prediction error
    constant. Where that has an infinite integral, as at `std = 0`, it is constant below `floor`.

    Attributes:
        sde: the diffusion.
        first: the earliest time, a number or a scalar tensor.
        importance: not uniform.
        floor: where the density turns flat, None where it need not.

    Source: Huang, Lim and Courville 2021, appendix G ("debiasing"); Song et al. 2021b; Kim et al. 2022, section 4.
    """

    sde: SDE
    first: float | Tensor
    importance: bool
    floor: float | None = None

    def _mass(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the earliest time of the proportional part, what precedes it, where it starts, and all there is."""
        sde = self.sde
        assert isinstance(sde, LinearSDE)
        low = torch.zeros_like(like[:1]) + (self.first if self.floor is None else self.floor)
        head = sde.noise_ratio_rate(low) * (low - self.first)
        base = sde.log_noise_ratio(low)
        total = head + sde.log_noise_ratio(torch.full_like(low, sde.end)) - base
        return low, head, base, total

    def quantile(self, u: Tensor) -> Tensor:
        """Return the times `[B]` below which the density has mass `u` `[B]`."""
        if not self.importance:
            return self.first + u * (self.sde.end - self.first)
        sde = self.sde
        assert isinstance(sde, LinearSDE)
        low, head, base, total = self._mass(u)
        mass = u * total
        flat = self.first + mass / sde.noise_ratio_rate(low)
        later = sde.time_of(base + (mass - head).clamp(min=0.0))
        return torch.where(mass < head, flat, later).clamp(max=sde.end)

    def inverse(self, t: Tensor) -> Tensor:
        """Return `1 / q(t)`: the mean of `f(t) / q(t)` is the integral of f."""
        if not self.importance:
            return torch.zeros_like(t) + (self.sde.end - self.first)
        sde = self.sde
        assert isinstance(sde, LinearSDE)
        low, _, _, total = self._mass(t)
        return total / sde.noise_ratio_rate(torch.maximum(t, low))


def time_density(sde: SDE, times: str = "importance", first: float | Tensor | None = None) -> TimeDensity:
    """Return the density of times of a loss that starts at `first`, at the SDE's own start if None."""
    first = sde.start if first is None else first
    if times == "uniform" or not isinstance(sde, LinearSDE):
        return TimeDensity(sde, first, False)
    floor = FLAT * sde.end if starts_in_data(sde, first) else None
    return TimeDensity(sde, first, True, floor)


def starts_in_data(sde: SDE, first: float | Tensor) -> bool:
    """Say whether nothing blurs the data at the earliest time."""
    noiseless = not isinstance(sde, LinearSDE) or sde.start_std == 0.0
    return noiseless and not isinstance(first, Tensor) and first <= sde.start


def grid(sde: SDE, steps: int, first: float | Tensor, like: Tensor) -> Tensor:
    """Return `steps + 1` times from `end` down to `first`: even in the logarithm of the noise ratio, else in time."""
    u = torch.linspace(1.0, 0.0, steps + 1, dtype=like.dtype, device=like.device)
    return time_density(sde, "importance", first).quantile(u)
