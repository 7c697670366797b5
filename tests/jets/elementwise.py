"""Functions of one number, and arithmetic with numbers, weights and tensors on either side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.jets.case import DTYPE, Case, curved, each, grid, named, one

Function = Callable[..., Any]
SMOOTH = "exp expm1 exp2 sin cos tanh sigmoid sinh cosh atan arctan erf erfc square"
POSITIVE = "log log1p log2 log10 reciprocal sqrt rsqrt lgamma digamma"
BOUNDED = "tan asin acos arcsin arccos"
ACTIVATIONS = "silu gelu softplus mish elu celu selu softsign logsigmoid tanhshrink hardswish"
KINKED = "relu leaky_relu relu6 hardtanh hardsigmoid softshrink hardshrink"


def of_data(f: Function) -> Function:
    return lambda x: f(x)


def of_small(f: Function) -> Function:
    return lambda x: f(0.5 * torch.tanh(x))


def of_products(f: Function) -> Function:
    return lambda x: f(x * x.flip(1))


def _trained_zero_dim(x: Tensor, w: Tensor) -> Tensor:
    return w * curved(x) + x / (w.square() + 1.0) - w + (w - x) * (w / (2.0 + x.square()))


def _number_by_tensor(x: Tensor) -> Tensor:
    fixed = torch.tensor(1.7, dtype=DTYPE)
    return fixed * curved(x) + fixed - x.sin() / fixed + fixed / (2.0 + x.square()) + (fixed - x) * x


def _either_side(x: Tensor) -> Tensor:
    h, c = curved(x), torch.linspace(0.5, 1.5, 6, dtype=DTYPE)
    return 2.0 * h + h * 3.0 + (1.0 + h) * (h + 0.5) + (2.0 - h) * (h - 1.5) + h / 2.0 + 3.0 / (2.0 + h) + c * h + h / c


def _by_names(x: Tensor) -> Tensor:
    h = curved(x)
    a = torch.multiply(h, x).add(torch.divide(h, 2.0 + x * x)).sub(torch.true_divide(x, 3.0)).subtract(h)
    return torch.rsub(a, x, alpha=0.3) + a.mul(2).div(1.5)


def _ranks(x: Tensor, w: Tensor) -> Tensor:
    """Jets of ranks 1, 2 and 3, a weight of rank 1 and one of rank 0."""
    h, samples = grid(x), x[:, 0] * x[:, 1]
    wide = h * x[:, None, :3].sin() + h / (1.5 + x[:, None, 3:].square())
    per_sample = (wide.transpose(0, 2) * samples + samples).transpose(0, 2) - samples.reshape(-1, 1, 1)
    return per_sample * w[:3] + w[3] * per_sample.square()


def _powers(x: Tensor) -> tuple[Tensor, ...]:
    return x**0, x**1, x.pow(2), torch.pow(x, -2), x**0.5, x**3.0, torch.tensor(1.3, dtype=DTYPE) ** x


def losses(a: Tensor, b: Tensor) -> Tensor:
    far = F.huber_loss(a, b, reduction="none", delta=0.4) + F.smooth_l1_loss(a, b, reduction="none", beta=0.4)
    return F.l1_loss(a, b, reduction="none") + far + F.smooth_l1_loss(a, b, reduction="none", beta=0.0)


def reduced(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a, b) + F.l1_loss(a, b, reduction="sum") + F.huber_loss(a, b) + F.smooth_l1_loss(a, b)


CASES: list[Case] = [
    *named(SMOOTH, of_data, [torch]),
    *named(POSITIVE, of_data, [torch], positive=True),
    *named(BOUNDED, of_small, [torch]),
    *named(ACTIVATIONS, of_data, [F]),
    *named(KINKED, of_products, [F]),
    *named("expit", of_data, [torch.special]),
    one("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
    one("softplus settings", lambda x: F.softplus(x, 2.0, 1.0) + F.softplus(x, beta=3)),
    one("settings", lambda x: F.elu(x, 0.7) + F.celu(x, alpha=0.5) + F.leaky_relu(x, 0.2) + F.hardtanh(x, -0.7, 0.4)),
    one("shrink settings", lambda x: F.softshrink(x * x.flip(1), 0.3) + F.hardshrink(x * x.flip(1), lambd=0.2)),
    one("abs", lambda x: (x * x.flip(1)).abs() + abs(curved(x)) + torch.absolute(x)),
    one("pow 3", lambda x: x**3),
    one("pow 2", lambda x: x**2),
    one("pow 2.5", lambda x: x**2.5, positive=True),
    one("pow -1", lambda x: x**-1, positive=True),
    one("powers", _powers, positive=True),
    one("power of a number", lambda x: 1.7**x),
    one("power of a weight", lambda x, w: w.exp() ** x, (6,)),
    one("power by a weight", lambda x, w: x**w, (6,), positive=True),
    one(
        "power by tensors",
        lambda x: x ** torch.tensor(2.0) + x ** torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0, 3.0], dtype=DTYPE),
    ),
    one(
        "power by a weight of more axes", lambda x, w: x[:, None] ** w + x.abs()[:, None] ** w[0], (2, 6), positive=True
    ),
    one("power of both", lambda x: x ** x.flip(1), positive=True),
    one("clamp", lambda x: (x * x.flip(1)).clamp(-0.5, 0.6) + torch.clip(x, max=0.3)),
    one("clamp one side", lambda x: (x * x.flip(1)).clamp_min(0.1) + (x * x.flip(1)).clamp_max(0.2)),
    one(
        "clamp by tensors",
        lambda x: curved(x).clamp(torch.linspace(-0.9, 0.1, 6, dtype=DTYPE), torch.linspace(0.3, 1.2, 6, dtype=DTYPE)),
    ),
    one("complex abs", lambda x: torch.view_as_complex(curved(x).reshape(-1, 3, 2)).abs()),
    one("either side", _either_side),
    one("other names", _by_names),
    one("add sub alpha", lambda x: torch.add(curved(x), x, alpha=2.0) - torch.sub(x, curved(x), alpha=3.0)),
    one(
        "add alpha of numbers",
        lambda x: torch.add(curved(x), 1.5, alpha=2) + torch.add(torch.ones(6, dtype=DTYPE), x.sin(), alpha=0.3),
    ),
    one("add weight", lambda x, w: curved(x) + w, (6,)),
    one("sub weight", lambda x, w: w - curved(x) * w, (6,)),
    one("zero-dimensional weight", _trained_zero_dim, ()),
    one("zero-dimensional tensor", _number_by_tensor),
    one("ranks", _ranks, (4,)),
    one("broadcast add", lambda x: curved(x)[:, :, None] + x[:, None, :2].square()),
    one("mul", lambda x: curved(x) * x.flip(1)),
    one("mul itself", lambda x: x * x * curved(x)),
    one("mul broadcast", lambda x: curved(x)[:, :, None] * x[:, None, :3]),
    one("mul weight", lambda x, w: w * curved(x) * 2.0, (6,)),
    one("mul weight of more axes", lambda x, w: (curved(x).t() * w[..., None]).movedim(2, 0), (2, 6)),
    one("mul jet of fewer axes", lambda x: curved(x).transpose(0, 1).mul(x[:, 0].square()).transpose(0, 1)),
    one("div", lambda x: curved(x) / (1.5 + x.square())),
    one("div weight", lambda x, w: curved(x) / (w.square() + 1.0) + w / (2.0 + x.square()), (6,)),
    one(
        "div broadcast",
        lambda x: curved(x)[:, :1] / (1.5 + x.square()) + x[:, :1] / torch.linspace(1, 2, 6, dtype=DTYPE),
    ),
    one("lerp", lambda x: torch.lerp(x, curved(x), 0.3) + torch.lerp(x, curved(x), x.sigmoid())),
    one("lerp weight", lambda x, w: torch.lerp(curved(x), w, 0.3) + torch.lerp(w, x.sin(), w), (6,)),
    one(
        "addcmul addcdiv",
        lambda x: (
            torch.addcmul(x, curved(x), x.sin(), value=0.5) + torch.addcdiv(x, curved(x), 2.0 + x.square(), value=0.3)
        ),
    ),
    one("addcmul weights", lambda x, w: torch.addcmul(w, curved(x), w) + torch.addcdiv(x, w, 2.0 + x.square()), (6,)),
    one("atan2", lambda x: torch.atan2(curved(x), x.flip(1)) + torch.arctan2(x, 0.5 - x.roll(1, 1))),
    one("atan2 weight", lambda x, w: torch.atan2(curved(x), w) + torch.atan2(w, x), (6,)),
    one("logaddexp", lambda x: torch.logaddexp(curved(x), x.flip(1))),
    one("logaddexp weight", lambda x, w: torch.logaddexp(curved(x), w) + torch.logaddexp(w, x), (6,)),
    one("hypot", lambda x: torch.hypot(curved(x), x.flip(1))),
    one("hypot weight", lambda x, w: torch.hypot(curved(x), w) + torch.hypot(w, x), (6,)),
    one("where", lambda x: (torch.where(x > 0, curved(x), x * 0.3), torch.where(x > 0, 1.0, curved(x)))),
    one("where weight", lambda x, w: torch.where(x > 0, curved(x), w) + torch.where(x > 0.4, w, x.sin()), (6,)),
    one("where method", lambda x: curved(x).where(x > 0, x.square()) + x.sin().where(x < 0.1, 0.5)),
    one("where broadcast", lambda x: torch.where(x[:, :, None] > 0, curved(x)[:, None, :], x[:, :1, None])),
    one("masked_fill", lambda x: curved(x).masked_fill(x > 0.5, 0.2)),
    one("masked_fill of data", lambda x: each(curved(x), lambda row: row.masked_fill(row > 0, row[0] * row[1]))),
    one("masked_fill broadcast", lambda x: curved(x)[:, None].masked_fill(x[:, :, None] > 0.5, 0.2)),
    one("prelu", lambda x, w: F.prelu(x * x.flip(1), w), (6,)),
    one("prelu of one", lambda x, w: F.prelu(x * x.flip(1), w), (1,)),
    one("prelu of channels", lambda x, w: F.prelu(grid(x) * x.reshape(-1, 2, 3), w), (2,)),
    one("mse_loss", lambda x, w: F.mse_loss(curved(x), w.expand_as(x), reduction="none"), (6,)),
    one("losses", lambda x: losses(curved(x), x.flip(1))),
    one("losses reduced", lambda x: torch.stack([reduced(curved(row), row.flip(0)) for row in x])),
]
