"""The eager door to the PyTorch sweeps: `autograd.Function`s, which torch.compile traces through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.autograd import Function

from fastssm import sweeps
from fastssm.engine import (
    Form,
    Inputs,
    Static,
    needs_of,
    run_objective,
    run_terms,
    run_terms_backward,
    spread,
)
from fastssm.sweeps import Needs

SECOND_BACKWARD = (
    "fastssm's fused losses give first derivatives only: differentiating a loss's gradient needs plain autograd. "
    'Pass backend="reference" to differentiate twice.'
)


def _apply(function: type[Function], *arguments: Any) -> tuple[Tensor, ...]:
    return function.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]


class _Once(Function):
    """The identity on gradients; differentiating through it would be the second backward, which is refused."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        raise RuntimeError(SECOND_BACKWARD)


def once(grads: Sequence[Tensor], given: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return gradients that refuse to be differentiated again, in themselves or in the cotangents they came from."""
    if not torch.is_grad_enabled() or not grads:
        return grads
    refusing: tuple[Tensor, ...] = _apply(_Once, len(grads), *grads, *given)
    return refusing


def scaled(factor: Tensor, grads: Sequence[Tensor], given: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return gradients times the incoming one, not to be differentiated again: they depend on `given` in turn."""
    return once([factor.detach().to(g.dtype) * g for g in grads], [factor, *given])


class _Objective(Function):
    """The loss, whose gradients its forward has already found: backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, static: Static, form: Form, needs: Needs, weight: Tensor | None, *flat: Tensor | None
    ) -> tuple[Tensor, ...]:
        inputs, tensors = Inputs(*flat[:4]), cast("list[Tensor]", flat[4:])  # type: ignore[arg-type]
        loss, jacobian, square, grads = run_objective(inputs, weight, tensors, static, form, needs)
        given = [inputs.x, *tensors] if inputs.columns is None else [inputs.x, inputs.columns, *tensors]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(jacobian, square)
        ctx.save_for_backward(*grads, *given)
        ctx.needs, ctx.has_columns, ctx.grads, ctx.count = needs, inputs.columns is not None, len(grads), len(tensors)
        return loss, jacobian, square

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if factor is None:
            return (None,) * (8 + ctx.count)
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        grads = scaled(factor, saved[: ctx.grads], saved[ctx.grads :])
        x, columns, tensors = spread(grads, ctx.has_columns, ctx.count, ctx.needs)
        return (None, None, None, None, x, columns, None, None, *tensors)


class _Terms(Function):
    """The terms; backward runs up again and then down, so that nothing is kept between."""

    @staticmethod
    def forward(ctx: Any, static: Static, needs: Needs, *flat: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(*flat)
        ctx.static, ctx.needs = static, needs
        return run_terms(Inputs(*flat[:4]), cast("list[Tensor]", flat[4:]), static)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        inputs, tensors = Inputs(*ctx.saved_tensors[:4]), ctx.saved_tensors[4:]
        with torch.no_grad():
            grads = run_terms_backward(sweeps.Terms(*given), inputs, tensors, ctx.static, ctx.needs)
        dependent = [t for t in (*given, inputs.x, inputs.columns, *tensors) if t is not None]
        x, columns, of_tensors = spread(once(grads, dependent), inputs.columns is not None, len(tensors), ctx.needs)
        return (None, None, x, columns, None, None, *of_tensors)


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample, differentiable once in x, the columns and the tensors."""
    needs = needs_of(inputs, tensors)
    if not any(needs):
        return run_objective(inputs, weight, tensors, static, form, needs)[:3]
    loss, jacobian, square = _apply(_Objective, static, form, needs, weight, *inputs, *tensors)
    return loss, jacobian, square


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> sweeps.Terms:
    """Return the terms of every sample and direction, differentiable once in x, the columns and the tensors."""
    needs = needs_of(inputs, tensors)
    if not any(needs):
        return run_terms(inputs, tensors, static)
    return sweeps.Terms(*_apply(_Terms, static, needs, *inputs, *tensors))
