"""Plain autograd on any module: the oracle of the tests, and the path of every call that no other backend can run.

Nothing here knows the engine's formulas. `s = -dE/dx` or `s(x)`, and `v^T J v = v . d(s . v)/dx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastssm.backends.entries.flat import FULL_ONLY
from fastssm.backends.entries.functions import transformed
from fastssm.backends.exporting import inlined
from fastssm.backends.primitives import primitives
from fastssm.backends.request import Request
from fastssm.checks import check_output, kind_of_output, outside_inference, widened
from fastssm.directions import Directions
from fastssm.options import Model, What
from fastssm.sweeps import Terms

Conditioning = tuple[tuple[Tensor | None, ...], dict[str, Tensor | None]]  # by position and by name
CUT = (
    "the model's {0} does not depend on x through autograd, so all its derivatives would be zero. Something in its "
    "forward cuts the graph: torch.no_grad(), .detach(), .data, a call of NumPy, or a quantised layer; remove it."
)


def terms(model: Model, x: Tensor, cond: Conditioning, kind: str, directions: Directions, each: bool = False) -> Terms:
    """Return the terms of every sample and direction, differentiable as often as the module is.

    Samples are taken to be independent: a layer that mixes them (batch normalisation in train mode) mixes their
    derivatives too.

    Args:
        model: any module or function, called as `model(x, *cond[0], **cond[1])`.
        x: data `[B, ...]`.
        cond: conditioning arguments, by position and by name.
        kind: "energy", "score" or "auto".
        directions: M directions per sample.
        each: return the Jacobian's term of each direction, `[M, B]`, instead of their mean.
    """
    if torch.compiler.is_compiling() or transformed():

        def run(x: Tensor, cond: Conditioning, v: Tensor | None, seed: Tensor | None) -> tuple[Tensor, ...]:
            return tuple(_functional_terms(model, x, cond, kind, replace(directions, v=v, seed=seed), each))

        return Terms(*inlined(run, x, cond, directions.v, directions.seed))
    keep_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        score, energy, point = _score(model, x, cond, kind, keep_graph=keep_graph, twice=True)
        if directions.v is not None:
            directions = replace(directions, v=outside_inference(directions.v))
        found = _from_score(score, energy, point, directions, keep_graph, each)
    return found if keep_graph else Terms(*(t.detach() for t in found))


def score(model: Model, x: Tensor, cond: Conditioning, kind: str) -> Tensor:
    """Return only the score `[B, D]`, differentiable as often as the module is: no directions, no Jacobian.

    Args:
        model: any module or function, called as `model(x, *cond[0], **cond[1])`.
        x: data `[B, ...]`.
        cond: conditioning arguments, by position and by name.
        kind: "energy", "score" or "auto".
    """
    if torch.compiler.is_compiling() or transformed():
        only: Tensor = inlined(lambda x, cond: _only_score(model, x, cond, kind), x, cond)
        return only
    keep_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        found, energy, _ = _score(model, x, cond, kind, keep_graph=keep_graph, twice=keep_graph)
        found = widened(found).reshape(x.flatten(1).shape)
        found = found if energy is None else found + 0.0 * energy[:, None]
    return found if keep_graph else found.detach()


def _score(
    model: Model, x: Tensor, cond: Conditioning, kind: str, *, keep_graph: bool, twice: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the score, the energy `[B]` (None for a score net), and the point that both depend on.

    `keep_graph` says whether the caller may differentiate, `twice` whether an energy's score needs a derivative.
    """
    point = x if x.requires_grad and keep_graph else outside_inference(x).detach().requires_grad_()
    with primitives(), uncompiled(model):
        output = called(model, point, cond)
    check_output(output)
    if kind_of_output(output.shape, x.shape, kind) == "score":
        return output, None, point
    slope = _gradient(output, point, create_graph=twice, retain_graph=True)
    if slope is None:
        raise RuntimeError(CUT.format("energy"))
    return -slope, output.reshape(len(x)), point


def called(model: Model, point: Tensor, cond: Conditioning) -> Tensor:
    """Return the model's output on a copy of the data: the model may work in place."""
    args, kwargs = cond
    given = [None if c is None else outside_inference(c) for c in args]
    named = {name: None if c is None else outside_inference(c) for name, c in kwargs.items()}
    output: Tensor = model(point.clone(), *given, **named)
    return output


