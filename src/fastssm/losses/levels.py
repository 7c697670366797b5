"""What the losses of noise-conditional models share: a level for each sample, its noise, its weight."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from fastssm import backends, checks
from fastssm.losses.reduction import check_reduction
from fastssm.noise import (
    CONDITIONS,
    Noisy,
    add_noise,
    check_level,
    check_noise,
    check_sigmas,
    condition_value,
    draw_level,
)


class Levels(NamedTuple):
    """A validated call of a noise-conditional model, whose samples have no level yet.

    Attributes:
        call: the call on clean data; its last conditioning argument is what the model will be told.
        sigmas: the levels `[L]`.
        power: of sigma in the weight.
        condition: what the model is told.
        weight: further weight of each sample, None or `[B]`.
        level: the given levels, or None.
        noise: the given noise, or None.
        generator: source of randomness.
    """

    request: backends.Request
    sigmas: Tensor
    power: float
    condition: str
    weight: Tensor | None
    level: Tensor | None
    noise: Tensor | None
    generator: Generator | None

    def draw(self) -> tuple[backends.Request, Noisy, Tensor]:
        """Draw what was not given; return the call on noisy data, the noise, and the weight of each sample `[B]`."""
        x = self.request.x
        level = draw_level(self.level, len(self.sigmas), x, self.generator)
        sigma = self.sigmas[level]
        noisy = add_noise(x, sigma, self.noise, self.generator)
        weight = sigma**self.power
        if self.weight is not None:
            weight = weight * self.weight.to(weight.dtype)
        cond = (*self.request.cond[:-1], condition_value(self.condition, sigma, level, x))
        return self.request._replace(x=noisy.x, cond=cond), noisy, weight


def check_levels(
    model: nn.Module,
    x: Tensor,
    *,
    sigmas: object,
    anneal_power: object,
    condition: str,
    cond: object,
    level: Tensor | None,
    noise: Tensor | None,
    kind: str,
    weight: Tensor | None,
    reduction: str,
    generator: Generator | None,
    precision: str,
) -> Levels:
    """Check the arguments that the losses of noise-conditional models share, before anything is drawn."""
    checks.check_data(x)
    checks.check_choice("condition", condition, CONDITIONS)
    if isinstance(anneal_power, bool) or not isinstance(anneal_power, int | float) or not math.isfinite(anneal_power):
        raise ValueError(f"anneal_power must be a finite number, got {anneal_power!r}.")
    levels = check_sigmas(sigmas, x)
    check_level(level, x)
    check_noise(noise, x)
    checks.check_generator(generator)
    first = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    stand_in = condition_value(condition, levels[first], first, x)
    request = backends.make_request(model, x, (*checks.check_cond(cond, x), stand_in), kind, precision)
    given = check_reduction(x, weight, reduction)
    return Levels(request, levels, anneal_power, condition, given, level, noise, generator)
