"""The table of contenders: a name, how to prepare the call, and what is known about it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import packages, rivals
from bench.problems import Problem

Call = Callable[[], Tensor]
EXACT = 1e-3
"""Largest relative error of an exact contender in float32 (typically 1e-6; the slack is for cancelling values)."""


@dataclass(frozen=True)
class Contender:
    """One way to compute the loss.

    Attributes:
        prepare: from a problem to the call that is timed.
        compiled: whether ``torch.compile`` is in it; such contenders run in processes of their own.
        grad_mode: whether it needs autograd even for the value.
        tolerance: largest relative error with which it still counts as right.
        own_directions: draws its own directions: from a problem to the ones the next call will use.
    """

    prepare: Callable[[Problem], Call]
    compiled: bool = False
    grad_mode: bool = False
    tolerance: float = EXACT
    own_directions: Callable[[Problem], Tensor] | None = None


def eager(function: Callable[[Problem], Tensor]) -> Callable[[Problem], Call]:
    return lambda p: partial(function, p)


def compiled(function: Callable[[Problem], Tensor]) -> Callable[[Problem], Call]:
    """``torch.compile`` with static shapes, as a training loop with a fixed batch would see it."""

    def prepare(p: Problem) -> Call:
        return partial(torch.compile(function, dynamic=False), p)

    return prepare


def fastssm(p: Problem, *, own_directions: bool = False) -> Tensor:
    from fastssm import sliced_loss

    directions = {"n_projections": len(p.v)} if own_directions else {"v": p.v}
    return rivals.as_tensor(sliced_loss(p.net, p.x, variance_reduced=p.variance_reduced, backend="torch", **directions))


def drawn_by_fastssm(p: Problem) -> Tensor:
    """Return the directions of the next call, and leave torch's generator where that call will find it."""
    from fastssm.directions import draw

    torch.manual_seed(1)
    v = draw("rademacher", tuple(p.v.shape), dtype=p.x.dtype, device=p.x.device)
    torch.manual_seed(1)
    return v


def bare_sweeps(p: Problem) -> Call:
    """The arithmetic inside one call of ``fastssm``, with nothing around it."""
    from fastssm import Network, recognize, sweeps
    from fastssm.directions import Directions

    found = recognize(p.net)
    assert isinstance(found, Network), found
    layers = found.layers(())[0]
    inner = sweeps.Problem("energy", layers, p.x, None, Directions(len(p.v), p.v))
    weight, needs = p.x.new_full((len(p.x),), 1 / len(p.x)), sweeps.Needs(inputs=False, tensors=True)

    def call() -> Tensor:
        with torch.no_grad():
            return sweeps.objective(inner, weight, p.variance_reduced, needs).jacobian

    return call


class Empty(torch.autograd.Function):
    """What every autograd function does at least."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Save the inputs and return zero."""
        ctx.save_for_backward(*tensors)
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, ...]:
        """Scale what was saved."""
        return tuple(t * factor for t in ctx.saved_tensors)


def empty_function(p: Problem) -> Call:
    """What PyTorch itself asks for any autograd function of these parameters, forward and backward."""
    parameters = list(p.net.parameters())

    def call() -> Tensor:
        return torch.autograd.grad(Empty.apply(*parameters), parameters)[0]

    return call


EMPTY = "empty autograd.Function"
REFERENCES = ("autograd", "fastssm torch")
CONTENDERS = {
    "autograd": Contender(eager(rivals.autograd), grad_mode=True),
    "func.vjp + compile": Contender(compiled(rivals.func_vjp), compiled=True),
    "jvp(grad)": Contender(eager(rivals.jvp_grad)),
    "Taylor": Contender(eager(rivals.taylor)),
    "Taylor + compile": Contender(compiled(rivals.taylor), compiled=True),
    "FD-SSM": Contender(eager(rivals.finite_differences), tolerance=1.0),
    "FD-SSM + compile": Contender(compiled(rivals.finite_differences), compiled=True, tolerance=1.0),
    "torchebm": Contender(packages.torchebm, grad_mode=True),
    "ebmkit": Contender(packages.ebmkit, grad_mode=True),
    "jet-for-pytorch": Contender(packages.jet),
    "fastssm torch": Contender(eager(fastssm)),
    "fastssm torch, own directions": Contender(
        eager(partial(fastssm, own_directions=True)), own_directions=drawn_by_fastssm
    ),
    "fastssm torch + compile": Contender(compiled(fastssm), compiled=True),
}
