"""The engine's calls on flat tensors: what crosses an operator's boundary, and half precision widened on the way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm import sweeps
from fastssm.checks import autocasting, widened
from fastssm.directions import Directions
from fastssm.errors import UnsupportedError
from fastssm.sweeps import Needs, Structure

FULL_ONLY = (
    'precision="bf16", "tf32" and "split" run in a compiled engine only; PyTorch computes in the dtype of the data: '
    'pass precision="full"'
)
BY_TORCH = "torch"
"""A precision: that of "full", with every product left to PyTorch, which may round to TF32."""


class Inputs(NamedTuple):
    """The tensors of a call that are not weights.

    Attributes:
        x: data `[B, D]`.
        columns: conditioning columns `[B, C]`, or None.
        v: directions `[M, B, D]`, or None.
        seed: seed of the directions, or None; without either, they are the scaled basis.
    """

    x: Tensor
    columns: Tensor | None
    v: Tensor | None
    seed: Tensor | None


class Static(NamedTuple):
    """The part of a call that is not tensors.

    Attributes:
        structure: the network's.
        n_projections: M; 0 for only the score.
        precision: of the products, as in a request, or `BY_TORCH`.
        each: whether the Jacobian's term is wanted for each direction, `[M, B]`, instead of their mean.
    """

    structure: Structure
    n_projections: int
    precision: str = "full"
    each: bool = False


class Form(NamedTuple):
    """Which sliced loss, reduced how: with variance reduction or not, mean or sum over samples."""

    variance_reduced: bool
    mean: bool


def needs_of(inputs: Inputs, tensors: Sequence[Tensor]) -> Needs:
    """Return which gradients autograd will ask for."""
    if not torch.is_grad_enabled():
        return Needs(False, False)
    columns = inputs.columns is not None and inputs.columns.requires_grad
    return Needs(inputs.x.requires_grad or columns, any(t.requires_grad for t in tensors))


def _problem(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> sweeps.Problem:
    if static.precision not in ("full", BY_TORCH):
        raise UnsupportedError(FULL_ONLY)
    columns = None if inputs.columns is None else widened(inputs.columns)
    layers = sweeps.unflatten(static.structure, [widened(t) for t in tensors])
    directions = Directions(static.n_projections, inputs.v, inputs.seed)
    return sweeps.Problem(static.structure.kind, layers, widened(inputs.x), columns, directions)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Turn autocast off for the device of x inside a block."""
    return torch.autocast(x.device.type, enabled=False) if autocasting(x) else nullcontext()


def run_objective(
    inputs: Inputs,
    weight: Tensor | None,
    tensors: Sequence[Tensor],
    static: Static,
    form: Form,
    needs: Needs,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the loss, its two terms per sample, and its gradients in the order inputs, tensors, as needed.

    The loss is a sliced one, or with a target `[B, D]` and no directions the denoising one.
    """
    if target is None and static.n_projections < 1:
        raise RuntimeError(f"there must be a direction, got {static.n_projections}.")
    if target is not None and static.n_projections:
        raise RuntimeError("a denoising objective has no directions.")
    problem = _problem(inputs, tensors, static)
    batch = problem.x.shape[0]
    share = 1.0 / batch if form.mean else 1.0
    weight = problem.x.new_full((batch,), share) if weight is None else weight.to(problem.x.dtype) * share
    with without_autocast(problem.x):
        towards = None if target is None else target.to(problem.x.dtype)
        out = sweeps.objective(problem, weight, form.variance_reduced, needs, towards)
    loss = torch.dot(weight, out.projected_jacobian + out.square)
    return loss, out.projected_jacobian, out.square, _gradients(out.gradients, inputs, tensors, static, needs)


def run_terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> sweeps.Terms:
    """Return the terms of every sample and direction."""
    problem = _problem(inputs, tensors, static)
    with without_autocast(problem.x):
        return sweeps.terms(problem, static.each)


def run_terms_backward(
    given: sweeps.Terms, inputs: Inputs, tensors: Sequence[Tensor], static: Static, needs: Needs
) -> list[Tensor]:
    """Return the gradients of a function of the terms from its cotangents, in the order inputs, tensors, as needed."""
    problem = _problem(inputs, tensors, static)
    with without_autocast(problem.x):
        gradients = sweeps.terms_backward(problem, given, needs)
    return _gradients(gradients, inputs, tensors, static, needs)


def _gradients(
    found: sweeps.FullGradients | None, inputs: Inputs, tensors: Sequence[Tensor], static: Static, needs: Needs
) -> list[Tensor]:
    out: list[Tensor] = []
    if found is not None and found.inputs is not None:
        dim = inputs.x.shape[1]
        out = [found.inputs[:, :dim].to(inputs.x.dtype, copy=True)]
        out += [] if inputs.columns is None else [found.inputs[:, dim:].to(inputs.columns.dtype, copy=True)]
    if found is not None and found.layers is not None and needs.tensors:
        shared, samples = found.layers
        every = [*shared[: len(tensors) - len(samples)], *samples]
        out += [g if g.dtype == t.dtype else g.to(t.dtype) for g, t in zip(every, tensors, strict=True)]
    return out


def spread(
    grads: Sequence[Tensor], has_columns: bool, count: int, needs: Needs
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """Return the gradients of x, of the columns and of the `count` tensors, None where there is none."""
    rest = list(grads)
    x = rest.pop(0) if needs.inputs else None
    columns = rest.pop(0) if needs.inputs and has_columns else None
    return x, columns, [*rest] if needs.tensors else [None] * count
