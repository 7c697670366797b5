"""fastssm as a contender, and the bare arithmetic of its calls to measure their overhead."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.problems import EXACT_LOSS, Problem
from bench.rivals import as_tensor
from bench.steps import Prepare, eager


class NotBuiltError(RuntimeError):
    """A requested native engine is not available."""


def loss(p: Problem, backend: str, own_directions: bool = False, **options: Any) -> Tensor:
    from fastssm import exact_loss, sliced_loss

    if p.loss == EXACT_LOSS:
        return as_tensor(exact_loss(p.net, p.x, backend=backend, **options))
    directions = {"n_projections": len(p.v)} if own_directions else {"v": p.v}
    return as_tensor(
        sliced_loss(p.net, p.x, variance_reduced=p.variance_reduced, backend=backend, **directions, **options)
    )


def fastssm(backend: str, **options: Any) -> Prepare:
    """Time a loss on a backend, which must be available."""
    prepare = eager(partial(loss, backend=backend, **options))

    def checked(p: Problem, mode: str) -> Any:
        require(backend)
        if p.loss == EXACT_LOSS and options.get("own_directions"):
            raise NotImplementedError("the exact loss draws no directions")
        return prepare(p, mode)

    return checked


def require(backend: str) -> None:
    """Raise NotBuiltError unless the backend can run something here."""
    from fastssm.backends import availability

    if reasons := availability()[backend]:
        raise NotBuiltError(" ".join(reasons))


def drawn(p: Problem) -> Tensor:
    """Return the directions of the next call, and seed the generator of torch so that the call draws them."""
    from fastssm.directions import draw

    torch.manual_seed(1)
    v = draw("rademacher", tuple(p.v.shape), dtype=p.x.dtype, device=p.x.device)
    torch.manual_seed(1)
    return v


def bare_sweeps(p: Problem) -> Callable[[], Tensor]:
    """Return the bare arithmetic of one call on the PyTorch path."""
    from fastssm import Network, recognize, sweeps
    from fastssm.directions import Directions

    found = recognize(p.net)
    assert isinstance(found, Network), found
    structure, tensors, _ = sweeps.read(found, "energy", ())
    inner = sweeps.Problem("energy", sweeps.unflatten(structure, tensors), p.x, None, Directions(len(p.v), p.v))
    weight, needs = p.x.new_full((len(p.x),), 1 / len(p.x)), sweeps.Needs(inputs=False, tensors=True)

    def call() -> Tensor:
        with torch.no_grad():
            return sweeps.objective(inner, weight, p.variance_reduced, needs).projected_jacobian

    return call


def bare_engine(p: Problem) -> Callable[[], Tensor]:
    """Return one call of the CPU engine for value and gradients without autograd, under ``no_grad``."""
    from fastssm import Network, recognize
    from fastssm.sweeps import read

    require("cpu")
    found = recognize(p.net)
    assert isinstance(found, Network), found
    structure, tensors, _ = read(found, "energy", ())
    static, reduction, needs = (*structure, len(p.v), "full"), (p.variance_reduced, True), (False, True)
    arguments = (p.x, None, p.v, None, tensors, None, *static, *reduction, *needs)

    def call() -> Tensor:
        with torch.no_grad():
            return as_tensor(torch.ops.fastssm.objective(*arguments)[0])

    return call


EMPTY = "empty autograd.Function"
BARE = {"fastssm torch": bare_sweeps, "fastssm cpu": bare_engine}


class Empty(torch.autograd.Function):
    """A minimal autograd function."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Save the inputs and return zero."""
        ctx.save_for_backward(*tensors)
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, ...]:
        """Scale the saved tensors."""
        return tuple(t * factor for t in ctx.saved_tensors)


def empty_function(p: Problem) -> Callable[[], Tensor]:
    """Return forward and backward of a minimal autograd function with the parameters."""
    parameters = list(p.net.parameters())

    def call() -> Tensor:
        return torch.autograd.grad(Empty.apply(*parameters), parameters)[0]

    return call
