"""A small energy for every function that jets have a rule for: `f(x, w)`, its sum weighed by fixed numbers.

`x` is `[B, *shape]`, and `w` are parameters of the given shapes. Functions that are not smooth get data off their kinks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 4
DTYPE = torch.float64


@dataclass(frozen=True)
class Rule:
    name: str
    function: Callable[..., Any]
    shape: tuple[int, ...] = (6,)
    weights: tuple[tuple[int, ...], ...] = ()
    positive: bool = False
    state: Callable[[], nn.Module] | None = None


class Energy(nn.Module):
    """`sum(c f(x, w))` for each sample, with numbers c that no symmetry makes simple."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(sum(map(ord, rule.name)))
        self.rule = rule
        self.weights = nn.ParameterList(
            0.7 * torch.randn(*shape, generator=generator, dtype=DTYPE) for shape in rule.weights
        )
        self.x = torch.randn(BATCH, *rule.shape, generator=generator, dtype=DTYPE)
        if rule.positive:
            self.x = 0.4 + torch.rand(BATCH, *rule.shape, generator=generator, dtype=DTYPE)
        self.v = torch.randn(3, BATCH, *rule.shape, generator=generator, dtype=DTYPE)
        if rule.state is not None:
            torch.manual_seed(0)
            self.module = rule.state().double()

    def forward(self, x: Tensor) -> Tensor:
        given = [*self.weights, *([self.module] if self.rule.state else [])]
        found = self.rule.function(x, *given)
        total: Any = 0.0
        for part in found if isinstance(found, tuple | list) else [found]:
            if not torch.is_floating_point(part):
                part = torch.view_as_real(part)
            flat = part.reshape(x.shape[0], -1)
            total = total + (flat * torch.linspace(0.6, 1.7, flat.shape[1], dtype=DTYPE)).sum(1)
        return total


def smooth(z: Tensor) -> Tensor:
    """A curved function: rules of linear functions get curvature to carry."""
    return torch.tanh(z) * 1.5


