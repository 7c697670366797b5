"""One network of the collection, with the data that it is tried on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH, DIRECTIONS = 3, 2


def times(count: int) -> Tensor:
    """Return a time in (0, 1) for each sample, `[B]`."""
    return 0.1 + 0.8 * torch.rand(count)


def columns(width: int) -> Callable[[int], Tensor]:
    """Return a draw of conditioning vectors, `[B, width]`."""
    return lambda count: torch.randn(count, width)


def labels(classes: int) -> Callable[[int], Tensor]:
    """Return a draw of integer labels, `[B]`."""
    return lambda count: torch.randint(classes, (count,))


@dataclass(frozen=True)
class Problem:
    """A network in float64 with one batch."""

    model: nn.Module
    x: Tensor
    v: Tensor
    cond: tuple[Tensor, ...]


@dataclass(frozen=True)
class Net:
    """A network as people write them.

    Attributes:
        name: unique in the collection.
        family: the file that it is in.
        build: makes the module.
        shape: of one sample.
        kind: "energy" or "score".
        cond: draws of the arguments after x.
        train: whether it is used in train mode; in eval mode otherwise.
        settle: calls in train mode beforehand, which move running statistics and power iterations.
        coupled: whether it mixes samples.
        spread: of the data.
        step: of finite differences in x; small where the network has kinks or high frequencies.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kind: str = "energy"
    cond: tuple[Callable[[int], Tensor], ...] = ()
    train: bool = True
    settle: int = 0
    coupled: bool = False
    spread: float = 0.8
    step: float = 0.01

    @property
    def dim(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def energy(self) -> bool:
        return self.kind == "energy"

    def problem(self) -> Problem:
        """Build the network anew, the same each time: modules with hooks cannot be copied."""
        torch.manual_seed(zlib.crc32(self.name.encode()))
        model = self.build()
        with torch.no_grad():
            for p in filter(lambda p: p.requires_grad, model.parameters()):
                p.add_(0.1 * torch.randn_like(p))  # so that no zero or one of an initialisation hides anything
        model = model.double()
        x = self.spread * torch.randn(BATCH, *self.shape, dtype=torch.float64)
        v = torch.randn(DIRECTIONS, BATCH, *self.shape, dtype=torch.float64)
        cond = tuple(draw(BATCH) for draw in self.cond)
        cond = tuple(c.double() if c.is_floating_point() else c for c in cond)
        with torch.no_grad():
            for _ in range(self.settle):
                model(x + 0.1 * torch.randn_like(x), *cond)
        return Problem(model.train(self.train), x, v, cond)
