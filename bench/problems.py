"""The problems that are timed, and the float64 answer every contender is checked against first."""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LOSSES = ("SSM", "SSM-VR")
EXACT_LOSS = "exact"
ACTIVATIONS: dict[str, type[nn.Module]] = {"softplus": nn.Softplus, "tanh": nn.Tanh, "silu": nn.SiLU}


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


class Case(NamedTuple):
    """A network on its data: the size, the activation, and whether it gives an energy or the score itself."""

    size: Size
    activation: str = "softplus"
    kind: str = "energy"

    def columns(self) -> dict[str, Any]:
        """Return what the CSV says about it."""
        return {"kind": self.kind, "activation": self.activation} | self.size._asdict()

    def __str__(self) -> str:
        """Name it, as in a file name."""
        return f"{self.size} {self.activation} {self.kind}"


class Problem(NamedTuple):
    """A network E: R^d -> R or s: R^d -> R^d, data ``x [B, d]``, directions ``v [M, B, d]`` and which of the losses.

    The exact loss is SSM along the M = d directions ``sqrt(d) e_i``, which is what ``v`` then holds.
    """

    net: nn.Sequential
    x: Tensor
    v: Tensor
    loss: str
    case: Case

    @property
    def variance_reduced(self) -> bool:
        """Whether the squared norm of the score takes the place of its squared projections."""
        return self.loss == "SSM-VR"


class Answer(NamedTuple):
    """A loss and its gradient for every parameter (zeros where it does not depend on one)."""

    value: Tensor
    gradients: tuple[Tensor, ...]


def problem(case: Case, loss: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Problem:
    """Draw the problem in float64 and round it, so that every dtype sees the same numbers."""
    size, activation = case.size, ACTIVATIONS[case.activation]
    widths = [size.d] + [size.H] * size.L
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), activation())]
        net = nn.Sequential(*hidden, nn.Linear(size.H, 1 if case.kind == "energy" else size.d))
        x = torch.randn(size.B, size.d)
        v = basis(size) if loss == EXACT_LOSS else torch.randn(size.M, size.B, size.d).sign()
    return Problem(net.to(dtype), x.to(dtype), v.to(dtype), loss, case)


def basis(size: Size) -> Tensor:
    """Return the directions ``sqrt(d) e_i`` of every sample: with them, sliced score matching is exact."""
    return (size.d**0.5 * torch.eye(size.d))[:, None].repeat(1, size.B, 1)


def exact_answer(p: Problem) -> Answer:
    """Nested autograd in float64, one direction after the other: no formula of any contender."""
    net, x, v = deepcopy(p.net).double().requires_grad_(), p.x.double().requires_grad_(), p.v.double()
    score = net(x)
    if p.case.kind == "energy":
        (score,) = torch.autograd.grad(-score.sum(), x, create_graph=True)
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


def relative_error(found: Answer, exact: Answer) -> float:
    """Largest of the relative errors of the value and, in the maximum norm, of each gradient found.

    A gradient that is zero (the last bias) is measured against the largest of all gradients.
    """
    largest = torch.stack([g.abs().max() for g in exact.gradients]).max()
    pairs = [(found.value, exact.value), *zip(found.gradients, exact.gradients, strict=False)]
    errors = [(got.double() - want).abs().max() / (want.abs().max() if want.any() else largest) for got, want in pairs]
    return float(torch.stack(errors).max())


def gradient_error(found: Answer, exact: Answer) -> float | None:
    """Relative error of all gradients taken together as one vector, in the Euclidean norm; None without gradients."""
    if not found.gradients:
        return None
    got, want = (torch.cat([g.double().flatten() for g in a.gradients]) for a in (found, exact))
    return float((got - want).norm() / want.norm())
