"""Values less their mean, over their standard deviation: on jets, and the gradient of that.

With `y = (x - <x>) r`, `r = (<(x - <x>)^2> + eps)^(-1/2)` and `a_m = <y t_m>`, where `t_m` are the tangents less their
means: `y'_m = r (t_m - y a_m)` and `y'' = r (k - y <y k>) - r^2 (2 sum_m a_m t_m + y q)` with
`q = sum_m (<t_m^2> - 3 a_m^2)`. Autograd would keep an array for each product here; the functions keep `y` and `t`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


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
        axes: their axes, counted from behind.
        centred: whether the mean is taken away.
        eps: what is added to the variance.
    """

    axes: tuple[int, ...]
    centred: bool
    eps: float

    def mean(self, rows: Tensor) -> Tensor:
        """Return the means."""
        return rows.mean(self.axes, keepdim=True)

    def centre(self, rows: Tensor) -> Tensor:
        """Return rows less their means."""
        return rows - self.mean(rows) if self.centred else rows

    def parts(self, value: Tensor, tangents: Tensor) -> Parts:
        """Return the standardised values, and what their derivatives are made of."""
        z, t = self.centre(value), self.centre(tangents)
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
        k = self.centre(k)
        return r * (k - y * self.mean(y * k) - r * bent)


class ValueAndTangents(Function):
    """`y` and `y'_m`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, tangents: Tensor, group: Group, parts: Parts) -> tuple[Tensor, Tensor]:
        """Return them from their parts."""
        ctx.group, ctx.parts = group, parts
        ctx.set_materialize_grads(False)
        return parts.y.clone(), group.first(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_y: Tensor | None, on_t: Tensor | None) -> tuple[Tensor | None, ...]:
        """From `Y` and `T_m`: `r (G - y <G y> - y r <sum_m T_m (t_m - y a_m)>)`, `r (T_m - y <T_m y>)`."""
        group, (y, r, t, a) = ctx.group, ctx.parts
        if on_t is None:
            return None if on_y is None else group.centre(
                r * torch.addcmul(on_y, y, group.mean(on_y * y), value=-1)
            ), *[None] * 3
        c = group.mean(on_t * y)
        lost = total(group.mean(on_t * t) - a * c)
        g = total(torch.addcmul(a * on_t, c, t)).mul_(-r)
        g = g if on_y is None else g.add_(on_y)
        to_value = group.centre(r * g.addcmul_(y, group.mean(g * y) + r * lost, value=-1))
        to_tangents = group.centre(r * torch.addcmul(on_t, y, c, value=-1)) if ctx.needs_input_grad[1] else None
        return to_value, to_tangents, None, None


class Curvature(Function):
    """`y''`; k may be None."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, tangents: Tensor, k: Tensor | None, group: Group, parts: Parts) -> Tensor:
        """Return it from its parts."""
        ctx.group, ctx.parts, ctx.bent = group, parts, k is not None
        ctx.save_for_backward(k)
        return group.second(parts, k, lambda rows: total(rows)[None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_k: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of `sum K y''`, by the chain through `y`, `r` and `a_m`."""
        group, (y, r, t, a), (k,) = ctx.group, ctx.parts, ctx.saved_tensors
        on_k = on_k[0]
        alpha = group.mean(on_k * y)  # sums over a group are written as means: each is divided by its size once
        kappa = group.mean(on_k * t)
        q = total(group.mean(t * t) - 3.0 * a * a)
        on_a = 2.0 * r * r * (3.0 * alpha * a - kappa)
        g = total(on_a * t)
        on_r = -4.0 * r * total(a * kappa) - 2.0 * r * q * alpha
        p: Any = 0.0
        if k is not None:
            k = group.centre(k[0])
            p = group.mean(y * k)
            on_r = on_r + group.mean(on_k * k) - p * alpha
            g = g.addcmul_(r * alpha, k, value=-1)
        g = torch.addcmul(g, r * p + r * r * q, on_k, value=-1)
        to_value = group.centre(r * g.addcmul_(y, group.mean(g * y) + r * on_r, value=-1))
        to_tangents = None
        if ctx.needs_input_grad[1]:
            to_tangents = (a * on_k).addcmul_(alpha, t).mul_(-2.0 * r * r).addcmul_(on_a, y)
            to_tangents = group.centre(to_tangents)
        to_k = None if k is None else group.centre(r * torch.addcmul(on_k, y, alpha, value=-1))[None]
        return to_value, to_tangents, to_k, None, None


def total(rows: Tensor) -> Tensor:
    """Add up rows `[M, ...]`; may return a view."""
    return rows[0] if len(rows) == 1 else rows.sum(0)
