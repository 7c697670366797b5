"""Functions made of others that have rules, written for operands."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from fastssm.jets import smooth
from fastssm.jets.elementwise import elementwise
from fastssm.jets.jet import Jet, NoRule
from fastssm.jets.operand import Operand, apply, closed, composed
from fastssm.jets.reductions import Axes, all_axes, given_dtype
from fastssm.jets.rules import rule

Tensors = Any  # an operand: a jet or another tensor


# --- softmax and norms ---


def _in_dtype(input: Tensors, dtype: Any) -> Tensors:
    return input if dtype is None else input.to(dtype)


@composed("log_softmax")
def log_softmax(input: Tensors, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensors:
    """`z - log sum e^z`."""
    if dim is None:
        raise NoRule("jets have a rule for log_softmax along a given dim only")
    input = _in_dtype(input, given_dtype(_stacklevel, dtype))
    return input - input.logsumexp(dim, True)


@composed("softmin")
def softmin(input: Tensors, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensors:
    """`softmax(-z)`."""
    return apply(torch.softmax, -input, dim, dtype=dtype)


@composed("norm", "vector_norm")
def norm(
    input: Tensors,
    p: Any = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    ord: Any = None,
    dtype: Any = None,
    out: Any = None,
) -> Tensors:
    """The p-norm over some axes."""
    order = p if ord is None else ord
    input = _in_dtype(input, dtype)
    if order not in (1, 2, "fro", None, math.inf):
        raise NoRule(f"jets have rules for norms of order 1, 2 and inf, got {order!r}")
    axes = all_axes(dim, input.value)
    if order == 1:
        return input.abs().sum(axes, keepdim=keepdim)
    if order == math.inf:
        return input.abs().amax(axes, keepdim)
    return input.square().sum(axes, keepdim=keepdim).sqrt()


@composed("normalize")
def normalize(input: Tensors, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Tensors:
    """`x / max(|x|, eps)`."""
    return input / input.norm(p, dim, True).clamp_min(eps)


@composed("cosine_similarity")
def cosine_similarity(x1: Tensors, x2: Tensors, dim: int = 1, eps: float = 1e-8) -> Tensors:
    """`x1 . x2 / (max(|x1|, eps) max(|x2|, eps))`."""
    lengths = x1.norm(2, dim).clamp_min(eps) * x2.norm(2, dim).clamp_min(eps)
    return (x1 * x2).sum(dim) / lengths


@composed("pairwise_distance")
def pairwise_distance(x1: Tensors, x2: Tensors, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensors:
    """`|x1 - x2 + eps|`."""
    return (x1 - x2 + eps).norm(p, -1, keepdim)


@composed("cdist")
def cdist(x1: Tensors, x2: Tensors, p: float = 2.0, compute_mode: object = None) -> Tensors:
    """The p-norms of the differences of all pairs of rows."""
    return (x1.unsqueeze(-2) - x2.unsqueeze(-3)).norm(p, -1)


@composed("var")
def var(
    input: Tensors, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Tensors:
    """The variance over some axes."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = all_axes(dim, input.value)
    count = math.prod([input.shape[axis] for axis in axes])
    less = (1 if unbiased else 0) if correction is None else correction
    return (input - input.mean(axes, keepdim=True)).square().sum(axes, keepdim=keepdim) / (count - less)


@composed("std")
def std(input: Tensors, *args: Any, **kwargs: Any) -> Tensors:
    """The standard deviation over some axes."""
    return input.var(*args, **kwargs).sqrt()


# --- products ---


@composed("glu")
def glu(input: Tensors, dim: int = -1) -> Tensors:
    """`a sigmoid(b)` of the two halves."""
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


