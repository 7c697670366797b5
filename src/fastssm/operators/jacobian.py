"""The Jacobian of a vector field: its trace for flows, its diagonal for causal discovery."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor, nn

from fastssm import backends
from fastssm.directions import Directions
from fastssm.operators.terms import Cond, exact_or_sliced


@overload
def divergence(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = False,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_value: Literal[False] = False,
) -> Tensor: ...


@overload
def divergence(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = False,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_value: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def divergence(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = False,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_value: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the divergence of a vector field: what a flow adds to its log-density.

    `div f = tr df/dx = E[ v^T (df/dx) v ]`, exactly along the D coordinates, or estimated along random `v`.

    Args:
        model: a field `f`, whose output has the shape of x; called as `model(x, *cond)`.
        x: points `[B, ...]`.
        cond: further arguments, such as the time; never differentiated as data.
        exact: take every coordinate instead of random directions: D + 1 rows of work in place of M + 1.
        n_projections: M, the number of random directions per sample; 1 if None.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`. An adaptive ODE solver needs the same `v` at
            every evaluation of a path: draw it once (`fastssm.directions.draw`) and pass it.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `fastssm.sliced_loss`.
        return_value: return `(f(x), divergence)` of one pass.

    Returns:
        The divergence `[B]`, or the pair. Differentiable once in parameters, x and cond (on the reference backend as
        often as the module is); gradients that nobody needs are not computed.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> field = fastssm.nn.MLP(2, [16, 16], 2, "tanh", fourier_time=True)
        >>> x, t = torch.randn(5, 2), torch.rand(5)
        >>> velocity, change = divergence(field, x, cond=t, exact=True, return_value=True)  # d log p / dt = -change
        >>> change.shape
        torch.Size([5])

    Source: Grathwohl et al. 2019, "FFJORD", equation 8; Hutchinson 1990.
    """
    request = backends.make_request(model, x, cond, "score", precision)
    chosen = backends.select(request, backend)
    found = chosen.terms(request, exact_or_sliced(x, exact, v, n_projections, projection, generator))
    return (found.score.reshape(x.shape), found.projected_jacobian) if return_value else found.projected_jacobian


def jacobian_diag(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    kind: str = "auto",
    backend: str = "auto",
    precision: str = "full",
) -> Tensor:
    """Return the diagonal of the Jacobian of the score, exactly.

    `ds_i/dx_i` for a score net `s`; for an energy, `s = -dE/dx`, so it is `-d2E/dx_i^2`. In causal discovery, a leaf
    of the graph is a variable whose entry has the least variance over the data.

    Args:
        model: a score or any vector field (output like x), or an energy (`[B]` or `[B, 1]`, `log p = -E + const`).
        x: data `[B, ...]`.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score", or "auto" by the shape of the output.
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `fastssm.sliced_loss`.

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
    request = backends.make_request(model, x, cond, kind, precision, each=True)
    chosen = backends.select(request, backend)
    dim = math.prod(x.shape[1:])
    along = chosen.terms(request, Directions(dim)).projected_jacobian  # along sqrt(D) e_i
    return (along / dim).t().reshape(x.shape)
