"""The terms of sliced score matching of one tile of samples, and their gradients, by jets.

An energy's curvature row is linear in the row that it starts from. Started from `k_0`, the row of the output is
`sum_m v_m^T H v_m + k_0 . dE/dx`: with `k_0` a constant, this one number per sample has the gradient of any function of
the score and of the Jacobian's term.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fastssm.checks import widened
from fastssm.errors import UnsupportedError
from fastssm.jets.jet import Jet, Seen, Tape, functional
from fastssm.sweeps import Terms

Run = Callable[[Tensor], Tensor]
"""A model as a function of its data alone."""


class Tile(NamedTuple):
    """Some samples and some of their directions.

    Attributes:
        run: the model as a function of x.
        kind: "energy" or "score".
        x: data `[T, ...]`.
        v: directions `[m, T, ...]`.
        total: M, of which these are m.
        once: whether the model must run once only, because it draws random numbers or changes a buffer.
    """

    run: Run
    kind: str
    x: Tensor
    v: Tensor
    total: int
    once: bool = False

    @property
    def flat(self) -> Tensor:
        """The directions `[m, T, D]`."""
        return self.v.flatten(2)


def objective(tile: Tile, weight: Tensor, variance_reduced: bool, first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return a number with the gradient of the weighted sliced loss, and the two terms of each sample, `[T]`.

    Args:
        tile: samples and directions.
        weight: `dLoss / dloss_b`, `[T]`.
        variance_reduced: whether `|s|^2 / 2` replaces `mean_m (v_m . s)^2 / 2`.
        first: whether these are the first directions of the samples: `|s|^2` enters once.
    """
    if tile.kind == "score":
        found = _score_terms(tile)
        square = _square(found, tile.total, variance_reduced, first)
        return torch.dot(weight, found.projected_jacobian + square), found.projected_jacobian.detach(), square.detach()
    if tile.once and variance_reduced and functional():
        slope, _, top = _at_once(tile)
        jacobian, square = top / -tile.total, widened(slope).flatten(1).square().sum(1) * 0.5
        return torch.dot(weight, jacobian + square), jacobian.detach(), square.detach()
    u = gradient(tile).detach() if variance_reduced and first and functional() else None
    output, tape = _forward(tile)
    slopes = widened(output.tangents).flatten(1)
    if not variance_reduced:
        top = _top(tape, None, output)
        jacobian, square = top / -tile.total, slopes.square().sum(0) * (0.5 / tile.total)
        return torch.dot(weight, jacobian + square), jacobian.detach(), square.detach()
    u = gradient(tile, output) if first and u is None else u
    top = _top(tape, None if u is None else (-tile.total * u)[None], output)
    jacobian = top.detach() / -tile.total
    if u is None:
        return torch.dot(weight, top / -tile.total), jacobian, torch.zeros_like(jacobian)
    norm = widened(u).flatten(1).square().sum(1)
    return torch.dot(weight, top / -tile.total - 0.5 * norm), jacobian - norm, 0.5 * norm


def _square(found: Terms, total: int, variance_reduced: bool, first: bool) -> Tensor:
    if not variance_reduced:
        return found.projected_score.square().sum(0) * (0.5 / total)
    return found.score.square().sum(1) * (0.5 if first else 0.0)


def terms(tile: Tile, each: bool = False, differentiable: bool = False) -> Terms:
    """Return the terms of a tile.

    Args:
        tile: samples and directions.
        each: return the Jacobian's term of each direction, `[m, T]`, not their sum over M.
        differentiable: let autograd differentiate an energy's score; otherwise it is a constant.
    """
    if tile.kind == "score":
        return _score_terms(tile, each)
    if functional() and tile.once:
        slope, tangents, top = _at_once(tile, each)
    else:
        found = gradient(tile) if functional() else None
        output, tape = _forward(tile, each, twice=differentiable)
        slope = gradient(tile, output, differentiable) if found is None else found
        tangents, top = output.tangents, _top(tape, None, output)
    score = -widened(slope if differentiable else slope.detach()).flatten(1)
    return Terms(-widened(tangents).flatten(1), -top if each else top / -tile.total, score)


