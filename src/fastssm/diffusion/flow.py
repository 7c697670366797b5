"""The likelihood of a diffusion model by its probability-flow ODE."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastssm import checks
from fastssm.diffusion.model import FixedTimeArguments, Unit, check_sde, score_model
from fastssm.diffusion.ode import SOLVERS, Solver, solve
from fastssm.diffusion.sampling import last_time
from fastssm.diffusion.simulation import drift_and_divergence
from fastssm.diffusion.times import time_density
from fastssm.directions import Directions
from fastssm.operators import choose_directions
from fastssm.options import DirectionOptions, Model, takes

Trace = Literal["exact", "sliced"]


class FlowArguments(FixedTimeArguments, DirectionOptions, total=False):
    """Keyword arguments of `flow_log_prob`.

    Attributes:
        steps: number of steps of the built-in solvers, even in the logarithm of the noise ratio where that is known.
        solver: "heun" or "rk4", built in, or "torchdiffeq", if that package is installed.
        solver_options: keyword arguments of `torchdiffeq.odeint`.
        trace: "exact", or "sliced" for Hutchinson's estimate along directions fixed for the whole path.
        unit: "nats", or "bits" for minus the log density in bits per dimension.
    """

    steps: int
    solver: Solver
    solver_options: dict[str, Any] | None
    trace: Trace
    unit: Unit


@takes(FlowArguments, steps=100, solver="heun", trace="exact", unit="nats", predicts="score")
@torch.no_grad()
def flow_log_prob(model: Model, x: Tensor, **options: Unpack[FlowArguments]) -> Tensor:
    """Evaluate the log density of a model's probability-flow ODE, which maps noise to data without randomness.

    `log p(x) = log N(x_T; 0, prior_std^2 I) + int_{t_min}^T div(f - g^2 s / 2) dt` along `dx/dt = f - g^2 s / 2`.
    Its divergence is `div f - g^2 tr J / 2`, whose last term comes from the engine in the same sweep as s.

    Args:
        model: a model as for `elbo_loss`.
        x: data `[B, ...]`, taken for states at time `t_min`.
        options: keyword arguments of `FlowArguments`.

    Returns:
        The log density `[B]`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        ImportError: if torchdiffeq is requested and not installed.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> flow_log_prob(net, torch.randn(5, 2), sde=VP(), steps=10).shape
        torch.Size([5])

    Source: Song et al. 2021, appendix D.2; Chen et al. 2018, "Neural ordinary differential equations", theorem 1.
    """
    sde, steps, solver = check_sde(options["sde"]), options["steps"], options["solver"]
    trace, unit = options["trace"], options["unit"]
    for name, value, choices in (
        ("trace", trace, get_args(Trace)),
        ("unit", unit, get_args(Unit)),
        ("solver", solver, SOLVERS),
    ):
        checks.check_choice(name, value, choices)
    checks.check_count("steps", steps)
    first = last_time(sde, options["t_min"])
    net = score_model(model, x, first, "terms", options)
    directions = _directions(net.request.x, trace, options)
    state = checks.widened(net.request.x).flatten(1)
    start = torch.cat([state, torch.zeros_like(state[:, :1])], 1)  # the last column gathers the divergence

    def velocity(t: Tensor, both: Tensor) -> Tensor:
        now, point = t.expand(len(both)), both[:, :-1].reshape(x.shape)
        found = net.terms(point, now, directions)
        drift, divergence = drift_and_divergence(sde, point, now, directions)
        half = 0.5 * sde.diffusion(now).square()
        moved = drift.flatten(1) - half[:, None] * found.score
        return torch.cat([moved, (divergence - half * found.projected_jacobian)[:, None]], 1)

    end = solve(velocity, start, time_density(sde, first=first), (0.0, 1.0), steps, solver, options["solver_options"])
    nats = sde.prior_log_prob(end[:, :-1]) + end[:, -1]
    return nats if unit == "nats" else -nats / (math.log(2.0) * state.shape[1])


def _directions(x: Tensor, trace: Trace, options: DirectionOptions) -> Directions:
    """Return the directions of the whole path."""
    if trace == "sliced":
        return choose_directions(x, None, options["n_projections"], options["projection"], options["generator"])
    if options["n_projections"] is not None:
        raise ValueError('n_projections is for trace="sliced"; leave it out.')
    return Directions(math.prod(x.shape[1:]))