def one(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Rule:
    return Rule(name, function, *args, **kwargs)


def _add_in_place(x: Tensor) -> Tensor:
    h = smooth(x)
    h += x.square()
    h -= 0.5 * x
    h *= torch.sin(x)
    h /= 1.0 + x.square()
    return h


def _set_item(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:4] = smooth(x[:, :3])
    out[:, 0] = x[:, 5] * x[:, 4]
    return out


def _activations_in_place(x: Tensor) -> Tensor:
    h = x.square() + x
    F.silu(h, inplace=True)
    h.sin_()
    return h


def _square_matrices(x: Tensor) -> Tensor:
    return 0.3 * x.reshape(-1, 3, 3) + 2.0 * torch.eye(3, dtype=DTYPE)


ELEMENTWISE = [
    *(one(name, getattr(torch, name)) for name in ("exp", "expm1", "exp2", "sin", "cos", "tanh", "sigmoid", "sinh", "cosh", "atan", "erf", "erfc", "square")),
    *(one(name, getattr(torch, name), positive=True) for name in ("log", "log1p", "log2", "log10", "reciprocal", "sqrt", "rsqrt", "lgamma", "digamma")),
    *(one(name, lambda x, f=getattr(torch, name): f(0.5 * torch.tanh(x))) for name in ("tan", "asin", "acos")),
    *(one(name, getattr(F, name)) for name in ("silu", "gelu", "softplus", "mish", "elu", "celu", "selu", "softsign", "logsigmoid", "tanhshrink", "hardswish")),
    *(one(name, lambda x, f=getattr(F, name): f(x * x.flip(1))) for name in ("relu", "leaky_relu", "relu6", "hardtanh", "hardsigmoid", "softshrink", "hardshrink")),
    one("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
    one("softplus settings", lambda x: F.softplus(x, 2.0, 1.0)),
    one("abs", lambda x: (x * x.flip(1)).abs()),
    one("pow 3", lambda x: x**3),
    one("pow 2", lambda x: x**2),
    one("pow 2.5", lambda x: x**2.5, positive=True),
    one("pow -1", lambda x: x**-1, positive=True),
    one("power of a number", lambda x: 1.7**x),
    one("power of a weight", lambda x, w: w.exp() ** x, weights=((6,),)),
    one("power of both", lambda x: x**x.flip(1), positive=True),
    one("clamp", lambda x: (x * x.flip(1)).clamp(-0.5, 0.6)),
    one("clamp one side", lambda x: (x * x.flip(1)).clamp_min(0.1) + (x * x.flip(1)).clamp_max(0.2)),
    one("complex abs", lambda x: torch.view_as_complex(smooth(x).reshape(-1, 3, 2)).abs()),
]  # fmt: skip

LINEAR = [
    one("sum mean", lambda x: (smooth(x).sum(1), smooth(x).mean(1, keepdim=True))),
    one("views", lambda x: smooth(x).view(-1, 2, 3).transpose(1, 2).permute(0, 2, 1).unsqueeze(1).squeeze(1).flatten(1)),
    one("unflatten", lambda x: smooth(x).unflatten(1, (3, 2)).movedim(1, 2)),
    one("expand", lambda x: smooth(x).unsqueeze(1).expand(-1, 4, -1)),
    one("expand as", lambda x: smooth(x)[:, :1].expand_as(x)),
    one("index", lambda x: smooth(x)[:, [0, 2, 2]]),
    one("slices", lambda x: smooth(x)[:, 1::2]),
    one("select", lambda x: smooth(x).select(1, 2) + smooth(x).narrow(1, 3, 2).sum(1)),
    one("index_select", lambda x: smooth(x).index_select(1, torch.tensor([0, 5, 0]))),
    one("gather", lambda x: smooth(x).gather(1, torch.tensor([[0, 3, 3]] * 3).expand(3, 3).new_tensor([[0, 3, 3]]).expand(x.shape[0], 3))),
    one("chunk split unbind", lambda x: (*smooth(x).chunk(2, 1), *smooth(x).split(4, 1), *smooth(x).unbind(1))),
    one("iteration", lambda x: torch.stack(list(smooth(x).t())).t()),
    one("roll flip", lambda x: smooth(x).roll(1, 1) * 2.0 + smooth(x).flip(1)),
    one("repeat tile", lambda x: (smooth(x).repeat(1, 2), smooth(x).tile(1, 2), smooth(x).repeat_interleave(2, 1))),
    one("cumsum", lambda x: smooth(x).cumsum(1)),
    one("tril triu diagonal", lambda x: (smooth(x).view(-1, 2, 3).tril(), smooth(x).view(-1, 2, 3).triu(), smooth(x).view(-1, 2, 3).diagonal(dim1=1, dim2=2))),
    one("diag_embed", lambda x: smooth(x).diag_embed()),
    one("diff", lambda x: smooth(x).diff(dim=1)),
    one("neg pos clone", lambda x: +(-smooth(x)).clone()),
    one("cat stack", lambda x: (torch.cat([smooth(x), torch.ones(x.shape[0], 1, dtype=DTYPE), x], 1), torch.stack([x, smooth(x)], 1))),
    one("hstack", lambda x: torch.hstack([smooth(x), x])),
    one("where", lambda x: (torch.where(x > 0, smooth(x), x * 0.3), torch.where(x > 0, 1.0, smooth(x)))),
    one("masked_fill", lambda x: smooth(x).masked_fill(x > 0.5, 0.2)),
    one("index_add", lambda x: torch.zeros(x.shape[0], 3, dtype=DTYPE).index_add(1, torch.tensor([0, 1, 2, 0, 1, 1]), smooth(x))),
    one("scatter_add", lambda x: torch.zeros_like(x).scatter_add(1, torch.tensor([[0, 1, 1, 5, 5, 5]]).expand(x.shape[0], 6), smooth(x))),
    one("pad", lambda x: F.pad(smooth(x), (1, 2))),
    one("add sub alpha", lambda x: torch.add(smooth(x), x, alpha=2.0) - torch.sub(x, smooth(x), alpha=3.0)),
    one("broadcast add", lambda x: smooth(x)[:, :, None] + x[:, None, :2].square()),
    one("radd rsub", lambda x: (1.0 + smooth(x)) + (2.0 - smooth(x))),
    one("add weight", lambda x, w: smooth(x) + w, weights=((3, 1, 6),)) if False else one("add weight", lambda x, w: smooth(x) + w, weights=((6,),)),
    one("avg_pool", lambda x: (F.avg_pool2d(smooth(x), 2), F.adaptive_avg_pool2d(smooth(x), 1)), shape=(2, 4, 4)),
    one("avg_pool1d", lambda x: F.avg_pool1d(smooth(x), 2), shape=(2, 6)),
    one("interpolate", lambda x: (F.interpolate(smooth(x), scale_factor=2), F.interpolate(smooth(x), size=(5, 3), mode="bilinear", align_corners=False)), shape=(2, 3, 3)),
    one("pixel_shuffle", lambda x: (F.pixel_shuffle(smooth(x), 2), F.pixel_unshuffle(smooth(x), 2)), shape=(4, 2, 2)),
    one("fold unfold", lambda x: F.fold(F.unfold(smooth(x), 2), (3, 3), 2), shape=(2, 3, 3)),
    one("fft", lambda x: (torch.fft.rfft(smooth(x)), torch.fft.irfft(torch.fft.rfft(smooth(x)) * 1.5, n=6))),
    one("to", lambda x: smooth(x).to(torch.float64).type_as(x)),
    one("broadcast_tensors", lambda x: torch.broadcast_tensors(smooth(x)[:, :1], torch.ones(6, dtype=DTYPE))[0]),
]  # fmt: skip

PRODUCTS = [
    one("mul", lambda x: smooth(x) * x.flip(1)),
    one("mul broadcast", lambda x: smooth(x)[:, :, None] * x[:, None, :3]),
    one("mul weight", lambda x, w: w * smooth(x) * 2.0, weights=((6,),)),
    one("mul scalar jet", lambda x: smooth(x).transpose(0, 1).mul(x[:, 0].square()).transpose(0, 1)),
    one("div", lambda x: smooth(x) / (1.5 + x.square())),
    one("div weight", lambda x, w: smooth(x) / (w.square() + 1.0) + 1.0 / (2.0 + x.square()), weights=((6,),)),
    one("linear", lambda x, w, b: F.linear(smooth(x), w, b), weights=((5, 6), (5,))),
    one("linear of weights", lambda x: F.linear(x[:, None, :3], smooth(x).view(-1, 2, 3)[0]) if False else torch.matmul(x[:, None, :3], smooth(x).view(-1, 2, 3).transpose(1, 2))),
    one("matmul", lambda x: smooth(x).view(-1, 2, 3) @ x.square().view(-1, 3, 2)),
    one("matmul weight", lambda x, w: smooth(x).view(-1, 2, 3) @ w, weights=((3, 4),)),
    one("matmul weight first", lambda x, w: w @ smooth(x).view(-1, 3, 2), weights=((4, 3),)),
    one("matmul vector", lambda x, w: smooth(x) @ w, weights=((6,),)),
    one("bmm", lambda x: torch.bmm(smooth(x).view(-1, 2, 3), x.view(-1, 3, 2))),
    one("mm", lambda x, w: smooth(x).mm(w), weights=((6, 2),)),
    one("einsum", lambda x: torch.einsum("bi,bj->bij", smooth(x), x)),
    one("einsum weight", lambda x, w: torch.einsum("bi,ijk,bk->bj", smooth(x), w, x.sin()), weights=((6, 2, 6),)),
    one("einsum one", lambda x, w: torch.einsum("bi,ij->bj", smooth(x), w), weights=((6, 2),)),
    one("tensordot", lambda x, w: torch.tensordot(smooth(x), w, 1), weights=((6, 2),)),
    one("outer", lambda x, w: torch.addmm(x[:, :2] * 1.0, smooth(x), w, beta=0.5, alpha=2.0), weights=((6, 2),)),
    one("baddbmm", lambda x: torch.baddbmm(x.view(-1, 2, 3), x.sin().view(-1, 2, 3), smooth(x)[:, :1, None].expand(-1, 3, 3) + torch.eye(3, dtype=DTYPE))),
    one("addcmul addcdiv", lambda x: torch.addcmul(x, smooth(x), x.sin(), value=0.5) + torch.addcdiv(x, smooth(x), 2.0 + x.square(), value=0.3)),
    one("lerp", lambda x: torch.lerp(x, smooth(x), 0.3) + torch.lerp(x, smooth(x), x.sigmoid())),
    one("cross", lambda x: torch.linalg.cross(smooth(x).view(-1, 2, 3), x.view(-1, 2, 3))),
    *(one(f"conv{d}d", lambda x, w, b, f=getattr(F, f"conv{d}d"): f(smooth(x), w, b, padding=1), shape=(2, *[3] * d), weights=((3, 2, *[3] * d), (3,))) for d in (1, 2, 3)),
    one("conv groups", lambda x, w: F.conv2d(smooth(x), w, stride=2, padding=1, groups=2), shape=(2, 4, 4), weights=((2, 1, 3, 3),)),
    *(one(f"conv_transpose{d}d", lambda x, w, b, f=getattr(F, f"conv_transpose{d}d"): f(smooth(x), w, b, stride=2), shape=(2, *[2] * d), weights=((2, 3, *[2] * d), (3,))) for d in (1, 2, 3)),
    one("conv of a jet's kernel", lambda x, w: F.conv1d(w[None].expand(1, -1, -1), smooth(x).reshape(-1, 1, 3), groups=1).transpose(0, 1).reshape(x.shape[0], -1), weights=((1, 8),)),
    one("bilinear layer", lambda x, w, b: F.bilinear(smooth(x), x, w, b), weights=((2, 6, 6), (2,))),
]  # fmt: skip

REDUCTIONS = [
    one("softmax", lambda x: torch.softmax(smooth(x) * 2.0, -1)),
    one("softmax of an axis", lambda x: F.softmax(smooth(x).view(-1, 2, 3), 1)),
    one("log_softmax", lambda x: torch.log_softmax(smooth(x), 1)),
    one("softmin", lambda x: F.softmin(smooth(x), 1)),
    one("logsumexp", lambda x: (torch.logsumexp(smooth(x), 1), torch.logsumexp(smooth(x).view(-1, 2, 3), (1, 2), keepdim=True))),
    one("logcumsumexp", lambda x: torch.exp(x[:, :4]).cumsum(1).log()),
    one("norm", lambda x: (smooth(x).norm(dim=1), torch.linalg.vector_norm(smooth(x).view(-1, 2, 3), dim=(1, 2)))),
    one("norm 1", lambda x: torch.norm(smooth(x), 1, 1)),
    one("norm inf", lambda x: torch.linalg.vector_norm(smooth(x), float("inf"), 1)),
    one("normalize", lambda x: F.normalize(smooth(x), dim=1)),
    one("cosine_similarity", lambda x: F.cosine_similarity(smooth(x), x.sin() + 0.3, dim=1)),
    one("pairwise_distance", lambda x, w: F.pairwise_distance(smooth(x), w.expand_as(x)), weights=((6,),)),
    one("cdist", lambda x, w: (smooth(x).view(-1, 2, 3).unsqueeze(-2) - w).norm(dim=-1), weights=((4, 3),)),
    one("var std", lambda x: (smooth(x).var(1), smooth(x).std(1, unbiased=False), torch.var(smooth(x), 1, correction=1, keepdim=True))),
    one("amax amin", lambda x: (smooth(x).square().amax(1), smooth(x).view(-1, 2, 3).amin((1, 2)))),
    one("max min", lambda x: (smooth(x).max(1).values, torch.min(smooth(x), 1)[0])),
    one("max of two", lambda x: (torch.maximum(smooth(x), x.flip(1)), torch.min(smooth(x), x.roll(1, 1)), torch.maximum(smooth(x), torch.tensor(0.1, dtype=DTYPE)))),
    one("sort topk", lambda x: (smooth(x).sort(1).values, smooth(x).topk(2, 1)[0])),
    one("glu", lambda x: F.glu(smooth(x), 1)),
    one("prod", lambda x: smooth(x).prod(1)),
    *(one(f"max_pool{d}d", lambda x, f=getattr(F, f"max_pool{d}d"): f(smooth(x), 2), shape=(2, *[4] * d)) for d in (1, 2, 3)),
    one("mse_loss", lambda x, w: F.mse_loss(smooth(x), w.expand_as(x), reduction="none"), weights=((6,),)),
    one("l1 and huber", lambda x: F.l1_loss(smooth(x), x.flip(1), reduction="none") + F.huber_loss(smooth(x), x.flip(1), reduction="none", delta=0.4) + F.smooth_l1_loss(smooth(x), x.flip(1), reduction="none", beta=0.4)),
    one("prelu", lambda x, w: F.prelu(x * x.flip(1), w), weights=((6,),)),
    one("atan2", lambda x: torch.atan2(smooth(x), x.flip(1))),
    one("logaddexp", lambda x: torch.logaddexp(smooth(x), x.flip(1))),
    one("hypot", lambda x: torch.hypot(smooth(x), x.flip(1))),
]  # fmt: skip

MATRICES = [
    one("inverse", lambda x: torch.linalg.inv(_square_matrices(x)), shape=(9,)),
    one("slogdet", lambda x: torch.linalg.slogdet(_square_matrices(x))[1], shape=(9,)),
    one("logdet", lambda x: torch.logdet(_square_matrices(x)), shape=(9,)),
    one("det", lambda x: torch.linalg.det(_square_matrices(x)), shape=(9,)),
    one("solve", lambda x: torch.linalg.solve(_square_matrices(x), smooth(x).reshape(-1, 3, 3)), shape=(9,)),
    one("solve weight", lambda x, w: torch.linalg.solve(w + 3.0 * torch.eye(3, dtype=DTYPE), smooth(x).reshape(-1, 3, 3)), shape=(9,), weights=((3, 3),)),
    one("solve_triangular", lambda x, w: torch.linalg.solve_triangular(w.tril() + 3.0 * torch.eye(3, dtype=DTYPE), smooth(x).reshape(-1, 3, 3), upper=False), shape=(9,), weights=((3, 3),)),
]  # fmt: skip

IN_PLACE = [
    one("in place", _add_in_place),
    one("set item", _set_item),
    one("activations in place", _activations_in_place),
]

CASES = [*ELEMENTWISE, *LINEAR, *PRODUCTS, *REDUCTIONS, *MATRICES, *IN_PLACE]
BY_NAME = {case.name: case for case in CASES}