def _from_score(
    score: Tensor, energy: Tensor | None, point: Tensor, directions: Directions, keep_graph: bool, each: bool
) -> Terms:
    score = score.reshape(point.flatten(1).shape)
    wide = widened(score)
    projected, along = [], []
    for m in range(directions.count):
        v = directions.tile(slice(0, len(point)), slice(m, m + 1), wide)[0]
        projected.append((wide * v).sum(1))
        again = keep_graph or m + 1 < directions.count
        pulled = _gradient(projected[-1], point, create_graph=keep_graph, retain_graph=again)
        if pulled is None and energy is None:
            raise RuntimeError(CUT.format("score"))
        along.append(((v * 0.0 if pulled is None else pulled.reshape(v.shape)) * v).sum(1))
    jacobian = _joined(along, each)
    if energy is not None:
        jacobian = jacobian + 0.0 * energy  # every parameter gets a gradient, and a NaN anywhere shows
    return Terms(torch.stack(projected), jacobian, wide)


def _joined(along: list[Tensor], each: bool) -> Tensor:
    """Return the directions' terms `[M, B]`, or their mean `[B]`."""
    return torch.stack(along) if each else sum(along[1:], along[0]) / len(along)


def _gradient(of: Tensor, point: Tensor, *, create_graph: bool, retain_graph: bool) -> Tensor | None:
    """Return `d(sum of)/d(point)`, None where autograd sees no dependence: of the constant score of a linear energy."""
    if not of.requires_grad:
        return None
    found: Tensor | None = torch.autograd.grad(
        of.sum(), point, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )[0]
    return found


@contextmanager
def uncompiled(model: Model) -> Iterator[None]:
    """Run what `torch.compile` has compiled as it is written: compiled code is differentiated once only."""
    compiled = not isinstance(model, nn.Module) or any(
        m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule" for m in model.modules()
    )
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


def _functional_terms(
    model: Model, x: Tensor, cond: Conditioning, kind: str, directions: Directions, each: bool
) -> Terms:
    """The same through torch.func, which torch.compile can trace: reverse over reverse."""
    output, kind, score_of = _functional_score(model, x, cond, kind)
    v = directions.tile(slice(0, x.shape[0]), slice(0, directions.count), x.reshape(x.shape[0], -1))
    score, pullback = torch.func.vjp(score_of, x)  # type: ignore[misc]
    wide = widened(score).reshape(x.shape[0], -1)
    projected, along = [], []
    for row in v:
        (pulled,) = pullback(row.reshape(score.shape).to(score.dtype).clone())
        projected.append((wide * row).sum(1))
        along.append((pulled.reshape(row.shape) * row).sum(1))
    jacobian = _joined(along, each)
    if kind == "energy":
        jacobian = jacobian + 0.0 * output.reshape(x.shape[0])
    return Terms(torch.stack(projected), jacobian, wide)


def _only_score(model: Model, x: Tensor, cond: Conditioning, kind: str) -> Tensor:
    output, kind, score_of = _functional_score(model, x, cond, kind)
    found = widened(score_of(x)).flatten(1)
    return found + 0.0 * output.reshape(x.shape[0], 1) if kind == "energy" else found


def _functional_score(
    model: Model, x: Tensor, cond: Conditioning, kind: str
) -> tuple[Tensor, str, Callable[[Tensor], Tensor]]:
    """Return the model's output, its kind, and its score as a function of the point."""

    def run(point: Tensor) -> Tensor:
        with primitives():
            return called(model, point, cond)

    output = run(x)
    check_output(output)
    kind = kind_of_output(output.shape, x.shape, kind)

    def score_of(point: Tensor) -> Tensor:
        if kind == "score":
            return run(point).reshape(x.shape)
        slope: Tensor = torch.func.grad(lambda p: run(p).sum())(point)
        return -slope

    return output, kind, score_of


class Reference:
    """Plain autograd on any module."""

    name = "reference"

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def unsupported(self, request: Request, what: What) -> list[str]:
        """It runs any module, in the dtype of its data."""
        return [] if request.precision == "full" else [FULL_ONLY]

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Differentiate twice."""
        return terms(request.model, request.x, (request.cond, dict(request.kwargs)), request.kind, directions, each)

    def score(self, request: Request) -> Tensor:
        """Differentiate an energy once, or call a score net."""
        return score(request.model, request.x, (request.cond, dict(request.kwargs)), request.kind)
