"""Score nets, `s(x)` itself: the two sweeps over one tile of samples, value and tangent rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssm.recognition import Layer
from fastssm.sweeps.layers import Needs, affine, below, collect, down, in_order, parts, up, with_plain_readout
from fastssm.sweeps.terms import Cotangents, Pulled, Terms


def stacked(
    layers: list[Layer],
    rows: Tensor,
    v: Tensor,
    total: int,
    cotangents: Cotangents | None,
    needs: Needs,
    each: bool = False,
) -> tuple[Terms, Pulled | None]:
    """All terms of a score net, and the gradient of any function of them, in three products per layer.

    y = s,  yd_m = J v_m;  the terms are `v_m . y`, `mean_m v_m . yd_m` and `y`.

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
    traces = []
    for layer in hidden:
        rows, trace = up(layer, rows, len(v), order=1 if cotangents is None or not len(v) else 2)
        traces.append(trace)
    (y, along), _ = affine(readout, rows, len(v))
    terms = Terms((v * y).sum(2), (v * along).sum(2 if each else (0, 2)) / total, y[0])
    if cotangents is None:
        return terms, None
    on_score, on_jacobian = cotangents(terms)
    adjoints = torch.cat([on_score[None], v * (on_jacobian / total)[..., None]])
    adjoint, grads = collect(readout, rows, None, adjoints, needs)
    found, adjoints = [grads], below(readout, adjoint, adjoints) if hidden or needs.inputs else adjoints
    for level in reversed(range(len(hidden))):
        layer, trace = hidden[level], traces[level]
        adjoint, grads = collect(layer, trace.rows, trace.raw, torch.cat(down(trace, *parts(adjoints, len(v)))), needs)
        found.append(grads)
        if level > 0:
            adjoints = below(layer, adjoint, adjoints)
        elif needs.inputs:
            adjoints = below(layer, adjoint[:1], adjoints[:1])
    return terms, Pulled(in_order(found), adjoints[0])
