"""Density ratios of two samples by time scores: a path from one density to the other, and how its log-density moves."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import checks
from fastssm.directions import gaussian
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import check_reduction, reduce
from fastssm.noise import check_noise
from fastssm.operators import score
from fastssm.options import Cond, LossTensors, Model, NoiseTensors, RandomOptions, ReductionOptions, takes

TimeObjective = Literal["conditional", "implicit"]


class DensityRatioOptions(ReductionOptions, RandomOptions, total=False):
    """Options of `density_ratio_loss`.

    Attributes:
        sigma: standard deviation of the bridge's noise; about that of the data.
        objective: "conditional" or "implicit".
    """

    sigma: float
    objective: TimeObjective


class DensityRatioTensors(LossTensors, NoiseTensors, total=False):
    """The tensors of a batch that `density_ratio_loss` takes besides x.

    Attributes:
        base: samples `[B, ...]` of the other density, p0, each paired with the row of x at its place.
        t: times `[B]` in `[0, 1]`, instead of random ones.
        cond: further arguments, passed as `model(x, *cond, t)`.
    """

    base: Required[Tensor]
    t: Tensor | None


class DensityRatioArguments(DensityRatioTensors, DensityRatioOptions, total=False):
    """Keyword arguments of `density_ratio_loss`."""


@takes(DensityRatioArguments, sigma=1.0, objective="conditional")
def density_ratio_loss(model: Model, x: Tensor, **options: Unpack[DensityRatioArguments]) -> Tensor:
    r"""Learn the time score of a path between two densities; its integral is the logarithm of their ratio.

    The bridge from `x0 ~ p0` (`base`) to `x1 ~ p1` (`x`) is `x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) z`, t
    uniform on `[0, 1]`. The model learns `u(x, t) = d log p_t(x) / dt`, and `fastssm.log_density_ratio` integrates it.

    "conditional" regresses u on the time score of the path given both ends, times what makes its variance constant:
    `loss_b = |2 t (1 - t) u(x_t, t) - r|^2 / 2` with
    `r = (1 - 2 t) (z^2 - 1) + 2 sqrt(t (1 - t)) z (x1 - x0) / sigma`, coordinate by coordinate for a model with one
    output per coordinate, whose sum is the time score, and summed over the coordinates for a model with one output.

    "implicit" integrates by parts, so it needs no conditional density, and allows `sigma = 0`:
    `loss_b = u(x_t, t)^2 / 2 + du/dt (x_t, t) + u(x0, 0) - u(x1, 1)`. It is noisier.

    Args:
        model: the time score, called as `model(x, *cond, t)` with t `[B]`; output like x (recommended, in more than a
            few dimensions), or `[B]` or `[B, 1]`.
        x: samples `[B, ...]` of p1, the numerator.
        options: keyword arguments of `DensityRatioArguments`.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", cond_dim=1)
        >>> density_ratio_loss(net, torch.randn(128, 2) + 3, base=torch.randn(128, 2)).backward()

    Source: Choi et al. 2022, "Density ratio estimation via infinitesimal classification" (implicit); Yu et al.
        2025, "Density ratio estimation with conditional probability paths" (conditional, one output per
        coordinate).
    """
    objective, base, t, noise = options["objective"], options["base"], options["t"], options["noise"]
    checks.check_choice("objective", objective, get_args(TimeObjective))
    checks.check_model(model)
    checks.check_not_wrapped(checks.modules_of(model))
    checks.check_data(x)
    checks.check_generator(options["generator"])
    sigma = _check_bridge(x, base, options["sigma"], objective)
    check_noise(noise, x)
    _check_times(t, x)
    timed = TimeScore(model, *checks.check_cond(options["cond"], x))
    reduced = check_reduction(x, options["weight"], options["reduction"])
    x0, x1 = (checks.widened(checks.outside_inference(end).flatten(1)) for end in (base, x))
    generator = options["generator"]
    t = _uniform(x1, generator) if t is None else t.to(x1)
    z = gaussian((1, *x1.shape), x1, generator)[0] if noise is None else noise.flatten(1).to(x1)
    spread = (t * (1 - t)).sqrt()[:, None]
    state = torch.lerp(x0, x1, t[:, None]) + sigma * spread * z
    if objective == "implicit":
        return reduce(_implicit(timed, (x0, x1), state, t, x), reduced)
    target = (1 - 2 * t[:, None]) * (z.square() - 1) + 2 * spread * z * (x1 - x0) / sigma
    found = timed(state, t, x)
    if found.shape != target.shape:
        target = target.sum(1, keepdim=True)
    return reduce(0.5 * (2 * spread.square() * found - target).square().sum(1), reduced)


def log_density_ratio(model: Model, x: Tensor, *, cond: Cond = None, steps: int = 32) -> Tensor:
    r"""Return the logarithm of a density ratio, from the time score that `density_ratio_loss` has learned.

    `log p1(x) - log p0(x) = integral of u(x, t) over t from 0 to 1`, by Gauss-Legendre quadrature.

    Args:
        model: the time score, as for `density_ratio_loss`.
        x: points `[B, ...]`.
        cond: further arguments, passed as `model(x, *cond, t)`.
        steps: number of nodes; the model runs once for each.

    Returns:
        The logarithm `[B]`, differentiable.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or devices do not fit.

    Example:
        >>> shifted = lambda x, t: x - t[:, None]  # from N(0, 1) to N(1, 1) through N(t, 1)
        >>> log_density_ratio(shifted, torch.tensor([[1.0], [1.5]]))
        tensor([0.5000, 1.0000])

    Source: Choi et al. 2022, "Density ratio estimation via infinitesimal classification".
    """
    checks.check_model(model)
    checks.check_data(x)
    checks.check_count("steps", steps)
    timed = TimeScore(model, *checks.check_cond(cond, x))
    rows = checks.widened(checks.outside_inference(x).flatten(1))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    parts = [
        weight / 2 * timed(rows, torch.full_like(rows[:, 0], (node + 1) / 2), x).sum(1)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]
    return torch.stack(parts).sum(0)


class TimeScore(NamedTuple):
    """A model of the time score, and what it takes between data and time."""

    model: Model
    cond: tuple[Tensor | None, ...]
    named: dict[str, Tensor | None]

    def __call__(self, rows: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Return the outputs `[B, D]` or `[B, 1]` at rows `[B, D]`, which the model gets in shape and dtype of x."""
        found = self.model(rows.to(like.dtype).reshape(like.shape), *self.cond, t.to(like.dtype), **self.named)
        checks.check_output(found)
        if found.shape not in (like.shape, like.shape[:1], (len(like), 1)):
            raise ValueError(
                f"a time score returns one value per sample, [B] or [B, 1], or one per coordinate; for x of shape "
                f"{tuple(like.shape)} the model returned {tuple(found.shape)}; change its last layer."
            )
        return checks.widened(found[:, None] if found.ndim == 1 else found.flatten(1))


