"""Add noise to data, and condition models on the noise level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.directions import gaussian
from fastssm.options import Condition


class Noisy(NamedTuple):
    """Noisy data and the added noise.

    Attributes:
        x: `x + sigma noise`, with the shape and dtype of x.
        noise: standard normal, `[B, D]`.
        sigma: standard deviation, `[B, 1]` or a scalar.
    """

    x: Tensor
    noise: Tensor
    sigma: Tensor


def check_sigma(sigma: object, x: Tensor) -> Tensor:
    """Return a standard deviation, a positive number or one per sample `[B]`, as a tensor in the dtype of the loss."""
    dtype = checks.widened(x).dtype
    if isinstance(sigma, Tensor):
        if not sigma.is_floating_point() or sigma.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"sigma must be a positive number, or a floating-point tensor ({x.shape[0]},), one per sample, got "
                f"{sigma.dtype} of shape {tuple(sigma.shape)}."
            )
        return checks.outside_inference(sigma).to(x.device, dtype)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise TypeError(f"sigma must be a positive number or a tensor, got {type(sigma).__name__}.")
    _check_positive("sigma", [sigma])
    return torch.tensor(float(sigma), dtype=dtype, device=x.device)


def check_sigmas(sigmas: object, x: Tensor) -> Tensor:
    """Return noise levels, positive numbers or a tensor `[L]`, as a tensor in the dtype of the loss."""
    dtype = checks.widened(x).dtype
    if isinstance(sigmas, Tensor):
        if not sigmas.is_floating_point() or sigmas.ndim != 1 or len(sigmas) == 0:
            raise ValueError(
                f"sigmas must be numbers or a floating-point tensor [L], got {sigmas.dtype} of shape "
                f"{tuple(sigmas.shape)}."
            )
        return checks.outside_inference(sigmas).to(x.device, dtype)
    if not isinstance(sigmas, Sequence) or not all(isinstance(s, int | float) for s in sigmas):
        raise TypeError(f"sigmas must be a list of numbers or a tensor [L], got {type(sigmas).__name__}.")
    if not sigmas:
        raise ValueError("sigmas must contain at least one noise level, got none.")
    _check_positive("sigmas", sigmas)
    return torch.tensor([float(s) for s in sigmas], dtype=dtype, device=x.device)


def _check_positive(name: str, values: Iterable[float]) -> None:
    wrong = [value for value in values if not 0 < value < float("inf")]
    if wrong:
        raise ValueError(f"{name} must be positive and finite, got {wrong[0]}.")


def check_noise(noise: object, x: Tensor) -> None:
    """Raise unless the noise is None or a floating-point tensor with the shape and device of x."""
    if noise is None:
        return
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        kind = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"noise must be a floating-point torch.Tensor, got {kind}; use torch.randn_like(x).")
    if noise.shape != x.shape or noise.device != x.device:
        raise ValueError(
            f"noise must have the shape and device of x, {tuple(x.shape)} on {x.device}, got {tuple(noise.shape)} on "
            f"{noise.device}; use torch.randn_like(x)."
        )


def check_level(level: object, x: Tensor) -> None:
    """Raise unless the levels are None or one integer index per sample."""
    if level is None:
        return
    if not isinstance(level, Tensor) or level.dtype != torch.int64:
        kind = level.dtype if isinstance(level, Tensor) else type(level).__name__
        raise TypeError(f"level must be a torch.Tensor of int64 indices into sigmas, got {kind}.")
    if level.shape != x.shape[:1] or level.device != x.device:
        raise ValueError(
            f"level must have shape ({x.shape[0]},), one index per sample, on {x.device}, got {tuple(level.shape)} on "
            f"{level.device}."
        )


def draw_level(level: Tensor | None, count: int, x: Tensor, generator: Generator | None) -> Tensor:
    """Return the given level of each sample, or draw uniform levels `[B]`."""
    if level is not None:
        return level
    if generator is None:
        return torch.randint(count, (x.shape[0],), device=x.device)
    return torch.randint(count, (x.shape[0],), generator=generator, device=generator.device).to(x.device)


def add_noise(x: Tensor, sigma: Tensor, noise: Tensor | None, generator: Generator | None) -> Noisy:
    """Return `x + sigma noise`; draw the noise if it is None."""
    wide = checks.widened(x.flatten(1))
    if noise is None:
        noise = gaussian((1, *wide.shape), wide, generator)[0]
    noise = checks.outside_inference(noise).flatten(1).to(wide.dtype)
    sigma = sigma[:, None] if sigma.ndim else sigma
    return Noisy((wide + sigma * noise).reshape(x.shape).to(x.dtype), noise, sigma)


def condition_value(condition: Condition, sigma: Tensor, level: Tensor, x: Tensor) -> Tensor:
    """Return the condition of a model `[B]`: the standard deviation, its logarithm, or the index of the level."""
    if condition == "level":
        return level
    return (sigma.log() if condition == "log_sigma" else sigma).to(x.dtype)
