"""The Jacobian of a vector field: its trace for flows, its diagonal for causal discovery."""

from __future__ import annotations

import math
from typing import Literal, overload

from torch import Tensor
from typing_extensions import Unpack

from fastssm import backends, checks
from fastssm.directions import Directions
from fastssm.operators.terms import count_of, exact_or_sliced
from fastssm.options import DirectionArguments, EngineOptions, Model, ModelArguments, ModelTensors, takes

Pair = tuple[Tensor, Tensor]


class OperatorArguments(ModelTensors, DirectionArguments, EngineOptions, total=False):
    """Keyword arguments of the operators that are traces.

    Attributes:
        exact: take every coordinate, in D + 1 rows of work, or estimate along random directions, in M + 1. If None,
            exact unless `n_projections` or `v` asks for directions; `exact=False` alone takes one.
    """

    exact: bool | None


@overload
def divergence(
    model: Model, x: Tensor, *, return_value: Literal[False] = False, **options: Unpack[OperatorArguments]
) -> Tensor: ...


@overload
def divergence(
    model: Model, x: Tensor, *, return_value: Literal[True], **options: Unpack[OperatorArguments]
) -> Pair: ...


@overload
def divergence(
    model: Model, x: Tensor, *, return_value: bool, **options: Unpack[OperatorArguments]
) -> Tensor | Pair: ...


@takes(OperatorArguments)
def divergence(
    model: Model, x: Tensor, *, return_value: bool = False, **options: Unpack[OperatorArguments]
) -> Tensor | Pair:
    """Return the divergence of a vector field: what a flow adds to its log-density.

    `div f = tr df/dx = E[ v^T (df/dx) v ]`, exactly along the D coordinates, or estimated along directions `v`.

    Args:
        model: a field `f`, whose output has the shape of x; called as `model(x, *cond)`.
        x: points `[B, ...]`.
        options: keyword arguments of `OperatorArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`. An adaptive ODE solver needs the same `v` at
            every evaluation of a path: draw it once (`fastssm.directions.draw`) and pass it.
        return_value: return `(f(x), divergence)` of one pass.

    Returns:
        The divergence `[B]`, or the pair. Differentiable once in parameters, x and cond (on the reference backend as
        often as the module is); gradients that are not needed are not computed.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or directions are given with `exact=True`.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> field = fastssm.nn.MLP(2, [16, 16], 2, "tanh", fourier_time=True)
        >>> x, t = torch.randn(5, 2), torch.rand(5)
        >>> velocity, change = divergence(field, x, cond=t, return_value=True)  # d log p / dt = -change
        >>> change.shape
        torch.Size([5])

    Source: Grathwohl et al. 2019, "FFJORD", equation 8; Hutchinson 1990.
    """
    try:
        request = backends.make_request(model, x, options["cond"], "score", options["precision"])
        count = count_of(x, options, exact=options["exact"] is not False)
        chosen = backends.select(request, "terms", options["backend"], count)
        found = chosen.terms(request, exact_or_sliced(x, options["exact"], options))
    except ValueError as error:
        raise checks.in_words_of("divergence", error, x) from error.__cause__
    return (found.score.reshape(x.shape), found.projected_jacobian) if return_value else found.projected_jacobian


@takes(ModelArguments)
def jacobian_diag(model: Model, x: Tensor, **options: Unpack[ModelArguments]) -> Tensor:
    """Return the diagonal of the Jacobian of the score, exactly.

    `ds_i/dx_i` for a score net `s`; for an energy, `s = -dE/dx`, so it is `-d2E/dx_i^2`. In causal discovery, a leaf
    of the graph is a variable whose entry has the least variance over the data.

    Args:
        model: a score or any vector field (output like x), or an energy (`[B]` or `[B, 1]`, `log p = -E + const`).
        x: data `[B, ...]`.
        options: keyword arguments of `ModelArguments`.

    Returns:
        The diagonal, in the shape of x. Differentiable once in parameters, x and cond.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> score = fastssm.nn.MLP(3, [16, 16], 3)
        >>> leaf = jacobian_diag(score, torch.randn(50, 3)).var(dim=0).argmin()

    Source: Rolland et al. 2022, "Score matching enables causal discovery of nonlinear additive noise models" (SCORE);
    Sanchez et al. 2023 (DiffAN).
    """
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    dim = math.prod(x.shape[1:])
    chosen = backends.select(request, "each", options["backend"], dim)
    along = chosen.terms(request, Directions(dim), each=True).projected_jacobian  # along sqrt(D) e_i
    return (along / dim).t().reshape(x.shape)
