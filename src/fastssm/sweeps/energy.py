"""Energy nets, `log p = -E`: one tile of samples up and down.

With `E1_m = v_m . dE/dx` and `E2 = sum_m v_m^T (d2E/dx2) v_m`, the score's terms are `v_m . s = -E1_m` and
`sum_m v_m^T J v_m = -E2`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.recognition import Layer
from fastssm.sweeps.layers import (
    Gradients,
    Needs,
    Trace,
    below,
    collect,
    down_curved,
    down_straight,
    in_order,
    parts,
    product,
    up,
    with_plain_readout,
)
from fastssm.sweeps.terms import Cotangents, Pulled, Terms


def sliced(
    layers: list[Layer], rows: Tensor, total: int, weight: Tensor, needs: Needs
) -> tuple[Tensor, Tensor, Pulled | None]:
    """Sliced score matching in three stacked products per layer: `-E2 / M + mean_m E1_m^2 / 2`, up and down.

    Args:
        layers: the network's layers.
        rows: first stack `[m + 1, T, D]`.
        total: M, of which this tile sees m directions.
        weight: `dLoss / dloss_b`, `[T]`.
        needs: which gradients to compute.

    Returns:
        The two terms `[T]` of the loss, and the gradients where any is needed.
    """
    *hidden, readout = with_plain_readout(layers)
    count, traces = len(rows) - 1, []
    for layer in hidden:
        rows, trace = up(layer, rows, count, order=3 if any(needs) else 2, curvature=True)
        traces.append(trace)
    e, e1, *e2 = parts(product(rows, readout.weight.t()), count)
    jacobian = nan_of(e, readout) - e2[0] / total if hidden else nan_of(e, readout) + 0.0 * e1.sum(0)
    square = e1.square().sum(0) * (0.5 / total)
    if not any(needs):
        return jacobian.view(-1), square.view(-1), None
    # the tops' cotangents: none on E itself, c1 = E1 / M, c2 = -1 / M, each times the sample's weight
    share = (weight / total)[None, :, None]
    c = torch.cat([torch.zeros_like(share), e1 * share, -share][: 2 + (len(hidden) > 0)])
    adjoints = c * readout.weight
    top = torch.mm(c.view(1, -1), rows.view(-1, rows.shape[2])) if needs.tensors else None
    found = [] if top is None else [_of_readout(readout, top)]
    for level in reversed(range(len(hidden))):
        layer, trace = hidden[level], traces[level]
        *above, g = parts(adjoints, count)
        pieces = [*down_curved(trace, above, trace.zk, g, g, trace.q), trace.derivatives[0] * g]
        adjoint, grads = collect(layer, trace.rows, trace.raw, torch.cat(pieces), needs)
        found.append(grads)
        if level > 0:
            adjoints = below(layer, adjoint, adjoints)
        elif needs.inputs:
            adjoints = below(layer, adjoint[:1], adjoints[:1])
    return jacobian.view(-1), square.view(-1), Pulled(in_order(found), adjoints[0])


def merged(
    layers: list[Layer],
    rows: Tensor,
    v: Tensor,
    total: int,
    cotangents: Cotangents | None,
    needs: Needs,
    each: bool = False,
) -> tuple[Terms, Pulled | None]:
    """All terms, and the gradient of any function of them, in as many products' worth of rows as `sliced`.

    The chain `g = dE/dh` runs first and gives the score; then one curvature row carries both cotangents of that chain,
    the score's (where it starts) and the Jacobian's (what accumulates along it). Without directions there is nothing
    to collect: the same chain and row, with one derivative of the activation less.

    Args:
        layers: the network's layers.
        rows: first stack `[m + 1, T, D + C]`.
        v: directions `[m, T, D]`.
        total: M, of which this tile sees m directions.
        cotangents: from the terms to their cotangents; None for the terms alone.
        needs: which gradients to compute.
        each: return the Jacobian's term of every direction, divided by `total`, instead of their sum.
    """
    *hidden, readout = with_plain_readout(layers)
    count, traces = len(v), []
    order = (2 if cotangents is None else 3) - (count == 0)
    for layer in hidden:
        rows, trace = up(layer, rows, count, order=order)
        traces.append(trace)
    energy = product(rows[:1], readout.weight.t())
    e2, u, chain = _adjoint_chain(hidden, traces, readout.weight.expand(1, rows.shape[1], -1), each)
    score = -u[0, :, : v.shape[2]]
    projected = (v * score).sum(2)
    if not hidden:
        e2 = (projected if each else projected.sum(0)) * 0.0  # zero, and NaN where a direction is
    terms = Terms(projected, nan_of(energy, readout).view(-1) - e2 / total, score)
    if cotangents is None:
        return terms, None
    on_score, on_jacobian = cotangents(terms)
    c2 = (on_jacobian / -total)[..., None]
    k, curvatures = _curvature_row(hidden, traces, c2, F.pad(-on_score, (0, u.shape[2] - v.shape[2]))[None])
    found = [_of_readout(readout, k.sum(1))] if needs.tensors else []
    adjoints: Tensor | None = None
    for level in reversed(range(len(hidden))):
        layer, trace, link, curve = hidden[level], traces[level], chain[level], curvatures[level]
        adjoint, grads = collect(layer, trace.rows, trace.raw, _down_merged(trace, adjoints, link.g, c2, curve), needs)
        if needs.tensors:
            grads.shared[0].addmm_(link.adjoint[0].t(), curve.k[0])
        if needs.tensors and curve.raw is not None:
            grads.samples[0].addcmul_(link.gz[0], curve.raw[0])
        found.append(grads)
        if level > 0:
            adjoints = below(layer, adjoint, adjoints)
        elif needs.inputs:
            adjoints = below(layer, adjoint[:1], None if adjoints is None else adjoints[:1])
    return terms, Pulled(in_order(found), torch.zeros_like(rows[0]) if adjoints is None else adjoints[0])


class _Link(NamedTuple):
    """The chain `dE/dh` at one layer, `[1, T, H]` each: after it, behind its activation, and behind its modulation."""

    g: Tensor
    gz: Tensor
    adjoint: Tensor


class _Curve(NamedTuple):
    """The curvature row at one layer: what enters, `W k`, `scale * W k`, and `sum_m c2_m zd_m^2` if there is an m."""

    k: Tensor
    raw: Tensor | None
    zk: Tensor
    square: Tensor | None


def _adjoint_chain(
    hidden: list[Layer], traces: list[Trace], g: Tensor, each: bool
) -> tuple[Tensor, Tensor, list[_Link]]:
    """Return `E2 = sum_l f'' q . g` (or of each `zd_m^2`), `u = dE/d(input)` and the chain, first layer first."""
    e2, chain = torch.zeros_like(g[0, :, 0]), []
    for layer, trace in reversed(list(zip(hidden, traces, strict=True))):
        if len(trace.zd):
            d2 = trace.derivatives[1]
            e2 = e2 + ((trace.zd * trace.zd).mul_(d2 * g).sum(2) if each else (d2 * trace.q * g)[0].sum(1))
        gz = trace.derivatives[0] * g
        adjoint = gz if layer.scale is None else gz * layer.scale
        chain.append(_Link(g, gz, adjoint))
        g = below(layer, adjoint, g)
    return e2, g, chain[::-1]


def _curvature_row(hidden: list[Layer], traces: list[Trace], c2: Tensor, k: Tensor) -> tuple[Tensor, list[_Curve]]:
    """Propagate `k <- f' zk + f'' sum_m c2_m zd_m^2` from `k = dLoss/du`; return it and its value at each layer."""
    met = []
    for layer, trace in zip(hidden, traces, strict=True):
        raw = product(k, layer.weight.t())
        zk = raw if layer.scale is None else raw * layer.scale
        square = trace.squares(c2) if len(trace.zd) else None
        met.append(_Curve(k, None if layer.scale is None else raw, zk, square))
        out = trace.derivatives[0] * zk
        if square is not None:
            out.addcmul_(trace.derivatives[1], square)
        k = out.add_(k) if layer.skip else out
    return k, met


def _down_merged(trace: Trace, adjoints: Tensor | None, g: Tensor, c2: Tensor, curve: _Curve) -> Tensor:
    """Pull the adjoints of the value and the tangents (None while zero) back through a layer's activation."""
    if curve.square is None:
        return down_straight(trace, adjoints, curve.zk, g)
    above = None if adjoints is None else parts(adjoints, len(trace.zd))
    return torch.cat(down_curved(trace, above, curve.zk, g, c2 * g, curve.square))


def nan_of(energy: Tensor, readout: Layer) -> Tensor:
    """Return zero, or NaN where the energy is NaN: a NaN parameter must show even if no derivative depends on it."""
    return (energy if readout.bias is None else energy + readout.bias) * 0.0


def _of_readout(readout: Layer, weight: Tensor) -> Gradients:
    return Gradients([weight] if readout.bias is None else [weight, torch.zeros_like(readout.bias)], [])