def _implicit(timed: TimeScore, ends: tuple[Tensor, Tensor], state: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Return `u^2 / 2 + du/dt` at the state, plus u at the first end less u at the last, `[B]`."""

    def energy(joint: Tensor) -> Tensor:
        return timed(joint[:, :-1], joint[:, -1], like).sum(1)

    slope = -score(energy, torch.cat([state, t[:, None]], 1), kind="energy", backend="reference")[:, -1]
    value = timed(state, t, like).sum(1)
    first, last = (timed(end, torch.full_like(t, at), like).sum(1) for at, end in enumerate(ends))
    return 0.5 * value.square() + slope + first - last


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one time per row, `[B]`."""
    device = like.device if generator is None else generator.device
    return torch.rand(len(like), generator=generator, dtype=like.dtype, device=device).to(like.device)


def _check_bridge(x: Tensor, base: object, sigma: object, objective: TimeObjective) -> float:
    """Return the noise of the bridge, and raise unless its ends fit."""
    if not isinstance(base, Tensor) or base.dtype != x.dtype:
        came = base.dtype if isinstance(base, Tensor) else type(base).__name__
        raise TypeError(f"base must be a torch.Tensor of the dtype of x, {x.dtype}, got {came}; use .to(x).")
    if base.shape != x.shape or base.device != x.device:
        raise ValueError(
            f"base must have the shape and device of x, {tuple(x.shape)} on {x.device}, got {tuple(base.shape)} on "
            f"{base.device}; draw as many rows of each density."
        )
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise TypeError(f"sigma must be a number, got {type(sigma).__name__}.")
    least = "not negative" if objective == "implicit" else "positive"
    if not 0 <= sigma < math.inf or (sigma == 0 and objective == "conditional"):
        raise ValueError(f'sigma must be {least} and finite for objective="{objective}", got {sigma}.')
    return float(sigma)


def _check_times(t: object, x: Tensor) -> None:
    """Raise unless the times are None or one per sample in `[0, 1]`."""
    if t is None:
        return
    if not isinstance(t, Tensor) or not t.is_floating_point():
        came = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be a floating-point torch.Tensor, got {came}; use torch.rand(len(x)).")
    if t.shape != x.shape[:1] or t.device != x.device:
        raise ValueError(
            f"t must have shape ({x.shape[0]},), one time per sample, on {x.device}, got {tuple(t.shape)} on "
            f"{t.device}."
        )
    checks.check_rows((t >= 0) & (t <= 1), "t must be in [0, 1]", "use torch.rand(len(x))")


class DensityRatioLoss(ScoreLoss[Tensor], loss=density_ratio_loss, tensors=DensityRatioTensors):
    """`density_ratio_loss` as a module that owns the network: `DensityRatioLoss(net)(x, base=x0)`.

    Example:
        >>> import fastssm.nn
        >>> loss = DensityRatioLoss(fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1))
        >>> loss(torch.randn(16, 2) + 3, base=torch.randn(16, 2)).backward()

    Source: Yu et al. 2025.
    """

    def __init__(self, model: nn.Module, **options: Unpack[DensityRatioOptions]) -> None:
        super().__init__(model, **options)
