"""The benchmark problems, and the float64 answers that contenders are checked against."""

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
    """Features, hidden width, hidden layers, batch and projections, as in the CSV columns."""

    d: int
    H: int
    L: int
    B: int
    M: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Parse a size such as ``"100,512,3,1024,1"``."""
        numbers = [int(part) for part in text.split(",")]
        if len(numbers) != len(cls._fields) or min(numbers) < 1:
            raise ValueError(f"a size must be five positive integers d,H,L,B,M, got {text!r}")
        return cls(*numbers)

    def __str__(self) -> str:
        """Return the size as text for :meth:`parse`."""
        return ",".join(map(str, self))


GRID = (
    Size(2, 64, 2, 128, 1),
    Size(2, 128, 3, 512, 1),
    Size(10, 256, 3, 1024, 1),
    Size(100, 512, 3, 1024, 1),
    Size(784, 1024, 3, 512, 1),
    Size(100, 512, 3, 1024, 8),
)
SMALLEST = (Size(20, 32, 2, 64, 1), Size(5, 16, 2, 32, 1))


class Case(NamedTuple):
    """A network and its data: size, activation, and kind of output (energy or score)."""

    size: Size
    activation: str = "softplus"
    kind: str = "energy"

    def columns(self) -> dict[str, Any]:
        """Return the columns of the CSV file."""
        return {"kind": self.kind, "activation": self.activation} | self.size._asdict()

    def __str__(self) -> str:
        """Return the name, also used in file names."""
        return f"{self.size} {self.activation} {self.kind}"


class Problem(NamedTuple):
    """A network E: R^d -> R or s: R^d -> R^d, data ``x [B, d]``, directions ``v [M, B, d]`` and the loss.

    The exact loss is SSM along the M = d directions ``sqrt(d) e_i``, which are then ``v``.
    """

    net: nn.Sequential
    x: Tensor
    v: Tensor
    loss: str
    case: Case

    @property
    def variance_reduced(self) -> bool:
        """Whether the loss uses the squared norm of the score instead of squared projections."""
        return self.loss == "SSM-VR"


class Answer(NamedTuple):
    """A loss and its gradient for every parameter (zeros if it does not depend on it)."""

    value: Tensor
    gradients: tuple[Tensor, ...]


def problem(case: Case, loss: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Problem:
    """Draw a problem; every dtype gets the same rounded numbers."""
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
    """Return the directions ``sqrt(d) e_i`` of every sample, for which sliced score matching is exact."""
    return (size.d**0.5 * torch.eye(size.d))[:, None].repeat(1, size.B, 1)


def exact_answer(p: Problem) -> Answer:
    """Return the answer by nested autograd in float64, independent of the formulas of the contenders."""
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
    """Return the exact answer, cached in ``file``."""
    if not file.exists():
        torch.save(tuple(exact_answer(p)), file)
    return Answer(*torch.load(file))


def relative_error(found: Answer, exact: Answer) -> float:
    """Return the maximum of the relative errors of the value and, in the maximum norm, of each gradient.

    The error of a zero gradient (the last bias) is relative to the largest gradient.
    """
    largest = torch.stack([g.abs().max() for g in exact.gradients]).max()
    pairs = [(found.value, exact.value), *zip(found.gradients, exact.gradients, strict=False)]
    errors = [(got.double() - want).abs().max() / (want.abs().max() if want.any() else largest) for got, want in pairs]
    return float(torch.stack(errors).max())


def gradient_error(found: Answer, exact: Answer) -> float | None:
    """Return the relative error of all gradients as one vector, in the Euclidean norm; None without gradients."""
    if not found.gradients:
        return None
    got, want = (torch.cat([g.double().flatten() for g in a.gradients]) for a in (found, exact))
    return float((got - want).norm() / want.norm())
