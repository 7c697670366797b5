"""The terms of every function of a basis, and the combination of them that minimises a sliced loss."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm import checks
from fastssm.errors import UnsupportedError
from fastssm.jets import NoRule
from fastssm.jets.tile import expanded

Functions = Callable[[Tensor], Tensor]
"""A module or function of x alone."""


class BasisTerms(NamedTuple):
    """The values and the derivatives of a basis `k_1 ... k_F` along K directions.

    Attributes:
        value: `k_m(x)`, `[B, F]`.
        slope: `v . dk_m/dx`, `[B, F]` or `[K, B, F]`.
        curvature: `v^T (d2k_m/dx2) v`, in the shape of `slope`.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor


def basis_terms(features: Functions, x: Tensor, v: Tensor) -> BasisTerms:
    """Return the first and second derivatives of all functions of a basis along given directions.

    `v . dk_m/dx` and `v^T (d2k_m/dx2) v` for every m, by one forward pass of jets whatever the number of functions: the
    parts of a sliced loss of a linear combination `sum_m alpha_m k_m(x)`.

    Args:
        features: a module or function of x that returns `[B, F]`, each row from that row of x alone; all of its
            operations must have rules of jets.
        x: points `[B, ...]`.
        v: directions `[B, ...]`, or `[K, B, ...]` for K of them at each point.

    Returns:
        `BasisTerms`, differentiable once in x and in all parameters, not in v.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or devices do not match.
        UnsupportedError: if an operation has no rule, or the features do not depend on x.

    Example:
        >>> basis = nn.Sequential(nn.Linear(3, 16), nn.Tanh())
        >>> x = torch.randn(5, 3)
        >>> basis_terms(basis, x, torch.ones_like(x)).curvature.shape
        torch.Size([5, 16])

    Source: Bettencourt et al. 2019, "Taylor-mode automatic differentiation for higher-order derivatives in JAX".
    """
    given, each = _checked(features, x, v)
    found = _expanded(features, x, given)
    return found if each else BasisTerms(found.value, found.slope[0], found.curvature[0])


def basis_coefficients(
    features: Functions,
    x: Tensor,
    v: Tensor,
    *,
    base: Functions | None = None,
    target: Tensor | None = None,
    ridge: float | Tensor = 1e-3,
) -> Tensor:
    r"""Return the combination of a basis that minimises a sliced loss, in closed form.

    For `log p = sum_m alpha_m k_m + b + const` the loss is quadratic in alpha. With the mean over samples and
    directions, `g_m = v . dk_m/dx`, `h_m = v^T (d2k_m/dx2) v` and `r = v . db/dx`,

        alpha = -(mean(g g^T) + ridge I)^-1 mean(h + g r)

    minimises `mean( v^T (d2 log p/dx2) v + (v . d log p/dx)^2 / 2 ) + ridge |alpha|^2 / 2`, the loss of
    `fastssm.sliced_loss` without variance reduction; along `sqrt(D) e_i` for every i, that of `fastssm.exact_loss`.
    With a target t it minimises `mean( (v . d log p/dx - t)^2 / 2 )`, whose `h` is zero and `r` is `v . db/dx - t`: for
    `x + sigma z` and `t = -v . z / sigma`, the denoising loss along v.

    Args:
        features: the basis, as for `basis_terms`.
        x: data `[B, ...]`, or noisy data with a target.
        v: directions `[B, ...]` or `[K, B, ...]` with `E[v v^T] = I`.
        base: b, the logarithm of a base density, a function of x that returns `[B]`; zero if None.
        target: t, `[B]`, or `[K, B]` for K directions.
        ridge: penalty of alpha, a positive number or a tensor of one value, in the units of `g^2`.

    Returns:
        `alpha`, `[F]`, differentiable in x, target, ridge and all parameters.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or devices do not match, there is no sample, or the ridge is not positive and finite.
        UnsupportedError: if an operation has no rule, or the features do not depend on x.

    Example:
        >>> family = fastssm.nn.KernelExpFamily(torch.randn(20, 2))
        >>> x = torch.randn(100, 2)
        >>> alpha = basis_coefficients(family.features, x, torch.randn_like(x), base=family.log_base)
        >>> fastssm.sliced_loss(family, x, cond=alpha[None]).backward()  # through alpha too

    Source: Wenliang et al. 2019, "Learning deep kernels for exponential family densities", proposition 3; Song et al.
    2019, "Sliced score matching", section 6.1.1.
    """
    given, each = _checked(features, x, v)
    size = _check_ridge(ridge)
    if len(x) == 0:
        raise ValueError(
            f"x must hold at least one sample, got shape {tuple(x.shape)}; the coefficients are of a mean."
        )
    wanted = None if target is None else _check_target(target, x, len(given) if each else None)
    found = _expanded(features, x, given)
    g, h = found.slope.flatten(0, 1), found.curvature.flatten(0, 1)
    along, curved = -wanted if wanted is not None else 0.0, h.mean(0) if wanted is None else 0.0
    if base is not None:
        along = along + _expanded(base, x, given).slope.flatten()
    pull = curved + (g * torch.as_tensor(along, dtype=g.dtype, device=g.device).reshape(-1, 1)).mean(0)
    eye = torch.eye(g.shape[1], dtype=g.dtype, device=g.device)
    alpha: Tensor = torch.linalg.solve(g.mT @ g / len(g) + size * eye, -pull)
    return alpha


def _expanded(functions: Functions, x: Tensor, v: Tensor) -> BasisTerms:
    importlib.import_module("fastssm.jets.table")  # the rules, which take time to register
    try:
        value, slope, curvature = expanded(functions, x, v)
    except NoRule as error:
        raise UnsupportedError(
            f"{error}; write the features with functions that have one, see docs/your_network.md."
        ) from error
    if value.ndim not in (1, 2) or len(value) != len(x):
        raise ValueError(
            f"the features must be [B, F], one row for each of the {len(x)} samples, and a base [B]; got "
            f"{tuple(value.shape)}; flatten the features of a sample."
        )
    return BasisTerms(*[checks.widened(t) for t in (value, slope, curvature)])


def _checked(features: object, x: Tensor, v: Tensor) -> tuple[Tensor, bool]:
    """Return the directions `[K, B, ...]`, and whether there is an axis of directions in those that were given."""
    checks.check_model(features)
    checks.check_data(x)
    given = checks.check_directions(v, x, None)
    return given.reshape(len(given), *x.shape), v.ndim > x.ndim


def _check_ridge(ridge: float | Tensor) -> float | Tensor:
    if isinstance(ridge, bool) or not isinstance(ridge, int | float | Tensor):
        raise TypeError(f"ridge must be a positive number or a tensor of one value, got {type(ridge).__name__}.")
    if isinstance(ridge, Tensor) and ridge.numel() != 1:
        raise ValueError(f"ridge must be one positive value, got a tensor of shape {tuple(ridge.shape)}.")
    size = float(ridge.detach()) if isinstance(ridge, Tensor) else ridge
    if not 0 < size < math.inf:
        raise ValueError(f"ridge must be positive and finite, got {size}; try 1e-3.")
    return ridge


def _check_target(target: object, x: Tensor, count: int | None) -> Tensor:
    """Return the targets of all directions as one row."""
    shape = (len(x),) if count is None else (count, len(x))
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}; use torch.as_tensor.")
    if target.shape != shape:
        raise ValueError(
            f"target must have shape {shape}, one value for each direction of v at each sample, got "
            f"{tuple(target.shape)}; for denoising use -(v * z).flatten(-x.ndim + 1).sum(-1) / sigma."
        )
    return target.flatten()