@composed("prod")
def prod(input: Tensors, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensors:
    """The product of all entries, or of those along an axis, one after another."""
    axis, input = 0 if dim is None else dim, _in_dtype(input, dtype)
    out, *rest = (input.flatten() if dim is None else input).unbind(axis)
    for factor in rest:
        out = out * factor
    return out.unsqueeze(axis) if keepdim and dim is not None else out


@composed("lerp")
def lerp(a: Tensors, b: Tensors, weight: Any) -> Tensors:
    """`a + weight (b - a)`."""
    return a + (b - a) * weight


@composed("addmm", "baddbmm", "addmv")
def add_product(input: Tensors, a: Tensors, b: Tensors, *, beta: float = 1, alpha: float = 1) -> Tensors:
    """`beta c + alpha a b`."""
    return a.matmul(b) * alpha + input * beta


@composed("addr")
def add_outer(input: Tensors, a: Tensors, b: Tensors, *, beta: float = 1, alpha: float = 1) -> Tensors:
    """`beta c + alpha a b^T`."""
    return a.outer(b) * alpha + input * beta


@composed("addcmul")
def addcmul(input: Tensors, a: Tensors, b: Tensors, *, value: float = 1) -> Tensors:
    """`c + value a b`."""
    return input + a * b * value


@composed("addcdiv")
def addcdiv(input: Tensors, a: Tensors, b: Tensors, *, value: float = 1) -> Tensors:
    """`c + value a / b`."""
    return input + a / b * value


# --- losses ---


def _reduced(each: Tensors, reduction: str) -> Tensors:
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.mean()


def _check_unweighted(weight: Any) -> None:
    if weight is not None:
        raise NoRule("jets have no rule for a loss with weight=")


@composed("mse_loss")
def mse_loss(
    input: Tensors,
    target: Tensors,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Tensors:
    """`(a - b)^2`."""
    _check_unweighted(weight)
    return _reduced((input - target).square(), reduction)


@composed("l1_loss")
def l1_loss(
    input: Tensors,
    target: Tensors,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Tensors:
    """`|a - b|`."""
    _check_unweighted(weight)
    return _reduced((input - target).abs(), reduction)


@composed("huber_loss")
def huber_loss(
    input: Tensors, target: Tensors, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Tensors:
    """`d^2 / 2` near zero, `delta (|d| - delta / 2)` beyond."""
    _check_unweighted(weight)
    gap = input - target
    far = (gap.abs() - 0.5 * delta) * delta
    return _reduced(apply(torch.where, gap.value.abs() <= delta, gap.square() * 0.5, far), reduction)


@composed("smooth_l1_loss")
def smooth_l1_loss(
    input: Tensors,
    target: Tensors,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensors:
    """`d^2 / (2 beta)` near zero, `|d| - beta / 2` beyond."""
    if beta == 0.0:
        return apply(F.l1_loss, input, target, reduction=reduction)
    return apply(F.huber_loss, input, target, reduction, beta) / beta


@composed("prelu")
def prelu(input: Tensors, weight: Tensors) -> Tensors:
    """`z` above zero, `w z` below, with one weight or one for each channel."""
    if weight.value.numel() > 1 and input.ndim > 1:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    below = (input.value <= 0).to(input.value.dtype)
    return input * (weight * closed(below) + closed(1.0 - below))


@composed("bilinear")
def bilinear_layer(input1: Tensors, input2: Tensors, weight: Tensors, bias: Any = None) -> Tensors:
    """`x1^T W x2 + b`."""
    left = apply(torch.einsum, "...i,oij->...oj", input1, weight)
    out = (left * input2.unsqueeze(-2)).sum(-1)
    return out if bias is None else out + bias


@composed("logcumsumexp")
def logcumsumexp(input: Tensors, dim: int) -> Tensors:
    """The logarithm of the sum of exponentials up to each entry."""
    x = input.movedim(dim, -1)
    size = x.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=x.value.device).triu(1)
    rows = x.unsqueeze(-2).expand(*x.shape, size).masked_fill(later, -math.inf)
    return rows.logsumexp(-1).movedim(-1, dim)


@composed("atan2", "arctan2")
def atan2(input: Tensors, other: Tensors) -> Tensors:
    """The angle of a point, from the ratio that is at most one."""
    flat = other.value.abs() >= input.value.abs()
    above = apply(torch.where, flat, input, other) / apply(torch.where, flat, other, input)
    angle = above.atan() * closed(torch.where(flat, 1.0, -1.0).to(flat.device, input.value.dtype))
    return angle + closed((torch.atan2(input.value, other.value) - angle.value).detach())


@composed("logaddexp")
def logaddexp(input: Tensors, other: Tensors) -> Tensors:
    """`log(e^a + e^b)`."""
    highest = closed(torch.maximum(input.value, other.value).detach())
    return ((input - highest).exp() + (other - highest).exp()).log() + highest


@composed("hypot")
def hypot(input: Tensors, other: Tensors) -> Tensors:
    """`(a^2 + b^2)^(1/2)`."""
    return (input.square() + other.square()).sqrt()


@rule("binary_cross_entropy_with_logits", "binary_cross_entropy", "cross_entropy", "nll_loss", "kl_div")
def _losses_of_classes(*_: Any, **__: Any) -> None:
    raise NoRule("jets have no rule for losses of classes; write them out by log_softmax or logsigmoid")


# --- powers, absolute values ---


@composed("pow", "__pow__")
def power(base: Any, exponent: Any) -> Any:
    """`z^p` where p does not depend on x, and `e^(p log z)` otherwise."""
    if not isinstance(exponent, Operand):
        function = smooth.square if exponent == 2 else smooth.power(float(exponent))
        return Operand(elementwise(base.tensor, function))
    p = exponent.tensor
    if not isinstance(p, Jet) and torch.broadcast_shapes(base.shape, p.shape) == base.shape:  # type: ignore[no-untyped-call]
        return Operand(elementwise(base.tensor, smooth.power(p), formula=True))
    log = base.log() if isinstance(base, Operand) else math.log(base)
    return (exponent * log).exp()


@composed("__rpow__")
def power_of_number(exponent: Any, base: Any) -> Any:
    """`a^z`."""
    return (exponent * (base.log() if isinstance(base, Operand) else math.log(base))).exp()


@composed("abs", "absolute", "__abs__")
def absolute(input: Any) -> Any:
    """`|z|`."""
    if input.value.is_complex():
        return apply(torch.view_as_real, input).square().sum(-1).sqrt()
    return Operand(elementwise(input.tensor, smooth.absolute, curved=False))
