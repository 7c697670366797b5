"""Weights of generalised score matching: functions of the distance to the boundary that vanish there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm.domains.base import Bound, as_bound

Function = Callable[..., Tensor]


class Row(NamedTuple):
    """One weight: `h(t, *parameters)` and `h'(t, *parameters)` for distances `t >= 0`, and the default parameters."""

    value: Function
    slope: Function
    defaults: tuple[float, ...] = (1.0,)


def _mcp(t: Tensor, lam: float, gamma: float) -> Tensor:
    return torch.where(t <= lam * gamma, lam * t - t.square() / (2 * gamma), gamma * lam**2 / 2)


def _scad(t: Tensor, lam: float, gamma: float) -> Tensor:
    bend = (2 * gamma * lam * t - t.square() - lam**2) / (2 * (gamma - 1))
    return torch.where(t <= lam, lam * t, torch.where(t < gamma * lam, bend, lam**2 * (gamma + 1) / 2))


def _scad_slope(t: Tensor, lam: float, gamma: float) -> Tensor:
    return torch.where(t <= lam, lam, ((gamma * lam - t) / (gamma - 1)).clamp(min=0))


def _until(limit: float, function: Function, beyond: float) -> Function:
    return lambda t, a: torch.where(a * t <= limit, function(t, a), beyond)


WEIGHTS: dict[str, Row] = {
    "one": Row(lambda t: torch.ones_like(t), lambda t: torch.zeros_like(t), ()),
    "power": Row(lambda t, a: t**a, lambda t, a: a * t ** (a - 1)),
    "log_power": Row(lambda t, a: t.log1p() ** a, lambda t, a: a * t.log1p() ** (a - 1) / (1 + t)),
    "asinh": Row(lambda t, a: (a * t).asinh(), lambda t, a: a / ((a * t).square() + 1).sqrt()),
    "sinh": Row(lambda t, a: (a * t).sinh(), lambda t, a: a * (a * t).cosh()),
    "cosh": Row(lambda t, a: (a * t).cosh() - 1, lambda t, a: a * (a * t).sinh()),
    "exp": Row(lambda t, a: (a * t).expm1(), lambda t, a: a * (a * t).exp()),
    "softplus": Row(
        lambda t, a: torch.logaddexp(a * t, torch.zeros_like(t)) - math.log(2), lambda t, a: a * (a * t).sigmoid()
    ),
    "tanh": Row(lambda t, a: (a * t).tanh(), lambda t, a: a / (a * t).cosh().square()),
    "mcp": Row(_mcp, lambda t, lam, gamma: (lam - t / gamma).clamp(min=0), (1.0, 1.0)),
    "scad": Row(_scad, _scad_slope, (1.0, 2.0)),
    "truncated_sin": Row(
        _until(math.pi / 2, lambda t, a: (a * t).sin(), 1.0), _until(math.pi / 2, lambda t, a: a * (a * t).cos(), 0.0)
    ),
    "truncated_tan": Row(
        _until(math.pi / 4, lambda t, a: (a * t).tan(), 1.0),
        _until(math.pi / 4, lambda t, a: a / (a * t).cos().square(), 0.0),
    ),
}


class Weight:
    """A weight `g = h(t)` of the distance `t` to the boundary, optionally capped.

    `g = min(h(t), cap)`, and `g' = h'(t)` below the cap, 0 above.

    Args:
        name: a row of `WEIGHTS`: power `t^a`; log_power `log(1 + t)^a`; asinh, sinh, cosh (minus 1), exp (minus 1),
            softplus (minus `log 2`) and tanh of `a t`; mcp and scad with `(lambda, gamma)`; truncated_sin and
            truncated_tan, which stay at 1 once they reach it; one, which does not vanish at the boundary.
        parameters: parameters of the weight, positive; defaults if omitted.
        cap: the maximum of g.
        quantile: sets the cap to this quantile of the finite `h(t)` of the batch, per coordinate. The weight then
            depends on the batch; `at` fixes the cap from a whole data set.

    Raises:
        ValueError: if the name is unknown, the number of parameters is wrong, or a value is out of range.

    Example:
        >>> value, slope = Weight("power", 2.0, cap=1.0)(torch.tensor([0.5, 3.0]))
        >>> value, slope
        (tensor([0.2500, 1.0000]), tensor([1., 0.]))

    Source: Yu, Drton, Shojaie 2019 and 2022, and their R package genscore, whose `min_pow(a, C)` is
        `Weight("power", a, cap=C**a)`.
    """

    def __init__(self, name: str, *parameters: float, cap: Bound | None = None, quantile: float | None = None) -> None:
        if name not in WEIGHTS:
            raise ValueError(f"name of a weight must be one of {', '.join(WEIGHTS)}, got {name!r}.")
        self.name, self.row = name, WEIGHTS[name]
        self.parameters = parameters + self.row.defaults[len(parameters) :]
        self.cap, self.quantile = cap, quantile
        self._check()

    def _check(self) -> None:
        expected = len(self.row.defaults)
        if len(self.parameters) != expected or not all(0 < p < math.inf for p in self.parameters):
            raise ValueError(f'Weight("{self.name}") requires {expected} positive parameter(s), got {self.parameters}.')
        if self.name == "scad" and self.parameters[1] <= 1:
            raise ValueError(f'Weight("scad") requires gamma > 1, got {self.parameters[1]}.')
        if self.cap is not None and self.quantile is not None:
            raise ValueError("a weight takes cap or quantile, got both; omit one.")
        if self.cap is not None and not bool((as_bound(self.cap) > 0).all()):
            raise ValueError(f"cap of a weight must be positive, got {self.cap}.")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"quantile of a weight must be between 0 and 1, got {self.quantile}.")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return `g` and `g'` of distances, in the same shape."""
        value, slope = self.row.value(t, *self.parameters), self.row.slope(t, *self.parameters)
        cap = self.cap if self.quantile is None else _quantile(value, self.quantile)
        if cap is None:
            return value, slope
        cap = as_bound(cap).to(t)
        return torch.minimum(value, cap), torch.where(value < cap, slope, 0.0)

    def at(self, t: Tensor) -> Weight:
        """Return the weight with its cap fixed from the distances `[N, D]` (or `[N]`) of a whole data set."""
        if self.quantile is None:
            return self
        return Weight(self.name, *self.parameters, cap=_quantile(self.row.value(t, *self.parameters), self.quantile))

    def __repr__(self) -> str:
        """Return the constructor call."""
        given = [repr(self.name), *map(repr, self.parameters)]
        given += [f"{key}={getattr(self, key)!r}" for key in ("cap", "quantile") if getattr(self, key) is not None]
        return f"Weight({', '.join(given)})"


def _quantile(value: Tensor, q: float) -> Tensor:
    """Return the quantile of the finite values of each column, or 1 if there are none."""
    finite = torch.where(value.isfinite(), value, math.nan)
    return finite.nanquantile(q, dim=0).nan_to_num(1.0)
