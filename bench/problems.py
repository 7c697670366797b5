"""The problems that are timed, and the float64 answer every contender is checked against first."""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOSSES = ("SSM", "SSM-VR")


class Size(NamedTuple):
    """Features, hidden width, hidden layers, batch, projections: the letters of the CSV columns."""

    d: int
    H: int
    L: int
    B: int
    M: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read ``"100,512,3,1024,1"``."""
        numbers = [int(part) for part in text.split(",")]
        if len(numbers) != len(cls._fields) or min(numbers) < 1:
            raise ValueError(f"a size is five positive integers d,H,L,B,M; got {text!r}")
        return cls(*numbers)

    def __str__(self) -> str:
        """Write it as :meth:`parse` reads it."""
        return ",".join(map(str, self))


GRID = (
    Size(2, 64, 2, 128, 1),
    Size(2, 128, 3, 512, 1),
    Size(10, 256, 3, 1024, 1),
    Size(100, 512, 3, 1024, 1),
    Size(784, 1024, 3, 512, 1),
    Size(100, 512, 3, 1024, 8),
)


class Problem(NamedTuple):
    """A network E: R^d -> R, data ``x [B, d]``, directions ``v [M, B, d]`` and which of the two losses."""

    net: nn.Sequential
    x: Tensor
    v: Tensor
    variance_reduced: bool


class Answer(NamedTuple):
    """A loss and its gradient for every parameter (zeros where it does not depend on one)."""

    value: Tensor
    gradients: tuple[Tensor, ...]


def problem(size: Size, loss: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Problem:
    """Draw the problem in float64 and round it, so that every dtype sees the same numbers."""
    widths = [size.d] + [size.H] * size.L
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.Softplus())]
        net = nn.Sequential(*hidden, nn.Linear(size.H, 1))
        x = torch.randn(size.B, size.d)
        v = torch.randn(size.M, size.B, size.d).sign()
    return Problem(net.to(dtype), x.to(dtype), v.to(dtype), loss == "SSM-VR")


def exact_answer(p: Problem) -> Answer:
    """Nested autograd in float64, one direction after the other: no formula of any contender."""
    net, x, v = deepcopy(p.net).double().requires_grad_(), p.x.double().requires_grad_(), p.v.double()
    (score,) = torch.autograd.grad(-net(x).sum(), x, create_graph=True)
    total = score.new_zeros(())
    for direction in v:
        projected = (score * direction).sum(-1)
        (row,) = torch.autograd.grad(projected.sum(), x, create_graph=True)
        squares = score.square().sum(-1) if p.variance_reduced else projected.square()
        total = total + ((row * direction).sum(-1) + squares / 2).mean() / len(v)
    gradients = torch.autograd.grad(total, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return Answer(total.detach(), gradients)


def cached_answer(p: Problem, file: Path) -> Answer:
    """Return the exact answer kept in ``file``, computing it the first time."""
    if not file.exists():
        torch.save(tuple(exact_answer(p)), file)
    return Answer(*torch.load(file))


def relative_error(value: Tensor, gradients: tuple[Tensor, ...], exact: Answer) -> float:
    """Largest of the relative errors of the value and, in the maximum norm, of each gradient given.

    A gradient that is zero (the last bias) is measured against the largest of all gradients.
    """
    largest = torch.stack([g.abs().max() for g in exact.gradients]).max()
    pairs = [(value, exact.value), *zip(gradients, exact.gradients, strict=False)]
    errors = [(got.double() - want).abs().max() / (want.abs().max() if want.any() else largest) for got, want in pairs]
    return float(torch.stack(errors).max())
