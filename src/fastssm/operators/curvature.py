"""Second derivatives of a scalar network: its Laplacian, and its Hessian's quadratic form along given directions."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.directions import Directions
from fastssm.operators.terms import Cond, exact_or_sliced


@overload
def laplacian(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = True,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_gradient: Literal[False] = False,
) -> Tensor: ...


@overload
def laplacian(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = True,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_gradient: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def laplacian(
    model: nn.Module,
    x: Tensor,
    *,
    cond: Cond = None,
    exact: bool = True,
    n_projections: int | None = None,
    v: Tensor | None = None,
    projection: str = "rademacher",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_gradient: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the Laplacian of a scalar network: local energies, and the residuals of differential equations.

    `lap f = sum_i d2f/dx_i^2 = E[ v^T (d2f/dx2) v ]`, of the output `f` itself: for an energy, `log p = -f + const`,
    the Laplacian of the log-density is minus this.

    Args:
        model: a scalar function `f`, output `[B]` or `[B, 1]`; called as `model(x, *cond)`.
        x: points `[B, ...]`.
        cond: further arguments, such as the time; never differentiated as data.
        exact: take every coordinate; False estimates along random directions.
        n_projections: M, the number of random directions per sample; 1 if None. Needs `exact=False`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`. Needs `exact=False`.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `fastssm.sliced_loss`.
        return_gradient: return `(laplacian, df/dx)` of one pass, as the local energy
            `-(lap log psi + |d log psi / dx|^2) / 2` wants them.

    Returns:
        The Laplacian `[B]`, or the pair. Differentiable once in parameters, x and cond (on the reference backend as
        often as the module is).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or directions are given for the exact Laplacian.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> log_psi = fastssm.nn.MLP(6, [32, 32], activation="tanh")
        >>> lap, gradient = laplacian(log_psi, torch.randn(10, 6), return_gradient=True)
        >>> kinetic = -(lap + gradient.square().sum(1)) / 2

    Source: Li et al. 2024, "A computational framework for neural network-based variational Monte Carlo with forward
    Laplacian"; Dangel et al. 2025, "Collapsing Taylor mode automatic differentiation".
    """
    request = backends.make_request(model, x, cond, "energy", precision)
    chosen = backends.select(request, backend)
    found = chosen.terms(request, exact_or_sliced(x, exact, v, n_projections, projection, generator))
    return (-found.projected_jacobian, -found.score.reshape(x.shape)) if return_gradient else -found.projected_jacobian


def hvp_form(
    model: nn.Module, x: Tensor, v: Tensor, *, cond: Cond = None, backend: str = "auto", precision: str = "full"
) -> Tensor:
    """Return the quadratic form of the Hessian of a scalar network along given directions.

    `v^T (d2f/dx2) v`, of the output `f` itself (no sign of a log-density).

    Args:
        model: a scalar function `f`, output `[B]` or `[B, 1]`; called as `model(x, *cond)`.
        x: points `[B, ...]`.
        v: directions `[B, ...]`, or `[M, B, ...]` for M of them at each point.
        cond: further arguments, never differentiated as data.
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `fastssm.sliced_loss`.

    Returns:
        `[B]`, or `[M, B]`. Differentiable once in parameters, x and cond, not in v.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> f = fastssm.nn.MLP(3, [16, 16], activation="silu")
        >>> x = torch.randn(5, 3)
        >>> hvp_form(f, x, torch.ones_like(x)).shape
        torch.Size([5])

    Source: Bettencourt et al. 2019, "Taylor-mode automatic differentiation for higher-order derivatives in JAX".
    """
    request = backends.make_request(model, x, cond, "energy", precision)
    given = checks.check_directions(v, x, None)
    request = request._replace(each=v.ndim > x.ndim)
    return -backends.select(request, backend).terms(request, Directions(len(given), given)).projected_jacobian
