"""Which times a diffusion loss draws, and the weights that keep it unbiased for any density of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.diffusion.sde import SDE, LinearSDE
from fastssm.diffusion.truncation import SoftTruncation

Density = Literal["importance", "uniform"]
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
        floor: where the density turns flat, None where it does not.

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


def time_density(sde: SDE, density: Density = "importance", first: float | Tensor | None = None) -> TimeDensity:
    """Return the density of times of a loss that starts at `first`, at the SDE's own start if None."""
    first = sde.start if first is None else first
    if density == "uniform" or not isinstance(sde, LinearSDE):
        return TimeDensity(sde, first, False)
    floor = FLAT * sde.end if starts_in_data(sde, first) else None
    return TimeDensity(sde, first, True, floor)


def starts_in_data(sde: SDE, first: float | Tensor) -> bool:
    """Say whether the data have no noise at the earliest time."""
    noiseless = not isinstance(sde, LinearSDE) or sde.start_std == 0.0
    return noiseless and not isinstance(first, Tensor) and first <= sde.start


def grid(sde: SDE, steps: int, first: float | Tensor, like: Tensor) -> Tensor:
    """Return `steps + 1` times from `end` down to `first`: even in the logarithm of the noise ratio, else in time."""
    u = torch.linspace(1.0, 0.0, steps + 1, dtype=like.dtype, device=like.device)
    return time_density(sde, "importance", first).quantile(u)


def check_first(sde: SDE, t_min: object) -> float:
    """Return the earliest time, the SDE's own if None, and raise unless it lies in the SDE's interval."""
    if t_min is None:
        return sde.start
    if isinstance(t_min, bool) or not isinstance(t_min, int | float):
        raise TypeError(f"t_min must be a number, got {type(t_min).__name__}.")
    if not sde.start <= t_min < sde.end:
        raise ValueError(f"t_min must lie in [{sde.start:g}, {sde.end:g}), the times of {sde}, got {t_min}.")
    return float(t_min)


def check_t(t: object, x: Tensor) -> Tensor | None:
    """Return the times, None or one per sample."""
    if t is None:
        return None
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be a floating-point torch.Tensor, one time per sample, got {kind}.")
    if t.shape != x.shape[:1] or t.device != x.device:
        raise ValueError(
            f"t must have shape ({x.shape[0]},), one time per sample, on {x.device}, got {tuple(t.shape)} on "
            f"{t.device}."
        )
    return checks.outside_inference(t).to(checks.widened(x).dtype)


class Times(NamedTuple):
    """One time for each sample of a batch.

    Attributes:
        t: the times `[B]`.
        weights: `weight(t) / q(t)`, `[B]`: the mean of `weights f(t)` is the integral of `weight f`.
        first: the earliest time of this batch, a number or a scalar tensor.
    """

    t: Tensor
    weights: Tensor
    first: float | Tensor

    def scaled(self, factor: float) -> Times:
        """Return the same times with weights times a factor."""
        return self._replace(weights=factor * self.weights)


@dataclass(frozen=True)
class TimeSampling:
    """How a diffusion loss draws the time of each sample, and weights it.

    Each time t is drawn from a density q on `[t_min, T]` and its loss is divided by `q(t)`, so every density gives the
    same expectation; "importance" gives less noise.

    Args:
        density: "importance" for `q ~ g^2 / std^2` (flat below `T / 1000` where it starts at `std = 0`), or "uniform".
            A `CustomSDE`, whose std is not known, always has "uniform".
        t_min: the earliest time; the SDE's own start if None. A `SoftTruncation` draws it anew for each batch.
        weight: function of t `[B]` that multiplies the loss at t. With a weight, `elbo_loss` is no longer a bound.

    Raises:
        TypeError: for a t_min that is neither a number nor a `SoftTruncation`, or a weight that is not a function.
        ValueError: for an unknown density.

    Example:
        >>> from fastssm.diffusion import VP, SoftTruncation
        >>> TimeSampling("uniform", t_min=1e-3).earliest(VP())
        0.001
        >>> TimeSampling(t_min=SoftTruncation(k=1.0, eps=1e-4)).earliest(VP())
        0.0001

    Source: Huang, Lim and Courville 2021, appendix G (importance sampling); Kim et al. 2022 (soft truncation).
    """

    density: Density = "importance"
    t_min: float | SoftTruncation | None = None
    weight: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the SDE."""
        checks.check_choice("density", self.density, get_args(Density))
        fixed = self.t_min is None or (isinstance(self.t_min, int | float) and not isinstance(self.t_min, bool))
        if not fixed and not isinstance(self.t_min, SoftTruncation):
            raise TypeError(f"t_min must be a number or a SoftTruncation, got {type(self.t_min).__name__}.")
        if self.weight is not None and not callable(self.weight):
            raise TypeError(f"weight must be a function of the times [B], got {type(self.weight).__name__}.")

    def earliest(self, sde: SDE) -> float:
        """Return the earliest time that may be drawn for a diffusion.

        Raises:
            ValueError: unless it lies in the times of the diffusion.
        """
        if not isinstance(self.t_min, SoftTruncation):
            return check_first(sde, self.t_min)
        if self.t_min.end != sde.end or self.t_min.eps < sde.start:
            raise ValueError(
                f"a SoftTruncation must lie in the times of {sde}, [{sde.start:g}, {sde.end:g}], and reach its end, "
                f"got {self.t_min}."
            )
        return self.t_min.eps

    def draw(self, sde: SDE, x: Tensor, t: Tensor | None, generator: Generator | None) -> Times:
        """Return the times of a batch x `[B, ...]`: those given, or random ones."""
        wide = checks.widened(x)
        first: float | Tensor = self.earliest(sde)
        if isinstance(self.t_min, SoftTruncation):
            first = self.t_min.draw(dtype=wide.dtype, device=x.device, generator=generator)
        density = time_density(sde, self.density, first)
        t = density.quantile(uniform(wide, generator)) if t is None else t
        weights = density.inverse(t)
        return Times(t, weights if self.weight is None else weights * self._weight_at(t), first)

    def _weight_at(self, t: Tensor) -> Tensor:
        assert self.weight is not None
        given = self.weight(t)
        if given.shape != t.shape:
            raise ValueError(f"weight(t) must have the shape of t, {tuple(t.shape)}, got {tuple(given.shape)}.")
        return given


def check_times(times: object) -> TimeSampling | None:
    """Return the sampling of times, and raise TypeError unless it is one or None."""
    if times is not None and not isinstance(times, TimeSampling):
        raise TypeError(
            f"times must be a TimeSampling, such as TimeSampling(t_min=1e-3), got {type(times).__name__}; use t "
            "for the times themselves."
        )
    return times
