"""Values less their mean, over their standard deviation: on jets, and the gradient of that.

With `y = (x - <x>) r`, `r = (<(x - <x>)^2> + eps)^(-1/2)` and `a_m = <y t_m>`, where `t_m` are the tangents less their
means: `y'_m = r (t_m - y a_m)` and `y'' = r (k - y <y k> - r b)` with `b = 2 sum_m a_m t_m + y q` and
`q = sum_m (<t_m^2> - 3 a_m^2)`. Autograd would keep an array for each product here; the functions keep `y`, `t_m` and
`b`, and take in the scale `w` and the shift `c` that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastssm.jets.lifting import dot


class Parts(NamedTuple):
    """What both derivatives are made of.

    Attributes:
        y: the standardised values.
        r: the reciprocals of the standard deviations.
        t: the tangents less their means, `[M, ...]`.
        a: the means of `y t_m`, `[M, ...]`.
    """

    y: Tensor
    r: Tensor
    t: Tensor
    a: Tensor


class Group(NamedTuple):
    """Which entries have a mean in common.

    Attributes:
        shape: of the values, with axes of their own for the groups.
        axes: those of the entries of a group, counted from behind.
        centred: whether the mean is taken away.
        eps: what is added to the variance.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    centred: bool
    eps: float

    def rows(self, rows: Tensor) -> Tensor:
        """Return rows `[R, ...]` in this shape."""
        return rows.reshape(len(rows), *self.shape)

    def mean(self, rows: Tensor) -> Tensor:
        """Return the means."""
        return rows.mean(self.axes, keepdim=True)

    def centre(self, rows: Tensor) -> Tensor:
        """Return rows less their means."""
        return rows - self.mean(rows) if self.centred else rows

    def parts(self, value: Tensor, tangents: Tensor) -> Parts:
        """Return the standardised values, and what their derivatives are made of."""
        z, t = self.centre(value.reshape(self.shape)), self.centre(self.rows(tangents))
        r = torch.rsqrt(self.mean(z * z) + self.eps)
        y = z * r
        return Parts(y, r, t, self.mean(y * t))

    def first(self, parts: Parts) -> Tensor:
        """Return the tangents."""
        return parts.r * (parts.t - parts.y * parts.a)

    def second(self, parts: Parts, k: Tensor | None, total: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the curvature, `[R, ...]`; `total` adds up products of tangents."""
        y, r, t, a = parts
        bent = total(2.0 * a * t) + y * total(self.mean(t * t) - 3.0 * a * a)
        if k is None:
            return -(r * r) * bent
        k = self.centre(self.rows(k))
        return r * (k - y * self.mean(y * k) - r * bent)

    def to_value(self, parts: Parts, on_y: Tensor, on_r: Tensor) -> Tensor:
        """Return the gradient of the values, from those of y and, as a mean over its group, of r."""
        y, r = parts.y, parts.r
        return self.centre(torch.addcmul(on_y, y, self.mean(on_y * y) + r * on_r, value=-1).mul_(r))


def scaled(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return rows times a weight, if there is one."""
    return rows if weight is None else rows * weight


class ValueAndTangents(Function):
    """`w y + c`, `w y'_m`, and `b` where the curvature follows."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        tangents: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        group: Group,
        parts: Parts,
        curved: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return them from their parts."""
        y, r, t, a = parts
        ctx.group, ctx.parts = group, parts
        ctx.shapes = value.shape, tangents.shape
        ctx.save_for_backward(weight, bias)
        ctx.set_materialize_grads(False)
        out = y.clone() if weight is None else y * weight
        out = out if bias is None else out.add_(bias)
        first = torch.addcmul(t, y, a, value=-1).mul_(scaled(r, weight))
        ctx.q = bent = None
        if curved:
            ctx.q = (group.mean(t * t) - 3.0 * a * a).sum(0)
            bent = dot(2.0 * a, t).addcmul_(y, ctx.q)
        return out.view(value.shape), first.view(tangents.shape), bent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_y: Tensor | None, on_t: Tensor | None, on_b: Tensor | None) -> tuple[Tensor | None, ...]:
        """Take the gradients of the value, the tangents and b through `y`, `r` and `a_m`."""
        group, parts, (weight, bias) = ctx.group, ctx.parts, ctx.saved_tensors
        y, r, t, a = parts
        on_y = torch.zeros_like(y) if on_y is None else on_y.reshape(y.shape)
        on_bias = None if bias is None else on_y.sum_to_size(bias.shape)
        if on_t is None and on_b is None:
            to_value = group.to_value(parts, scaled(on_y, weight), torch.zeros_like(r))
            on_weight = None if weight is None else (on_y * y).sum_to_size(weight.shape)
            return to_value.view(ctx.shapes[0]), None, on_weight, on_bias, *[None] * 3
        on_t = torch.zeros_like(t) if on_t is None else group.rows(on_t)
        along, turned, c = dot(on_t, t), dot(on_t, a), group.mean(on_t * scaled(y, weight))
        on_a, on_r = -r * c, group.mean(scaled(along, weight)) - (a * c).sum(0)  # as means over a group, as c is
        g = scaled(torch.addcmul(on_y, turned, r, value=-1), weight)
        g = g.clone() if weight is None else g
        to_t = on_t * scaled(r, weight)
        if on_b is not None:
            rho = group.mean(on_b * y)
            on_a += 2.0 * group.mean(on_b * t) - 6.0 * rho * a
            g.addcmul_(on_b, ctx.q)
            to_t.addcmul_(on_b, 2.0 * a).addcmul_(t, 2.0 * rho)
        g += dot(on_a, t)
        to_t = group.centre(to_t.addcmul_(y, on_a)).view(ctx.shapes[1])
        if weight is not None:
            weight = (on_y * y).add_(along.addcmul_(y, turned, value=-1).mul_(r)).sum_to_size(weight.shape)
        return group.to_value(parts, g, on_r).view(ctx.shapes[0]), to_t, weight, on_bias, *[None] * 3