def pulled_back(tile: Tile, given: Terms) -> Tensor:
    """Return a number with the gradient of a function of the terms, given its cotangents.

    Args:
        tile: samples and directions.
        given: cotangents in the shapes of `terms`.
    """
    on_projected, on_jacobian, on_score = given
    each = on_jacobian.ndim == 2
    if tile.kind == "score":
        found = _score_terms(tile, each)
        return sum(((a * b).sum() for a, b in zip(found, given, strict=True)), torch.zeros_like(found.score[:0].sum()))
    on_slope = -(on_score + torch.einsum("mt,mtd->td", on_projected, tile.flat))  # on dE/dx
    factor = on_jacobian * (-1.0 if each else -1.0 / tile.total)  # on the second derivatives, [T] or [m, T]
    rows = factor if each else factor[None]
    least = rows.new_full((1,), torch.finfo(rows.dtype).tiny)
    size = torch.cat([rows.flatten(), on_slope.flatten(), least]).abs().amax()
    lengths, rows = _squares(rows / size)
    start = (on_slope / size / rows[0, :, None]).view_as(tile.x)[None].to(tile.x.dtype)
    if each:
        start = torch.cat([start, torch.zeros_like(tile.v[1:])])
    v = tile.v * lengths.view(len(lengths), -1, *[1] * (tile.x.ndim - 1)).to(tile.v.dtype)
    output, tape = _forward(tile._replace(v=v), each)
    return size * (_rows(tape.curvature(start, output), output) * rows).sum()


def _squares(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return powers of two s, and f of size 1/2 to 2, with `s^2 f` the given factors, however small; s = 0 for zero."""
    exponents = torch.frexp(factors).exponent
    used, s = factors != 0.0, torch.exp2((exponents // 2).to(factors.dtype))
    return torch.where(used, s, 0.0), torch.where(used, factors / s / s, 1.0)


def expanded(run: Run, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[T, ...]` of a function, and their first and second derivatives along each direction.

    Args:
        run: what to run, with any number of values per sample.
        x: data `[T, ...]`.
        v: directions `[m, T, ...]`.
    """
    output, tape = _forward(Tile(run, "energy", x, v, len(v)), each=True)
    found = tape.curvature(None, output)
    return output.value, output.tangents, torch.zeros_like(output.tangents) if found is None else found


def gradient(tile: Tile, output: Jet | None = None, differentiable: bool = False) -> Tensor:
    """Return `dE/dx` of an energy, `[T, ...]`.

    Args:
        tile: samples and directions.
        output: the energy; None to run the model again inside a transform of `torch.func`.
        differentiable: let autograd differentiate the gradient, as it can after a transform.
    """
    if output is None:
        with Seen():
            slope: Tensor = torch.func.grad(lambda x: tile.run(x).sum())(tile.x)
        return slope
    (found,) = torch.autograd.grad(output.value.sum(), tile.x, retain_graph=True, create_graph=differentiable)
    return found


def _at_once(tile: Tile, each: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return `dE/dx`, the tangents of the energies and the row of their second derivatives, by one forward."""

    def run(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, tape = _forward(tile._replace(x=x), each)
        return output.value.sum(), (output.tangents, _top(tape, None, output))

    slope, (tangents, top) = torch.func.grad(run, has_aux=True)(tile.x)
    return slope, tangents, top


def _forward(tile: Tile, each: bool = False, twice: bool = False) -> tuple[Jet, Tape]:
    tape = Tape(len(tile.v), tile.kind == "energy", each, twice)
    with Seen() if torch.compiler.is_compiling() else nullcontext():
        output = tile.run(tape.jet(tile.x, tile.v.to(tile.x.dtype)))
    if not isinstance(output, Jet):
        raise UnsupportedError(
            "the model's output does not depend on x, so all its derivatives would be zero; look for .detach(), .data "
            "or a call of NumPy in its forward."
        )
    return output, tape


def _score_terms(tile: Tile, each: bool = False) -> Terms:
    output, _ = _forward(tile)
    score, along = widened(output.value).flatten(1), widened(output.tangents).flatten(2)
    v = tile.flat.to(score.dtype)
    jacobian = (along * v).sum(2)
    return Terms((v * score).sum(2), jacobian if each else jacobian.sum(0) / tile.total, score)


def _top(tape: Tape, start: Tensor | None, output: Jet) -> Tensor:
    rows = _rows(tape.curvature(start, output), output)
    return rows if tape.each else rows[0]


def _rows(found: Tensor | None, output: Jet) -> Tensor:
    """Return the curvature of energies `[R, T]`, zero where nothing is curved."""
    if found is None:
        count = output.tape.count if output.tape.each else 1
        return widened(output.value).flatten().expand(count, -1) * 0.0
    rows = widened(found).flatten(1)
    if torch.compiler.is_compiling():  # NaN where the value is: an operation that Dynamo passed by gave it
        rows = rows + widened(output.value).detach().flatten() * 0.0
    return rows
