"""Taylor mode through any module: what runs on it, and its two autograd functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fastssm.backends.entries.first_order import apply, once, scaled
from fastssm.backends.entries.flat import FULL_ONLY, Form
from fastssm.backends.primitives import primitives
from fastssm.backends.reference import uncompiled
from fastssm.backends.request import OnePass, Request
from fastssm.backends.trial import Trial, called, conditions, module_of, trial_of
from fastssm.checks import outside_inference, widened
from fastssm.compiling import exporting
from fastssm.directions import Directions
from fastssm.jets import tile as tiles
from fastssm.jets.draws import repeated, state_of
from fastssm.jets.functions import Problem, Sums, all_terms, objective, parts, pull_back
from fastssm.jets.jet import Jet, functional
from fastssm.options import What
from fastssm.sweeps import Terms

TILE_BYTES = 64 << 20  # of values and tangents of one tile, where their number is not given
NO_MODULE = "the model is a function, and only a module says which parameters it has; write it as a module"
EXPORTED = "torch.export does not record jets"
SCORE_ALONE = "the score needs one derivative only, which plain autograd finds fastest"


class _Call(NamedTuple):
    """What of a call is no tensor that is differentiated, and how many of those there are."""

    problem: Problem
    conditions: int
    weight: Tensor | None = None
    variance_reduced: bool = True


def _split(call: _Call, tensors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
    """Return x, the conditioning arguments and the weights."""
    x, *rest = tensors
    return x, tuple(rest[: call.conditions]), rest[call.conditions :]


class _Objective(Function):
    """The loss, whose gradients its forward finds."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, cond, weights = _split(call, tensors)
        assert call.weight is not None
        sums = Sums(x, cond, weights)
        jacobian, square = objective(call.problem, x, cond, call.weight, call.variance_reduced, sums)
        found = sums.result()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *[g for g in found if g is not None])
        ctx.count, ctx.kept = len(tensors), [g is not None for g in found]
        ctx.mark_non_differentiable(jacobian, square)
        return torch.dot(call.weight, jacobian + square), jacobian, square

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if factor is None:
            return tuple([None] * (1 + ctx.count))
        saved = ctx.saved_tensors
        grads = iter(scaled(factor, saved[ctx.count :], saved[: ctx.count]))
        return None, *[next(grads) if kept else None for kept in ctx.kept]


class _Terms(Function):
    """The terms; backward runs the forward again with the cotangents."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, cond, _ = _split(call, tensors)
        ctx.call, ctx.draws = call, state_of(x)
        ctx.save_for_backward(*tensors)
        return tuple(all_terms(call.problem, x, cond))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        x, cond, weights = _split(ctx.call, tensors)
        sums = Sums(x, cond, weights)
        with torch.no_grad(), repeated(x, ctx.draws):
            pull_back(ctx.call.problem, x.detach().requires_grad_(x.requires_grad), cond, Terms(*given), sums)
        found = sums.result()
        kept = iter(once([g for g in found if g is not None], [*given, *tensors]))
        return None, *[None if g is None else next(kept) for g in found]


class Jets(OnePass):
    """Taylor mode through any module whose operations have rules."""

    name = "jets"

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def unsupported(self, request: Request, what: What) -> list[str]:
        """Return why this call cannot run: above all the operation without a rule, and the module that called it."""
        reasons = [] if request.precision == "full" else [FULL_ONLY]
        reasons += [SCORE_ALONE] if what in ("score", "denoising") else []
        reasons += [] if isinstance(request.model, nn.Module) else [NO_MODULE]
        reasons += [EXPORTED] if exporting() else []
        return reasons or trial_of(request).reasons

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""
        request, directions = _outside_inference(request, directions)
        x = request.x
        share = 1.0 / len(x) if form.mean else 1.0
        with _recording(), uncompiled(request.model):
            like = widened(x)
            weight = like.new_full((len(x),), share) if weight is None else weight.to(like.dtype) * share
            if functional():
                return _functional_objective(request, directions, weight, form)
            problem, count = self._problem(request, directions)
            if not request.differentiated():
                jacobian, square = objective(problem, x, conditions(request), weight, form.variance_reduced, None)
                return torch.dot(weight, jacobian + square), jacobian, square
            call = _Call(problem, count, weight, form.variance_reduced)
            return apply(_Objective, call, x, *conditions(request), *_weights(request))  # type: ignore[return-value]

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Return the differentiable terms."""
        request, directions = _outside_inference(request, directions)
        with _recording(), uncompiled(request.model):
            if functional() or trial_of(request).whole:
                return _functional_terms(request, directions, each)
            call = _Call(*self._problem(request, directions, each))
            return Terms(*apply(_Terms, call, request.x, *conditions(request), *_weights(request)))

    def score(self, request: Request) -> Tensor:
        """It is refused: see `unsupported`."""
        raise RuntimeError(SCORE_ALONE)

    def _problem(self, request: Request, directions: Directions, each: bool = False) -> tuple[Problem, int]:
        trial = trial_of(request)
        samples, chunk = tile_size(trial, request.x, directions.count)
        return Problem(called(request), trial.kind, directions, samples, chunk, each), len(conditions(request))