class Curvature(Function):
    """`w y''`; k may be None."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, k: Tensor | None, bent: Tensor, weight: Tensor | None, group: Group, parts: Parts
    ) -> Tensor:
        """Return it from its parts."""
        ctx.group, ctx.parts, ctx.shape = group, parts, value.shape
        y, r = parts.y, parts.r
        if k is None:
            out, ctx.p = bent * -r, None
        else:
            k = group.centre(k.reshape(y.shape))
            ctx.p = group.mean(y * k)
            out = torch.addcmul(k, y, ctx.p, value=-1).addcmul_(bent, r, value=-1)
        ctx.save_for_backward(k, bent, weight, out if weight is not None else None)
        return (out * scaled(r, weight)).view(1, *value.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_k: Tensor) -> tuple[Tensor | None, ...]:
        """Take the gradient through k, b, `y` and `r`."""
        group, parts, (k, bent, weight, out) = ctx.group, ctx.parts, ctx.saved_tensors
        y, r, p = parts.y, parts.r, ctx.p
        given = on_k.reshape(y.shape)
        on_weight = None if weight is None else (given * out).mul_(r).sum_to_size(weight.shape)
        g, to_k = scaled(given, weight), None
        on_r, to_bent = -2.0 * r * group.mean(g * bent), g * (-r * r)
        if k is None:
            to_value = group.to_value(parts, torch.zeros_like(y), on_r)
        else:
            alpha = group.mean(g * y)  # sums over a group are written as means: each is divided by its size once
            on_r += group.mean(g * k) - p * alpha
            to_value = group.to_value(parts, torch.addcmul(g * (-r * p), k, r * alpha, value=-1), on_r)
            to_k = group.centre(torch.addcmul(g, y, alpha, value=-1).mul_(r)).view(1, *ctx.shape)
        return to_value.view(ctx.shape), to_k, to_bent, on_weight, None, None
