"""What the losses of noise-conditional models share: a level for each sample, its noise, its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from typing_extensions import Required, TypedDict

from fastssm import backends, checks
from fastssm.losses.reduction import Reducer, check_reduction, scaled
from fastssm.noise import Noisy, add_noise, check_level, check_noise, check_sigmas, condition_value, draw_level
from fastssm.options import CONDITIONS, Condition, LossOptions, LossTensors, Model, RandomOptions


class LevelOptions(TypedDict, total=False):
    """Options of losses at several noise levels.

    Attributes:
        sigmas: the levels, standard deviations in the units of x; numbers or a tensor `[L]`, in any order.
        anneal_power: power of sigma in the weight; 2 gives all levels losses of about the same size.
        condition: what the model gets: "sigma", "log_sigma", or "level" (the index, int64, for embeddings).
    """

    sigmas: Required[Sequence[float] | Tensor]
    anneal_power: float
    condition: Condition


class LevelTensors(LossTensors, total=False):
    """The tensors of a batch that losses at several noise levels take besides x.

    Attributes:
        cond: further arguments of the model, before the level: `model(x, *cond, sigma)`.
        level: index into `sigmas` of each sample, int64 `[B]`, instead of random ones.
        noise: standard normal noise in the shape of x, instead of random noise.
    """

    level: Tensor | None
    noise: Tensor | None


class LevelArguments(LevelTensors, LevelOptions, LossOptions, RandomOptions, total=False):
    """The keyword arguments that losses at several noise levels share."""


class Levels(NamedTuple):
    """A validated call of a noise-conditional model, whose samples have no level yet.

    Attributes:
        request: the call on clean data; its last conditioning argument stands for what the model gets.
        sigmas: the levels `[L]`.
        power: of sigma in the weight.
        condition: what the model gets.
        reduced: the further weight of each sample, and the reduction.
        level: the given levels, or None.
        noise: the given noise, or None.
        generator: source of randomness.
    """

    request: backends.Request
    sigmas: Tensor
    power: float
    condition: Condition
    reduced: Reducer
    level: Tensor | None
    noise: Tensor | None
    generator: Generator | None

    def draw(self) -> tuple[backends.Request, Noisy, Reducer]:
        """Draw what was not given; return the call on noisy data, the noise, and the reducer weighted by level."""
        x = self.request.x
        level = draw_level(self.level, len(self.sigmas), x, self.generator)
        sigma = self.sigmas[level]
        noisy = add_noise(x, sigma, self.noise, self.generator)
        cond = (*self.request.cond[:-1], condition_value(self.condition, sigma, level, x))
        return self.request._replace(x=noisy.x, cond=cond), noisy, scaled(self.reduced, sigma**self.power)


def check_levels(model: Model, x: Tensor, options: LevelArguments) -> Levels:
    """Check the arguments that the losses of noise-conditional models share, before anything is drawn."""
    checks.check_data(x)
    condition, power, generator = options["condition"], options["anneal_power"], options["generator"]
    checks.check_choice("condition", condition, CONDITIONS)
    if isinstance(power, bool) or not isinstance(power, int | float) or not math.isfinite(power):
        raise ValueError(f"anneal_power must be a finite number, got {power!r}.")
    levels, level, noise = check_sigmas(options["sigmas"], x), options["level"], options["noise"]
    check_level(level, x)
    check_noise(noise, x)
    checks.check_generator(generator)
    first = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    told = condition_value(condition, levels[first], first, x)
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"], last=told)
    reduced = check_reduction(x, options["weight"], options["reduction"])
    return Levels(request, levels, power, condition, reduced, level, noise, generator)
