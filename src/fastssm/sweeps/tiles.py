"""The engine's three functions, tile by tile: memory does not grow with the batch.

Each tile of samples runs the forward and the backward sweep before the next tile. Gradients of weights are summed,
those of samples are concatenated. More directions than a tile can hold are processed in chunks, which are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm.directions import Directions
from fastssm.recognition import Layer
from fastssm.sweeps import energy, score
from fastssm.sweeps.layers import Gradients, Needs, first_rows
from fastssm.sweeps.terms import Cotangents, Pulled, Terms

TILE_ROWS = 1536
MAX_DIRECTIONS = 256


class Problem(NamedTuple):
    """One call of the engine.

    Attributes:
        kind: "energy" or "score".
        layers: the network as tensors.
        x: data `[B, D]`.
        columns: conditioning columns `[B, C]` of the first layer, or None.
        directions: M directions per sample.
    """

    kind: str
    layers: list[Layer]
    x: Tensor
    columns: Tensor | None
    directions: Directions


class Objective(NamedTuple):
    """A loss with its gradients.

    Attributes:
        projected_jacobian: `mean_m v_m^T J v_m`, `[B]`.
        square: `mean_m (v_m . s)^2 / 2`, or `|s|^2 / 2` with variance reduction, `[B]`.
        gradients: of `x` and the columns (None where not needed), of the layers' shared tensors, of their samples'.
    """

    projected_jacobian: Tensor
    square: Tensor
    gradients: FullGradients | None


class FullGradients(NamedTuple):
    """Gradients over the whole batch; fields not requested are None."""

    inputs: Tensor | None
    layers: Gradients | None


def objective(
    problem: Problem, weight: Tensor, variance_reduced: bool, needs: Needs, target: Tensor | None = None
) -> Objective:
    """Return the terms of the sliced loss and the gradient of `sum_b weight_b loss_b`, in one pass over the tiles.

    With a target `[B, D]` and no directions, it is the denoising loss: `square` is `|s - target|^2 / 2`.
    """
    total, batch = problem.directions.count, problem.x.shape[0]
    terms, sums = _Samples(batch), _Sums(needs, batch)
    for samples in _tiles(problem):
        tile = _of(problem, samples)
        for chunk in _chunks(total):
            v = problem.directions.tile(samples, chunk, tile.x)
            first = chunk.start == 0
            towards = None if target is None else target[samples]
            jacobian, square, pulled = _part(tile, v, total, weight[samples], variance_reduced, first, needs, towards)
            terms.add(samples, [jacobian, square])
            sums.add(samples, pulled)
    jacobian, square = terms.full
    return Objective(jacobian, square, sums.result())


def _part(
    tile: Problem,
    v: Tensor,
    total: int,
    weight: Tensor,
    variance_reduced: bool,
    first: bool,
    needs: Needs,
    target: Tensor | None,
) -> tuple[Tensor, Tensor, Pulled | None]:
    """Return the contribution of a tile's chunk of directions; `|s|^2` enters with the first chunk only."""
    rows = first_rows(tile.x, tile.columns, v)
    if tile.kind == "energy" and not variance_reduced:
        return energy.sliced(tile.layers, rows, total, weight, needs)

    def off(score: Tensor) -> Tensor:
        return score if target is None else score - target

    def cotangents(terms: Terms) -> tuple[Tensor, Tensor]:
        if not variance_reduced:
            return torch.einsum("mb,mbd->bd", terms.projected_score * (weight / total), v), weight
        return (off(terms.score) * weight[:, None] if first else torch.zeros_like(terms.score)), weight

    terms, pulled = run(tile, rows, v, total, cotangents if any(needs) else None, needs)
    if not variance_reduced:
        return terms.projected_jacobian, terms.projected_score.square().sum(0) * (0.5 / total), pulled
    square = off(terms.score).square().sum(1) * 0.5
    return terms.projected_jacobian, square if first else torch.zeros_like(square), pulled


def run(
    tile: Problem,
    rows: Tensor,
    v: Tensor,
    total: int,
    cotangents: Cotangents | None,
    needs: Needs,
    each: bool = False,
) -> tuple[Terms, Pulled | None]:
    """Run the sweeps of the network's kind."""
    sweep = energy.merged if tile.kind == "energy" else score.stacked
    return sweep(tile.layers, rows, v, 1 if each else max(total, 1), cotangents, needs, each)


