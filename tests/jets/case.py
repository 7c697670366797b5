"""What a case of the rules of jets is: an energy, or a score network, around one function.

`f(x, *w)` of data `[B, *shape]` and of parameters of given shapes becomes an energy by adding up its entries with
weights that no symmetry makes simple. Functions that are not smooth get data off their kinks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

BATCH, DIRECTIONS = 4, 3
DTYPE = torch.float64
RTOL = 1e-10


@dataclass(frozen=True)
class Case:
    """A function that jets have a rule for.

    Attributes:
        name: unique among all cases.
        function: called with x, the weights and the module.
        shape: of one sample.
        weights: shapes of the parameters.
        positive: whether the data are in (0.4, 1.4).
        module: makes a module with parameters of its own.
        written: the same function by primitives, where PyTorch's own derivatives are wrong, missing or another's.
        train: whether the module is in train mode.
        rtol: how closely the results agree.
    """

    name: str
    function: Callable[..., Any]
    shape: tuple[int, ...] = (6,)
    weights: tuple[tuple[int, ...], ...] = ()
    positive: bool = False
    module: Callable[[], nn.Module] | None = None
    written: Callable[..., Any] | None = None
    train: bool = True
    rtol: float = RTOL

    def by_primitives(self) -> Case:
        """Return the case that the oracle differentiates."""
        return self if self.written is None else replace(self, function=self.written)


class Network(nn.Module):
    """What a case's function makes of data, with that data; the same each time it is built."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=DTYPE)

        self.weights = nn.ParameterList(0.7 * drawn(*shape) for shape in case.weights)
        self.x, self.v = drawn(BATCH, *case.shape), drawn(DIRECTIONS, BATCH, *case.shape)
        if case.positive:
            self.x = 0.9 + 0.5 * self.x.tanh()
        self.extra = []
        if case.module is not None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.module = case.module().double().train(case.train)
                for p in self.module.parameters():
                    p.data += 0.3 * drawn(*p.shape)  # so that no zero or one of an initialisation hides anything
            self.extra = [self.module]

    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        found = self.case.function(x, *self.weights, *self.extra)
        return found if isinstance(found, tuple | list) else [found]


class Energy(Network):
    """`sum(c f(x, w))` for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        total: Any = 0.0
        for part in self.outputs(x):
            if part.is_complex():
                part = torch.view_as_real(part.resolve_conj())
            flat = part.reshape(x.shape[0], -1)
            total = total + (flat * torch.linspace(0.6, 1.7, flat.shape[1], dtype=flat.dtype)).sum(1)
        return total


class Score(Network):
    """`f(x, w)`, which is as large as x."""

    def forward(self, x: Tensor) -> Tensor:
        (found,) = self.outputs(x)
        return found


def one(name: str, function: Callable[..., Any], *weights: tuple[int, ...], **options: Any) -> Case:
    """Return a case, with the shapes of its parameters."""
    return Case(name, function, weights=weights, **options)


def named(
    names: str, function: Callable[[Any], Callable[..., Any]], places: Sequence[Any], **options: Any
) -> list[Case]:
    """Return a case for each of some functions, by their names in the first of some modules that has them."""
    found = []
    for name in names.split():
        place = next(place for place in places if hasattr(place, name))
        found.append(one(name, function(getattr(place, name)), **options))
    return found


def curved(z: Tensor) -> Tensor:
    """Return a function that is not linear: rules of linear functions get curvature to carry."""
    return torch.tanh(z) * 1.5


def grid(x: Tensor, rows: int = 2) -> Tensor:
    """Return six numbers of each sample as a matrix `[B, 2, 3]`, curved."""
    return curved(x).reshape(x.shape[0], rows, -1)


def each(x: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """Apply a function of one sample to all."""
    return torch.stack([function(row) for row in x])
