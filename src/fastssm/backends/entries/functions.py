"""The eager entry to the PyTorch sweeps: `autograd.Function`s, which torch.compile traces through.

Each comes twice: with `forward(ctx, ...)`, the cheaper call, and with `setup_context`, which torch.func requires.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from fastssm import sweeps
from fastssm.backends.entries.first_order import Times, apply, once, products, scaled
from fastssm.backends.entries.flat import (
    Form,
    Inputs,
    Static,
    needs_of,
    run_objective,
    run_terms,
    run_terms_backward,
    spread,
)
from fastssm.compiling import constant_when_compiled
from fastssm.sweeps import Needs

_Flat = tuple[Tensor | None, ...]


def split(flat: _Flat) -> tuple[Inputs, list[Tensor]]:
    """Return the inputs and the tensors of the network."""
    return Inputs(*flat[:4]), cast("list[Tensor]", list(flat[4:]))  # type: ignore[arg-type]


def handed_back(
    given: Sequence[Tensor], inputs: Inputs, tensors: Sequence[Tensor], grads: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    """Return gradients of the terms in the order of their function's arguments, not to be differentiated again."""
    dependent = [t for t in (*given, inputs.x, inputs.columns, *tensors) if t is not None]
    x, columns, of_tensors = spread(once(grads, dependent), inputs.columns is not None, len(tensors), needs)
    return None, None, x, columns, None, None, *of_tensors


class Objective(Function):
    """The loss, whose gradients its forward has already found: backward only scales them."""

    @staticmethod
    def run(
        static: Static, form: Form, needs: Needs, weight: Tensor | None, *flat: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the loss, its two terms and its gradients."""
        inputs, tensors = split(flat)
        loss, jacobian, square, grads = run_objective(inputs, weight, tensors, static, form, needs)
        return loss, jacobian, square, *grads

    @staticmethod
    def keep(ctx: Any, needs: Needs, flat: _Flat, outputs: tuple[Tensor, ...]) -> None:
        """Keep for backward the gradients, and what they depend on."""
        (x, columns, _, _), tensors = split(flat)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*outputs[3:], *([x] if columns is None else [x, columns]), *tensors)
        ctx.needs, ctx.has_columns, ctx.grads, ctx.count = needs, columns is not None, len(outputs) - 3, len(tensors)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Find the loss and its gradients."""
        outputs = Objective.run(*arguments)
        Objective.keep(ctx, arguments[2], arguments[4:], outputs)
        ctx.mark_non_differentiable(*outputs[1:3])
        return outputs[:3]

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Scale the gradients."""
        return Objective.hand_back(ctx, factor)

    @staticmethod
    def hand_back(ctx: Any, factor: Tensor | None, times: Times = products) -> tuple[Tensor | None, ...]:
        """Return the gradients times the incoming one, in the order of the arguments."""
        if factor is None:
            return tuple([None] * (8 + ctx.count))
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        grads = scaled(factor, saved[: ctx.grads], saved[ctx.grads :], times)
        x, columns, tensors = spread(grads, ctx.has_columns, ctx.count, ctx.needs)
        return None, None, None, None, x, columns, None, None, *tensors


class _FunctionalObjective(Objective):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return Objective.run(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        Objective.keep(ctx, inputs[2], inputs[4:], output)
        ctx.mark_non_differentiable(*output[1:])


class TermsFunction(Function):
    """The terms; backward runs up again and then down, so that nothing is kept between."""

    @staticmethod
    def run(static: Static, needs: Needs, *flat: Tensor | None) -> sweeps.Terms:
        """Return the terms."""
        return run_terms(*split(flat), static)

    @staticmethod
    def keep(ctx: Any, static: Static, needs: Needs, *flat: Tensor | None) -> None:
        """Keep the call for backward."""
        ctx.save_for_backward(*flat)
        ctx.static, ctx.needs = static, needs

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Find the terms."""
        TermsFunction.keep(ctx, *arguments)
        return tuple(TermsFunction.run(*arguments))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Run up again and down."""
        inputs, tensors = split(ctx.saved_tensors)
        with torch.no_grad():
            grads = run_terms_backward(sweeps.Terms(*given), inputs, tensors, ctx.static, ctx.needs)
        return handed_back(given, inputs, tensors, grads, ctx.needs)


class _FunctionalTerms(TermsFunction):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(TermsFunction.run(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        TermsFunction.keep(ctx, *inputs)


@constant_when_compiled
def transformed() -> bool:
    """Say whether a torch.func transform is running, eagerly or in what torch.compile traces."""
    return torch._C._are_functorch_transforms_active()


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample, differentiable once in x, the columns and the tensors."""
    needs = needs_of(inputs, tensors)
    if not any(needs):
        return run_objective(inputs, weight, tensors, static, form, needs)[:3]
    function = _FunctionalObjective if transformed() else Objective
    loss, jacobian, square = apply(function, static, form, needs, weight, *inputs, *tensors)[:3]
    return loss, jacobian, square


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> sweeps.Terms:
    """Return the terms of every sample and direction, differentiable once in x, the columns and the tensors."""
    needs = needs_of(inputs, tensors)
    if not any(needs):
        return run_terms(inputs, tensors, static)
    function = _FunctionalTerms if transformed() else TermsFunction
    return sweeps.Terms(*apply(function, static, needs, *inputs, *tensors))