def terms(problem: Problem, each: bool = False) -> Terms:
    """Return the terms of every sample: the forward sweep, and for an energy the chain of its score.

    With `each`, the Jacobian's term is that of every direction, `[M, B]`, instead of their mean. Without directions
    (M = 0) only the score is computed, and the Jacobian's term is zero, or NaN where something is not finite.
    """
    total, batch, x = problem.directions.count, problem.x.shape[0], problem.x
    jacobian = x.new_zeros((total, batch) if each else (batch,))
    found = Terms(x.new_empty(total, batch), jacobian, torch.empty_like(x))
    for samples in _tiles(problem):
        tile = _of(problem, samples)
        for chunk in _chunks(total):
            v = problem.directions.tile(samples, chunk, tile.x)
            rows = first_rows(tile.x, tile.columns, v)
            part = run(tile, rows, v, total, None, Needs(False, False), each)[0]
            found.projected_score[chunk, samples] = part.projected_score
            (jacobian[chunk, samples] if each else jacobian[samples]).add_(part.projected_jacobian)
            found.score[samples] = part.score
    return found


def terms_backward(problem: Problem, given: Terms, needs: Needs) -> FullGradients | None:
    """Return the gradient of any function of the terms, given its cotangents; recomputes the forward sweep."""
    total, each = problem.directions.count, given.projected_jacobian.ndim == 2
    sums = _Sums(needs, problem.x.shape[0])
    for samples in _tiles(problem):
        tile = _of(problem, samples)
        for chunk in _chunks(total):
            v = problem.directions.tile(samples, chunk, tile.x)
            on_score = given.score[samples] if chunk.start == 0 else torch.zeros_like(tile.x)
            if total:
                on_score = on_score + torch.einsum("mb,mbd->bd", given.projected_score[chunk, samples], v)
            pair = on_score, given.projected_jacobian[chunk, samples] if each else given.projected_jacobian[samples]
            rows = first_rows(tile.x, tile.columns, v)
            sums.add(samples, run(tile, rows, v, total, partial(_given, pair), needs, each)[1])
    return sums.result()


def _given(pair: tuple[Tensor, Tensor], _: Terms) -> tuple[Tensor, Tensor]:
    """Return cotangents that were known before the terms."""
    return pair


class _Samples:
    """Tensors with a row per sample, filled tile by tile; chunks of a tile's directions add up.

    Results are copied: keeping views of a tile would keep its large stacks alive or fragment the heap.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.full: list[Tensor] = []

    def add(self, samples: slice, rows: list[Tensor]) -> None:
        if not self.full and samples.stop - samples.start == self.batch:
            self.full = rows
            return
        self.full = self.full or [row.new_zeros(self.batch, *row.shape[1:]) for row in rows]
        for full, row in zip(self.full, rows, strict=True):
            full[samples].add_(row)


class _Sums:
    """Gradients: those of weights are summed over tiles, those of samples are copied into place."""

    def __init__(self, needs: Needs, batch: int) -> None:
        self.needs = needs
        self.shared: list[Tensor] = []
        self.samples = _Samples(batch)

    def add(self, samples: slice, pulled: Pulled | None) -> None:
        if pulled is None:
            return
        shared = pulled.layers.shared
        self.shared = [a.add_(b) for a, b in zip(self.shared, shared, strict=True)] if self.shared else shared
        self.samples.add(samples, [pulled.inputs] * self.needs.inputs + pulled.layers.samples)

    def result(self) -> FullGradients | None:
        if not any(self.needs):
            return None
        inputs = self.samples.full[0] if self.needs.inputs else None
        return FullGradients(inputs, Gradients(self.shared, self.samples.full[int(self.needs.inputs) :]))


def _of(problem: Problem, samples: slice) -> Problem:
    """Return the part of a problem that belongs to some samples."""
    if samples.stop - samples.start == problem.x.shape[0]:
        return problem
    layers = [
        layer._replace(
            scale=None if layer.scale is None else layer.scale[samples],
            shift=None if layer.shift is None else layer.shift[samples],
        )
        for layer in problem.layers
    ]
    columns = None if problem.columns is None else problem.columns[samples]
    return problem._replace(layers=layers, x=problem.x[samples], columns=columns)


def _tiles(problem: Problem) -> Iterator[slice]:
    """Cut the batch into tiles of about `TILE_ROWS` stacked rows; torch.compile gets one tile and fuses it."""
    batch, count = problem.x.shape[0], min(problem.directions.count, MAX_DIRECTIONS)
    if torch.compiler.is_compiling():
        yield slice(0, batch)
        return
    size = max(1, TILE_ROWS // (count + 2))
    for start in range(0, max(batch, 1), size):  # an empty batch is one empty tile
        yield slice(start, min(batch, start + size))


def _chunks(total: int) -> Iterator[slice]:
    size = max(total, 1) if torch.compiler.is_compiling() else MAX_DIRECTIONS
    for start in range(0, max(total, 1), size):  # no directions are one empty chunk
        yield slice(start, min(total, start + size))
