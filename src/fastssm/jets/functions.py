"""The loss and the terms over a whole batch, tile by tile, as functions that autograd differentiates once.

Each tile runs forward and backward before the next: memory is that of one tile, whatever the number of samples and of
directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm.checks import widened
from fastssm.directions import Directions
from fastssm.jets import tile as tiles
from fastssm.jets.draws import restore, state_of
from fastssm.jets.tile import Tile
from fastssm.sweeps import Terms

Model = Callable[..., Tensor]


class Problem(NamedTuple):
    """One call.

    Attributes:
        model: called as `model(x, *cond)`, with tensors alone.
        kind: "energy" or "score".
        directions: M directions per sample.
        samples: samples per tile; 0 for all.
        chunk: directions per tile.
        each: whether the Jacobian's term is wanted for each direction.
    """

    model: Model
    kind: str
    directions: Directions
    samples: int
    chunk: int
    each: bool


class Part(NamedTuple):
    """A tile, where it lies in the batch, and its tensors that are differentiated."""

    tile: Tile
    samples: slice
    chunk: slice
    x: Tensor
    cond: tuple[Tensor, ...]


def parts(problem: Problem, x: Tensor, cond: Sequence[Tensor], *, detach: bool = True) -> Iterator[Part]:
    """Yield the tiles of a batch; their x, and what of cond requires grad, are leaves of their own if `detach`."""
    batch, total = len(x), problem.directions.count
    size, width = problem.samples or max(batch, 1), problem.chunk or total
    for samples in _slices(batch, size):
        some = x[samples]
        given = tuple([c[samples] if c.ndim and len(c) == batch else c for c in cond])
        if detach:
            some = some.detach().requires_grad_()
            given = tuple([g.detach().requires_grad_(c.requires_grad) for g, c in zip(given, cond, strict=True)])
        like = some.detach().flatten(1)
        state = state_of(x) if width < total else []
        for first in range(0, total, width):
            if first:
                restore(x, state)
            chunk = slice(first, min(first + width, total))
            v = problem.directions.tile(samples, chunk, like)
            v = v.reshape(len(v), *some.shape)
            run = _run(problem.model, given)
            yield Part(Tile(run, problem.kind, some, v, total), samples, chunk, some, given)


def _slices(batch: int, size: int) -> Iterator[slice]:
    """Cut a batch into tiles of a size, or one more: a tile of one sample is no batch to a model that squeezes."""
    start = 0
    while start < batch or start == 0:
        stop = min(start + size, batch)
        stop = batch if stop == batch - 1 else stop
        yield slice(start, stop)
        start = max(stop, 1)


def _run(model: Model, cond: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x, *cond)


class Sums:
    """Gradients over the tiles: of weights added up, of samples put in their places."""

    def __init__(self, x: Tensor, cond: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        self.x = torch.zeros_like(x, requires_grad=False) if x.requires_grad else None
        self.cond = [torch.zeros_like(c) if c.requires_grad else None for c in cond]
        self.weights: list[Tensor | None] = [None] * len(weights)
        self.leaves = list(weights)

    def add(self, part: Part, number: Tensor) -> None:
        """Add the gradient of a number that a tile gave."""
        wanted = [part.x] if self.x is not None else []
        wanted += [c for c, total in zip(part.cond, self.cond, strict=True) if total is not None]
        wanted += self.leaves
        if not wanted or not number.requires_grad:
            return
        found = list(torch.autograd.grad(number, wanted, allow_unused=True))
        if self.x is not None and (on_x := found.pop(0)) is not None:
            self.x[part.samples] += on_x
        for total, c in zip(self.cond, part.cond, strict=True):
            if total is not None and (on_c := found.pop(0)) is not None:
                whole = total.ndim == 0 or total.shape == c.shape
                (total if whole else total[part.samples]).add_(on_c)
        for i, on_w in enumerate(found):
            total = self.weights[i]
            if on_w is not None:
                self.weights[i] = on_w if total is None else total.add_(on_w)

    def result(self) -> list[Tensor | None]:
        """Return the gradients of x, of the conditioning arguments and of the weights."""
        weights = [torch.zeros_like(w) if g is None else g for g, w in zip(self.weights, self.leaves, strict=True)]
        return [self.x, *self.cond, *weights]


def objective(
    problem: Problem, x: Tensor, cond: Sequence[Tensor], weight: Tensor, variance_reduced: bool, sums: Sums | None
) -> tuple[Tensor, Tensor]:
    """Return the two terms of each sample's loss; add the gradients of the weighted sum."""
    jacobian, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for part in parts(problem, x, cond):
        with torch.enable_grad():
            number, *terms = tiles.objective(part.tile, weight[part.samples], variance_reduced, part.chunk.start == 0)
        jacobian[part.samples] += terms[0]
        square[part.samples] += terms[1]
        if sums is not None:
            sums.add(part, number)
    return jacobian, square


def all_terms(problem: Problem, x: Tensor, cond: Sequence[Tensor]) -> Terms:
    """Return the terms of every sample."""
    batch, total = len(x), problem.directions.count
    flat = widened(x).flatten(1)
    jacobian = flat.new_zeros((total, batch) if problem.each else (batch,))
    found = Terms(flat.new_empty(total, batch), jacobian, torch.empty_like(flat))
    for samples, chunk, some in _tile_terms(problem, x, cond):
        found.projected_score[chunk, samples] = some.projected_score
        if problem.each:
            jacobian[chunk, samples] = some.projected_jacobian
        else:
            jacobian[samples] += some.projected_jacobian
        found.score[samples] = some.score
    return found


def _tile_terms(problem: Problem, x: Tensor, cond: Sequence[Tensor]) -> Iterator[tuple[slice, slice, Terms]]:
    for part in parts(problem, x, cond):
        with torch.enable_grad():
            found = tiles.terms(part.tile, problem.each)
        yield part.samples, part.chunk, Terms(*[t.detach() for t in found])


def pull_back(problem: Problem, x: Tensor, cond: Sequence[Tensor], given: Terms, sums: Sums) -> None:
    """Add the gradients of a function of the terms, given its cotangents."""
    for part in parts(problem, x, cond):
        first = part.chunk.start == 0
        on_score = given.score[part.samples] if first else torch.zeros_like(given.score[part.samples])
        where = (part.chunk, part.samples) if problem.each else (part.samples,)
        some = Terms(given.projected_score[part.chunk, part.samples], given.projected_jacobian[where], on_score)
        with torch.enable_grad():
            number = tiles.pulled_back(part.tile, some)
        sums.add(part, number)
