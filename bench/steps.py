"""Timed steps: a contender prepared for a problem, and conversion of its result to an answer."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.problems import Answer, Problem

Loss = Callable[[], Tensor]
FORWARD, BACKWARD = MODES = ("forward", "forward+backward")


class Step(NamedTuple):
    """One timed call.

    Attributes:
        call: the timed call.
        read: converts the result of the call to a value and gradients, not timed; None for a yardstick, which has none.
        flops: operations of one call, if they differ from those of the loss.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Answer] | None = lambda result: Answer(*result)
    flops: float | None = None


Prepare = Callable[[Problem, str], Step]


def torch_step(p: Problem, mode: str, loss: Loss, grad_mode: bool = False) -> Step:
    """Return a step for the value (with a frozen net), or the value and the gradient of every parameter, by autograd.

    Args:
        p: the problem.
        mode: one of ``MODES``.
        loss: computes the loss.
        grad_mode: whether the value requires autograd.
    """
    parameters = list(p.net.parameters())

    def value() -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.set_grad_enabled(grad_mode):
            return loss().detach(), ()

    def value_and_gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        found = loss()
        return found.detach(), torch.autograd.grad(found, parameters, allow_unused=True, materialize_grads=True)

    p.net.requires_grad_(mode != FORWARD)
    return Step(value if mode == FORWARD else value_and_gradients)


def prepared(prepare: Callable[[Problem], Loss], grad_mode: bool = False) -> Prepare:
    """Time the loss that ``prepare`` returns for a problem."""
    return lambda p, mode: torch_step(p, mode, prepare(p), grad_mode)


def eager(function: Callable[[Problem], Tensor], grad_mode: bool = False) -> Prepare:
    """Time a function of a problem."""
    return prepared(lambda p: partial(function, p), grad_mode)


def compiled(function: Callable[[Problem], Tensor]) -> Prepare:
    """Time a function under ``torch.compile`` with static shapes, as in training with a fixed batch size."""
    return prepared(lambda p: partial(torch.compile(function, dynamic=False), p))
