"""Gradients that refuse to be differentiated again, instead of being silently wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function

SECOND_BACKWARD = (
    "fastssm's fused losses give first derivatives only: differentiating a loss's gradient needs plain autograd. "
    'Pass backend="reference" to differentiate twice.'
)

Times = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]  # tensors times a scalar


def apply(function: type[Function], *arguments: Any) -> tuple[Tensor, ...]:
    """Call an autograd function."""
    return function.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]


class _Once(Function):
    """The identity on gradients; differentiating through it would be the second backward, which is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        raise RuntimeError(SECOND_BACKWARD)


def once(grads: Sequence[Tensor], given: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return gradients that refuse to be differentiated again, in themselves or in the cotangents they came from."""
    if not torch.is_grad_enabled() or not grads:
        return grads
    refusing: tuple[Tensor, ...] = apply(_Once, len(grads), *grads, *given)
    return refusing


def products(grads: Sequence[Tensor], factor: Tensor) -> Sequence[Tensor]:
    """Return tensors times a scalar, each in its own dtype."""
    if factor.is_cuda and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        return torch._foreach_mul(list(grads), factor)  # one operator
    return [g * factor for g in grads]


def scaled(
    factor: Tensor,
    grads: Sequence[Tensor],
    given: Sequence[Tensor],
    times: Times = products,
) -> Sequence[Tensor]:
    """Return gradients times the incoming one, that refuse to be differentiated again: they depend on `given`."""
    plain = factor.detach() if torch.is_grad_enabled() else factor
    return once(times(grads, plain), [factor, *given])
