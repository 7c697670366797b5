"""Ordinary differential equations with steps that suit a diffusion, or by torchdiffeq where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastssm.diffusion.times import TimeDensity

Solver = Literal["heun", "rk4", "torchdiffeq"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
Velocity = Callable[[Tensor, Tensor], Tensor]
Keep = Callable[[Tensor, Tensor], Tensor]  # from the states after a step and before it to states in a domain


def solve(
    velocity: Velocity,
    x: Tensor,
    clock: TimeDensity,
    ends: tuple[float, float],
    steps: int,
    solver: str = "heun",
    options: dict[str, Any] | None = None,
    keep: Keep | None = None,
) -> Tensor:
    """Return the solution of `dx/dt = velocity(t, x)` from one quantile of the clock to another.

    The variable is the mass `u` of the clock's density q, `dx/du = velocity(t, x) / q(t)`: for a linear SDE the
    logarithm of the noise ratio, along which the probability flow is smooth from end to end. `keep` returns states to a
    domain.

    Raises:
        ImportError: if torchdiffeq is requested and not installed.
        ValueError: for options that the solver does not take, or a domain with torchdiffeq.
    """

    def moved(u: Tensor, x: Tensor) -> Tensor:
        t = clock.quantile(u.reshape(1))
        return clock.inverse(t) * velocity(t, x)

    nodes = torch.linspace(*ends, steps + 1, dtype=x.dtype, device=x.device)
    if solver == "torchdiffeq":
        if keep is not None:
            raise ValueError(
                'domain= needs solver="heun" or "rk4", which return to the domain after each step; the steps of '
                "torchdiffeq cannot be changed."
            )
        return _torchdiffeq(moved, x, nodes, options or {})
    if options:
        raise ValueError(f'solver_options are for solver="torchdiffeq", got {options} for "{solver}"; leave them out.')
    step = _heun if solver == "heun" else _rk4
    for now, following in pairwise(nodes):
        x = step(moved, now, following - now, x, keep or (lambda after, before: after))
    return x


def _heun(velocity: Velocity, t: Tensor, size: Tensor, x: Tensor, keep: Keep) -> Tensor:
    """Take one step of order 2."""
    first = velocity(t, x)
    return keep(x + 0.5 * size * (first + velocity(t + size, keep(x + size * first, x))), x)


def _rk4(velocity: Velocity, t: Tensor, size: Tensor, x: Tensor, keep: Keep) -> Tensor:
    """Take one step of order 4."""
    half = 0.5 * size
    a = velocity(t, x)
    b = velocity(t + half, keep(x + half * a, x))
    c = velocity(t + half, keep(x + half * b, x))
    d = velocity(t + size, keep(x + size * c, x))
    return keep(x + size / 6.0 * (a + 2.0 * b + 2.0 * c + d), x)


def _torchdiffeq(velocity: Velocity, x: Tensor, nodes: Tensor, options: dict[str, Any]) -> Tensor:
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ImportError(
            'solver="torchdiffeq" needs the package torchdiffeq, which is not installed; pip install torchdiffeq, or '
            'use solver="heun" or "rk4", which are built in.'
        ) from None
    found: Tensor = odeint(velocity, x, nodes[[0, -1]], **options)[-1]
    return found
