"""Second derivatives of a scalar network: its Laplacian, and its Hessian's quadratic form along given directions."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor
from typing_extensions import TypedDict, Unpack

from fastssm import backends, checks
from fastssm.directions import Directions
from fastssm.operators.jacobian import OperatorArguments, Pair
from fastssm.operators.terms import count_of, exact_or_sliced
from fastssm.options import EngineOptions, Model, ModelTensors, takes


class ComponentOption(TypedDict, total=False):
    """Which output is differentiated.

    Attributes:
        component: the index of the output to differentiate, of a model that returns several, `[B, F]`.
    """

    component: int | None


class LaplacianArguments(OperatorArguments, ComponentOption, total=False):
    """Keyword arguments of `laplacian`."""


class HvpArguments(ModelTensors, ComponentOption, EngineOptions, total=False):
    """Keyword arguments of `hvp_form`."""


@overload
def laplacian(
    model: Model, x: Tensor, *, return_gradient: Literal[False] = False, **options: Unpack[LaplacianArguments]
) -> Tensor: ...


@overload
def laplacian(
    model: Model, x: Tensor, *, return_gradient: Literal[True], **options: Unpack[LaplacianArguments]
) -> Pair: ...


@overload
def laplacian(
    model: Model, x: Tensor, *, return_gradient: bool, **options: Unpack[LaplacianArguments]
) -> Tensor | Pair: ...


@takes(LaplacianArguments)
def laplacian(
    model: Model, x: Tensor, *, return_gradient: bool = False, **options: Unpack[LaplacianArguments]
) -> Tensor | Pair:
    """Return the Laplacian of a scalar network: local energies, and the residuals of differential equations.

    `lap f = sum_i d2f/dx_i^2 = E[ v^T (d2f/dx2) v ]`, of the output `f` itself: for an energy, `log p = -f + const`,
    the Laplacian of the log-density is minus this.

    Args:
        model: a scalar function `f`, output `[B]` or `[B, 1]`, or `[B, F]` with `component`; called as
            `model(x, *cond)`.
        x: points `[B, ...]`.
        options: keyword arguments of `LaplacianArguments`.
        return_gradient: return `(laplacian, df/dx)` of one pass, as the local energy
            `-(lap log psi + |d log psi / dx|^2) / 2` wants them.

    Returns:
        The Laplacian `[B]`, or the pair. Differentiable once in parameters, x and cond (on the reference backend as
        often as the module is).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or directions are given with `exact=True`.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> log_psi = fastssm.nn.MLP(6, [32, 32], activation="tanh")
        >>> lap, gradient = laplacian(log_psi, torch.randn(10, 6), return_gradient=True)
        >>> kinetic = -(lap + gradient.square().sum(1)) / 2

    Source: Li et al. 2024, "A computational framework for neural network-based variational Monte Carlo with forward
    Laplacian"; Dangel et al. 2025, "Collapsing Taylor mode automatic differentiation".
    """
    try:
        request = _request(model, x, options)
        count = count_of(x, options, exact=options["exact"] is not False)
        chosen = backends.select(request, "terms", options["backend"], count)
        found = chosen.terms(request, exact_or_sliced(x, options["exact"], options))
    except ValueError as error:
        raise checks.in_words_of("laplacian", error, x) from error.__cause__
    return (-found.projected_jacobian, -found.score.reshape(x.shape)) if return_gradient else -found.projected_jacobian


@takes(HvpArguments)
def hvp_form(model: Model, x: Tensor, v: Tensor, **options: Unpack[HvpArguments]) -> Tensor:
    """Return the quadratic form of the Hessian of a scalar network along given directions.

    `v^T (d2f/dx2) v`, of the output `f` itself (no sign of a log-density).

    Args:
        model: a scalar function `f`, output `[B]` or `[B, 1]`, or `[B, F]` with `component`; called as
            `model(x, *cond)`.
        x: points `[B, ...]`.
        v: directions `[B, ...]`, or `[M, B, ...]` for M of them at each point.
        options: keyword arguments of `HvpArguments`.

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
    try:
        request = _request(model, x, options)
        given, each = checks.check_directions(v, x, None), v.ndim > x.ndim
        chosen = backends.select(request, "each" if each else "terms", options["backend"], len(given))
        return -chosen.terms(request, Directions(len(given), given), each).projected_jacobian
    except ValueError as error:
        raise checks.in_words_of("hvp_form", error, x) from error.__cause__


def _request(model: Model, x: Tensor, options: LaplacianArguments | HvpArguments) -> backends.Request:
    return backends.make_request(
        model, x, options["cond"], "energy", options["precision"], component=options["component"]
    )
