"""The terms that score-matching losses are made of, and the directions that they are taken along."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastssm import backends, checks
from fastssm.directions import PROJECTIONS, Directions, check_projection, new_seed
from fastssm.options import DirectionArguments, Model, ModelArguments, Projection, takes


class TermsArguments(ModelArguments, DirectionArguments, total=False):
    """Keyword arguments of `terms`."""


class Terms(NamedTuple):
    """The terms of score-matching losses, for the score `s = d log p / dx` and its Jacobian `J`.

    Attributes:
        projected_score: `v_m . s`, `[M, B]`.
        projected_jacobian: `mean_m v_m^T J v_m`, `[B]`.
        score_sqnorm: `|s|^2`, `[B]`.
        score: `s`, in the shape of x.
    """

    projected_score: Tensor
    projected_jacobian: Tensor
    score_sqnorm: Tensor
    score: Tensor


def choose_directions(
    x: Tensor,
    v: object = None,
    n_projections: int | None = None,
    projection: Projection = "rademacher",
    generator: torch.Generator | None = None,
) -> Directions:
    """Return the directions of a call: the given ones, or `n_projections` random ones (1 by default).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or names do not fit.
    """
    check_projection(projection)
    checks.check_generator(generator)
    if n_projections is not None:
        checks.check_count("n_projections", n_projections)
    if v is not None:
        given = checks.check_directions(v, x, n_projections)
        return Directions(given.shape[0], given)
    count = 1 if n_projections is None else n_projections
    if projection == "rademacher":
        return Directions(count, seed=new_seed(x.device, generator))
    like = checks.widened(x.detach().flatten(1))
    return Directions(count, PROJECTIONS[projection]((count, *like.shape), like, generator))


def directions_of(x: Tensor, options: DirectionArguments) -> Directions:
    """Return the directions that the options of a call name."""
    return choose_directions(x, options["v"], options["n_projections"], options["projection"], options["generator"])


def count_of(x: Tensor, options: DirectionArguments, exact: bool = False) -> int:
    """Return how many directions a call takes, before its arguments are checked."""
    v, n_projections = options["v"], options["n_projections"]
    if isinstance(v, Tensor):
        return len(v) if v.ndim > x.ndim else 1
    if n_projections is None:
        return math.prod(x.shape[1:]) if exact else 1
    return n_projections if isinstance(n_projections, int) else 1


def exact_or_sliced(x: Tensor, exact: bool | None, options: DirectionArguments) -> Directions:
    """Return every coordinate's direction, `sqrt(D) e_i`, or those of `directions_of` if they are asked for.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes or names do not fit, or directions are given with `exact=True`.
    """
    checks.check_choice("exact", exact, (None, True, False))
    v, n_projections = options["v"], options["n_projections"]
    asked = v is not None or n_projections is not None
    if exact and asked:
        given = "v" if v is not None else f"n_projections={n_projections}"
        raise ValueError(
            f"exact=True takes every coordinate direction, got {given} too; leave exact=True out, or pass exact=False, "
            "to use it."
        )
    if exact is False or asked:
        return directions_of(x, options)
    check_projection(options["projection"])
    return Directions(math.prod(x.shape[1:]))


@takes(TermsArguments)
def terms(model: Model, x: Tensor, **options: Unpack[TermsArguments]) -> Terms:
    """Return the differentiable terms that sliced losses are made of, for algebra of your own.

    `projected_score = v_m . s`, `projected_jacobian = mean_m v_m^T J v_m`, `score_sqnorm = |s|^2`, `score = s`, with
    `s = d log p / dx = -dE/dx` and `J = ds/dx`. With `E[v v^T] = I`, the mean of `projected_jacobian` is `tr J`.

    Args:
        model: an energy `E` (`[B]` or `[B, 1]`, `log p = -E + const`) or a score (like x).
        x: data `[B, ...]`.
        options: keyword arguments of `TermsArguments`.

    Returns:
        `Terms`. On the engines and jets they can be differentiated once.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> t = terms(net, torch.randn(16, 2))
        >>> loss = (t.projected_jacobian + 0.5 * t.score_sqnorm).mean()  # SSM-VR, written out
        >>> loss.backward()

    Source: Song et al. 2019, "Sliced score matching", equations 7 and 8.
    """
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    chosen = backends.select(request, "terms", options["backend"], count_of(x, options))
    found = chosen.terms(request, directions_of(x, options))
    return Terms(
        found.projected_score, found.projected_jacobian, found.score.square().sum(1), found.score.reshape(x.shape)
    )


@takes(ModelArguments)
def score(model: Model, x: Tensor, **options: Unpack[ModelArguments]) -> Tensor:
    """Return the score of an energy or a score net, differentiable.

    `s = d log p / dx = -dE/dx`, or the output of a score net.

    Args:
        model: an energy `E` (`[B]` or `[B, 1]`, `log p = -E + const`) or a score (like x).
        x: data `[B, ...]`.
        options: keyword arguments of `ModelArguments`.
        backend: the name of the one that must run; "auto" takes the cpu engine for an energy, and where no gradient
            is wanted, else plain autograd. The engine's memory does not grow with the batch; autograd keeps a tape, and
            can be differentiated again.

    Returns:
        The score in the shape of x, float32 for half-precision data. Every parameter of an energy gets a gradient, zero
        where it has no influence; on the engines the score can be differentiated once.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> score(net, torch.randn(16, 2)).square().mean().backward()

    Source: Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching", section 2.
    """
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    return backends.select(request, "score", options["backend"]).score(request).reshape(x.shape)
