"""Score matching on the sphere and on the torus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.backends import Backend, Request
from fastssm.backends.entries.flat import without_autocast
from fastssm.directions import Directions
from fastssm.losses import generalized
from fastssm.losses.generalized import Geometry, Metric, rows_of
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, finish
from fastssm.operators import directions_of
from fastssm.options import Model, SlicedOptions, SlicedTensors, takes

Manifold = Literal["sphere", "torus"]
_OFF_SPHERE = 1e-4  # what the length of a row may differ from one: points are often normalised in float32


class ManifoldOptions(SlicedOptions, total=False):
    """Options of `manifold_loss`.

    Attributes:
        manifold: "sphere", unit vectors of D coordinates, or "torus", D angles.
        period: of the angles; a number.
        exact: take the exact trace from D directions per sample, without noise; then leave out v and n_projections.
    """

    manifold: Required[Manifold]
    period: float
    exact: bool


class ManifoldArguments(SlicedTensors, ManifoldOptions, total=False):
    """Keyword arguments of `manifold_loss`."""


@overload
def manifold_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[ManifoldArguments]
) -> Tensor: ...


@overload
def manifold_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[ManifoldArguments]
) -> LossAndTerms: ...


@overload
def manifold_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[ManifoldArguments]
) -> Tensor | LossAndTerms: ...


@takes(ManifoldArguments, period=2 * math.pi, exact=False)
def manifold_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[ManifoldArguments]
) -> Tensor | LossAndTerms:
    r"""Score matching for directions and angles: data on the unit sphere, or on the torus.

    On the sphere, with `P = I - x x^T`, `loss_b = |P s|^2 / 2 + tr(P J) - (D - 1) x . s`. This is
    `|grad log p|^2 / 2 + lap log p` with the gradient and the Laplace-Beltrami operator of the sphere, whatever the
    model does off the sphere. On the torus, it is `|s|^2 / 2 + tr J`. Neither manifold has a boundary, so no boundary
    term is left. Sliced, the second derivatives are those along great circles with velocity `w = P v`,
    `mean_m( w_m . J w_m - |w_m|^2 x . s )`, on the torus along straight lines, `w = v`. Without variance reduction the
    first term is `mean_m (w_m . s)^2 / 2`.

    The density is that with respect to the surface of the manifold. The model of angles must be periodic: begin it with
    `fastssm.nn.Periodic`, or make it of sines and cosines. The loss checks this at the first sample, for each angle.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`, on the D coordinates; of a score on the sphere, only
            the part tangent to the sphere counts.
        x: unit vectors `[B, ...]`, as seen when flattened to `[B, D]`, or angles `[B, ...]` from any period. On the
            sphere, x must not require grad.
        options: keyword arguments of `ManifoldArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, before they are projected.
        variance_reduced: use `|P s|^2` in place of `(w . s)^2`.
        return_terms: return `(loss, LossTerms)`; `square` then holds all but the trace.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, a row is not a unit vector, or a model of angles is not
            periodic.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> x = nn.functional.normalize(torch.randn(128, 3), dim=1)
        >>> manifold_loss(net, x, manifold="sphere").backward()
        >>> net = nn.Sequential(fastssm.nn.Periodic(), nn.Linear(4, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> manifold_loss(net, 6.28 * torch.rand(128, 2), manifold="torus").backward()

    Source: Mardia, Kent, Laha 2016, "Score matching estimators for directional distributions"; Hyvarinen 2005.
    """
    checks.check_choice("manifold", options["manifold"], get_args(Manifold))
    period = _check_period(options["period"])
    sphere = options["manifold"] == "sphere"
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"], straight=sphere)
    reduced = check_reduction(x, options["weight"], options["reduction"])
    generalized.check_exact(options["exact"], options["v"], options["n_projections"])
    chosen = backends.select(request, "terms", options["backend"])
    if sphere:
        generalized.check_held_constant(x)
        _check_unit(request.x)
    else:
        _check_periodic(chosen, request, period)
    directions = None if options["exact"] else directions_of(x, options)
    rows = rows_of(request.x)
    metric: Geometry = Metric(rows.new_ones(rows.shape[1]), None, diagonal=True)
    if sphere:
        with without_autocast(x):
            metric, directions = _sphere(rows, directions)
    terms = generalized.terms(chosen, request, metric, directions, options["variance_reduced"])
    return finish(*terms, reduced, return_terms)


@dataclass(frozen=True)
class Tangent:
    """The projection `P = I - n n^T` on the tangent space, which is its own root, and the sphere's curvature.

    Attributes:
        normal: n, `[B, D]`, of length one.
        tilt: `-|w|^2 n`, the acceleration of great circles along the directions w.
    """

    normal: Tensor
    tilt: Tensor

    def seeds(self, v: Tensor) -> Tensor:
        """Return `P v` of directions `[M, B, D]`."""
        return v - (v * self.normal).sum(-1, keepdim=True) * self.normal

    def pulled(self, s: Tensor) -> Tensor:
        """Return `P s` of scores `[B, D]`."""
        return self.seeds(s)

    def curved(self, speed: Tensor) -> Tangent:
        """Return the same with the acceleration of great circles whose mean of `|w|^2` is `[B, 1]`."""
        return Tangent(self.normal, -speed * self.normal)


def _check_unit(points: Tensor) -> None:
    """Raise ValueError unless the points lie on the unit sphere; NaN does not count."""
    x = rows_of(points)
    if x.shape[1] < 2:
        raise ValueError("the sphere needs two coordinates or more per sample, got x with one; pass unit vectors.")
    length = torch.linalg.vector_norm(x, dim=1)
    tolerance = max(_OFF_SPHERE, 4 * torch.finfo(points.dtype).eps)
    checks.check_rows(
        ~((length - 1).abs() > tolerance),
        "x must lie on the unit sphere",
        "divide each row by its length: torch.nn.functional.normalize(x.flatten(1), dim=1).view_as(x)",
    )


def _sphere(x: Tensor, directions: Directions | None) -> tuple[Tangent, Directions | None]:
    """Return the geometry at points `[B, D]`, which knows the directions, and these as a tensor."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    flat = Tangent(x / length, torch.zeros_like(x))
    if directions is None:
        return flat.curved(torch.full_like(length, x.shape[1] - 1)), None
    v = generalized.drawn(directions, x)
    return flat.curved(flat.seeds(v).square().sum(2).mean(0)[:, None]), Directions(len(v), v)


def _check_period(period: object) -> float:
    if isinstance(period, bool) or not isinstance(period, int | float):
        raise TypeError(f"period must be a number, got {type(period).__name__}; scale angles of different periods.")
    if not 0 < period < math.inf:
        raise ValueError(f"period must be positive and finite, got {period}.")
    return float(period)


def _check_periodic(chosen: Backend, request: Request, period: float) -> None:
    """Raise ValueError unless the score at the first sample is the same after a period of each angle."""
    if torch.compiler.is_compiling() or not len(request.x):
        return
    first = request.x.detach()[:1].flatten(1)
    dim = first.shape[1]
    shifted = torch.cat([first, first + period * torch.eye(dim, dtype=first.dtype, device=first.device)])
    with torch.no_grad():
        moved = request.at(shifted.reshape(-1, *request.x.shape[1:]), lambda c: c[:1].expand(dim + 1, *c.shape[1:]))
        anywhere = Directions(1, torch.ones_like(shifted)[None])
        scores = chosen.terms(moved, anywhere).score.double()
    gap = (scores[1:] - scores[0]).abs().amax(1)
    allowed = math.sqrt(torch.finfo(first.dtype).eps) * (1 + first.abs().max() / period) * (1 + scores.abs().max())
    if bool((gap > allowed).any()):
        raise ValueError(
            f"a model of angles must be periodic: its score at the first sample changes by {float(gap.max()):.3g} when "
            f"angle {int(gap.argmax())} grows by the period, {period:.6g}; begin the model with "
            "fastssm.nn.Periodic(period), or pass the right period."
        )


class ManifoldLoss(ScoreLoss[Out], loss=manifold_loss, tensors=SlicedTensors):
    """`manifold_loss` as a module that owns the network: `ManifoldLoss(net, manifold="sphere")(x)`.

    Example:
        >>> loss = ManifoldLoss(nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1)), manifold="sphere")
        >>> loss(nn.functional.normalize(torch.randn(16, 3), dim=1)).backward()

    Source: Mardia, Kent, Laha 2016.
    """

    @overload
    def __init__(
        self: ManifoldLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[ManifoldOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ManifoldLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[ManifoldOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ManifoldLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[ManifoldOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