@contextmanager
def _recording() -> Iterator[None]:
    """Leave inference mode, in which nothing can be differentiated, without asking for gradients."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def _outside_inference(request: Request, directions: Directions) -> tuple[Request, Directions]:
    """Return a call whose tensors autograd can save."""
    with _recording():
        x, v = outside_inference(request.x), None if directions.v is None else outside_inference(directions.v)
        cond = tuple([None if c is None else outside_inference(c) for c in request.cond])
        kwargs = {name: None if c is None else outside_inference(c) for name, c in request.kwargs.items()}
    return request._replace(x=x, cond=cond, kwargs=kwargs), replace(directions, v=v)


def tile_size(trial: Trial, x: Tensor, count: int) -> tuple[int, int]:
    """Return the samples and the directions of a tile."""
    if trial.whole:
        return max(1, len(x)), max(1, count)
    rows = max(1, TILE_BYTES // max(1, trial.bytes_of_a_row))
    others = 2 if trial.kind == "energy" else 1  # the value, and the curvature of an energy
    chunk = min(count, max(1, rows - others))
    return max(1, min(len(x), rows // (chunk + others))), max(1, chunk)


def _weights(request: Request) -> list[Tensor]:
    return [p for p in module_of(request).parameters() if p.requires_grad]


def _whole(request: Request, directions: Directions, each: bool = False, twice: bool = False) -> tiles.Tile:
    """Return the whole batch as one tile, whose graph autograd keeps.

    Args:
        request: the call.
        directions: those of it.
        each: whether the Jacobian's term is wanted for each direction.
        twice: whether the model itself is differentiated twice, for a score that is differentiable.
    """
    trial, model = trial_of(request), called(request)
    problem = Problem(_by_primitives(model) if twice else model, trial.kind, directions, 0, 0, each)
    return next(iter(parts(problem, request.x, conditions(request), detach=False))).tile._replace(once=trial.once)


def _by_primitives(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model that has second derivatives where it does not run on jets: PyTorch's attention has none."""

    def run(x: Tensor, *cond: Tensor) -> Any:
        if isinstance(x, Jet):
            return model(x, *cond)
        with primitives():
            return model(x, *cond)

    return run


def _functional_objective(
    request: Request, directions: Directions, weight: Tensor, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    tile = _whole(request, directions)
    number, jacobian, square = tiles.objective(tile, weight, form.variance_reduced, True)
    return number + _nothing(request), jacobian, square


def _nothing(request: Request) -> Tensor:
    """Return zero, as a function of every weight: those that a model does not use get a gradient of zero."""
    return sum((w.flatten()[:0].sum() for w in _weights(request)), request.x.new_zeros(()))


def _functional_terms(request: Request, directions: Directions, each: bool) -> Terms:
    found = tiles.terms(_whole(request, directions, each, twice=True), each, differentiable=True)
    return found._replace(projected_jacobian=found.projected_jacobian + _nothing(request))
