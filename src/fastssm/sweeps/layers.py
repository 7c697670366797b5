"""One layer's rules: stacked rows are propagated forward, their adjoints backward.

A stack `[R, T, H]` holds, for a tile of T samples, the value row `h`, the M tangent rows `hd_m` and, where a sweep
carries it, the curvature row `k`; so a layer is one matrix product over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.activations import IDENTITY
from fastssm.recognition import Layer
from fastssm.sweeps.pointwise import derivatives


@dataclass
class Trace:
    """What the forward sweep through a layer saves for the backward sweep.

    Attributes:
        rows: the stack that entered, `[R, T, H_in]`.
        raw: parts of `W rows + b` before the modulation, kept only where there is a scale to differentiate.
        zd: tangents `[M, T, H]` after the affine map.
        zk: curvature `[1, T, H]` after the affine map, None if it is zero.
        derivatives: `f'(z), f''(z), f'''(z)`, as many as were asked for, each `[1, T, H]`.
    """

    rows: Tensor
    raw: list[Tensor] | None
    zd: Tensor
    zk: Tensor | None
    derivatives: list[Tensor]
    _q: Tensor | None = None

    @property
    def q(self) -> Tensor:
        """`sum_m zd_m^2`, computed once."""
        if self._q is None:
            self._q = total(self.zd * self.zd)
        return self._q

    def squares(self, c2: Tensor) -> Tensor:
        """`sum_m c2_m zd_m^2`, for one number per sample `[T, 1]` or one for each direction of it `[m, T, 1]`."""
        return c2 * self.q if c2.ndim == 2 else total(c2 * self.zd * self.zd)


class Needs(NamedTuple):
    """Which gradients to compute: of `x` and the conditioning columns, and of the layers' tensors."""

    inputs: bool
    tensors: bool


class Gradients(NamedTuple):
    """Gradients in the order of `Structure`: those summed over tiles, and those of single samples."""

    shared: list[Tensor]
    samples: list[Tensor]


def in_order(found: list[Gradients]) -> Gradients:
    """Join the gradients of layers that were collected from the top down."""
    return Gradients([t for g in reversed(found) for t in g.shared], [t for g in reversed(found) for t in g.samples])


def first_rows(x: Tensor, columns: Tensor | None, v: Tensor) -> Tensor:
    """Stack the input of the first layer: `x` and the directions, conditioning columns having zero tangent."""
    if columns is not None:
        x, v = torch.cat([x, columns], 1), F.pad(v, (0, columns.shape[1]))
    return torch.cat([x[None], v])


def total(rows: Tensor) -> Tensor:
    """Add up rows into one, `[1, T, H]`."""
    return rows if len(rows) == 1 else rows.sum(0, keepdim=True)


def parts(stack: Tensor, count: int) -> list[Tensor]:
    """Return the value row, the `count` tangents and, if there is one, the curvature row of a stack."""
    return list(stack.split_with_sizes([1, count] if len(stack) == count + 1 else [1, count, 1]))


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply every row of a stack by a matrix, in one product."""
    return torch.mm(rows.reshape(-1, rows.shape[-1]), matrix).view(*rows.shape[:-1], matrix.shape[1])


def affine(layer: Layer, rows: Tensor, count: int) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return the parts of `scale * (W h + b) + shift`, constants in the value row only, and of the raw `W h + b`."""
    raw = parts(product(rows, layer.weight.t()), count)
    if layer.bias is not None:
        raw[0] = raw[0] + layer.bias
    z = raw if layer.scale is None else [part * layer.scale for part in raw]
    if layer.shift is not None:
        z = [z[0] + layer.shift, *z[1:]]
    return z, None if layer.scale is None else raw


def up(layer: Layer, rows: Tensor, count: int, *, order: int, curvature: bool = False) -> tuple[Tensor, Trace]:
    """Carry a stack with `count` tangents through a layer, with derivatives up to `order` for the backward sweep.

    h <- f(z),  hd_m <- f' zd_m,  and with `curvature`  k <- f' zk + f'' q,  q = sum_m zd_m^2
    """
    (z, zd, *zk), raw = affine(layer, rows, count)
    f, d1, *higher = derivatives(layer, z, order)
    trace = Trace(rows, raw, zd, zk[0] if zk else None, [d1, *higher])
    out = [f, d1 * zd] if count else [f]
    if curvature:
        k = higher[0] * trace.q
        out.append(k.addcmul_(d1, zk[0]) if zk else k)
    if layer.skip:
        entered = parts(rows, count)
        out = [a + b for a, b in zip(out, entered, strict=False)] + out[len(entered) :]
    return torch.cat(out) if count else out[0], trace


