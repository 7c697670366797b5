"""The entry to an engine's operators for plain eager calls: autograd functions of our own around them.

Torch's own wrapping of an operator makes many more calls in Python. What watches calls (torch.compile, a
dispatch mode, a tracer, a subclass of Tensor) is given the operators themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssm.backends.entries import dispatcher, functions
from fastssm.backends.entries.first_order import apply
from fastssm.backends.entries.flat import Form, Inputs, Static, needs_of
from fastssm.graphs import is_one
from fastssm.sweeps import Needs, Terms

_PLAIN = frozenset((Tensor, nn.Parameter, type(None)))


def must_dispatch(inputs: Inputs) -> bool:
    """Say whether an operator must be seen: by torch.compile, a dispatch mode, a tracer, or a tensor's own class."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return True
    return not _PLAIN.issuperset(map(type, inputs))


def _scale(gradients: Sequence[Tensor], factor: Tensor) -> Sequence[Tensor]:
    if is_one(factor):  # the gradients are not used again: a graphed step keeps no graph
        return gradients
    with torch._C._AutoDispatchBelowAutograd():
        return dispatcher.scale(gradients, factor)


class _Objective(functions.Objective):
    """The loss and its gradients by the operator, whose autograd is not asked."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        static, form, needs, weight, *flat = arguments
        inputs, tensors = functions.split(tuple(flat))
        with torch._C._AutoDispatchBelowAutograd():
            *terms, grads = dispatcher.run_objective(inputs, weight, tensors, static, form, needs, packed=True)
        functions.Objective.keep(ctx, needs, tuple(flat), (*terms, *grads))
        ctx.mark_non_differentiable(*terms[1:])
        return tuple(terms)

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        return functions.Objective.hand_back(ctx, factor, _scale)


class _Terms(functions.TermsFunction):
    """The terms by the operator, and their gradient by its twin."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        static, _, *flat = arguments
        functions.TermsFunction.keep(ctx, *arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(dispatcher.run_terms(*functions.split(tuple(flat)), static))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        inputs, tensors = functions.split(ctx.saved_tensors)
        with torch._C._AutoDispatchBelowAutograd():
            grads = dispatcher.run_terms_backward(Terms(*given), inputs, tensors, ctx.static, ctx.needs)
        return functions.handed_back(given, inputs, tensors, grads, ctx.needs)


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample, differentiable once in x, the columns and the tensors."""
    needs = needs_of(inputs, tensors)
    if must_dispatch(inputs) or not any(needs):
        return dispatcher.objective(inputs, weight, tensors, static, form)
    loss, jacobian, square = apply(_Objective, static, form, needs, weight, *inputs, *tensors)
    return loss, jacobian, square


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
    """Return the terms of every sample and direction, differentiable once in x, the columns and the tensors."""
    needs: Needs = needs_of(inputs, tensors)
    if must_dispatch(inputs) or not any(needs):
        return dispatcher.terms(inputs, tensors, static)
    return Terms(*apply(_Terms, static, needs, *inputs, *tensors))