def down(trace: Trace, value: Tensor, tangents: Tensor) -> list[Tensor]:
    """Propagate the adjoints of a layer's value and tangents back through its activation, without curvature.

    zdb_m = f' hdb_m,  zb = f' hb + f'' sum_m hdb_m zd_m
    """
    if not len(tangents):
        return [trace.derivatives[0] * value]
    d1, d2 = trace.derivatives[:2]
    return [(d1 * value).addcmul_(d2, total(tangents * trace.zd)), d1 * tangents]


def down_curved(
    trace: Trace, above: list[Tensor] | None, zk: Tensor | None, g: Tensor, cg: Tensor, square: Tensor
) -> list[Tensor]:
    """Pull the adjoints of an energy layer's value and tangents (`above`, None if zero) through its activation.

    zdb_m = f' hdb_m + 2 f'' cg_m zd_m,  zb = f' hb + f'' (g zk + sum_m hdb_m zd_m) + f''' g square

    `g` multiplies the curvature row `zk` and the squares, `cg` the tangents. If `g` contains the loss's cotangent,
    `cg = g` and `square = q`; if the curvature row contains it, `cg_m = c2_m g` and `square = sum_m c2_m zd_m^2`.

    Returns:
        `zb [1, T, H]` and `zdb [m, T, H]`.
    """
    d1, d2, d3 = trace.derivatives
    bend = d2 * cg
    if above is None:  # the last layer, where the curvature row contains the cotangent
        assert zk is not None
        zb, zdb = d2 * g * zk, (bend * trace.zd).mul_(2.0)
    else:
        value, tangents = above
        inner = total(tangents * trace.zd)
        if zk is not None:
            inner.addcmul_(g, zk)
        zb, zdb = (d1 * value).addcmul_(d2, inner), (d1 * tangents).addcmul_(trace.zd, bend, value=2.0)
    return [zb.addcmul_(d3 * g, square), zdb]


def down_straight(trace: Trace, above: Tensor | None, zk: Tensor, g: Tensor) -> Tensor:
    """The same without tangents: pull the value's adjoint (`above`, None if zero) back, `zb = f' hb + f'' g zk`."""
    d1, d2 = trace.derivatives
    zb = d2 * g * zk
    return zb if above is None else zb.addcmul_(d1, above)


def collect(
    layer: Layer, rows: Tensor, raw: list[Tensor] | None, z_adjoint: Tensor, needs: Needs
) -> tuple[Tensor, Gradients]:
    """Return the adjoint stack before the modulation and the gradients of the layer's tensors, if they are needed.

    dW = sum_r zb_r^T h_r in one product,  db = sum_b zb,  dscale = sum_r zb_r raw_r,  dshift = zb
    """
    adjoint = z_adjoint if layer.scale is None else z_adjoint * layer.scale
    if not needs.tensors:
        return adjoint, Gradients([], [])
    shared = [torch.mm(adjoint[: len(rows)].reshape(-1, adjoint.shape[2]).t(), rows.reshape(-1, rows.shape[2]))]
    if layer.bias is not None:
        shared.append(adjoint[0].sum(0))
    samples = [] if raw is None else [(z_adjoint[: len(rows)] * torch.cat(raw)).sum(0)]
    if layer.shift is not None:
        samples.append(z_adjoint[0])
    return adjoint, Gradients(shared, samples)


def below(layer: Layer, adjoint: Tensor, above: Tensor | None) -> Tensor:
    """Return the adjoint of a layer's input from that before its modulation and, for a skip, that of its output."""
    entered = product(adjoint, layer.weight)
    return entered.add_(above) if layer.skip and above is not None else entered


def with_plain_readout(layers: list[Layer]) -> list[Layer]:
    """Return the layers with an affine map at the end, an identity if needed: the loss is linear in the last rows."""
    last = layers[-1]
    if last.activation is IDENTITY and not last.skip and last.scale is None and last.shift is None:
        return layers
    eye = torch.eye(last.weight.shape[0], dtype=last.weight.dtype, device=last.weight.device)
    return [*layers, Layer(eye, None, None, None, IDENTITY, (), False)]
