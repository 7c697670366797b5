"""Functions made of others that have rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule, value_of
from fastssm.jets.products import mul
from fastssm.jets.rules import rule


def _reduced(each: Any, reduction: str) -> Tensor:
    if reduction == "none":
        return each  # type: ignore[no-any-return]
    return each.sum() if reduction == "sum" else each.mean()  # type: ignore[no-any-return]


def _check_unweighted(weight: Any) -> None:
    if weight is not None:
        raise NoRule("jets have no rule for a loss with weight=")


@rule("mse_loss")
def mse_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Tensor:
    """`(a - b)^2`."""
    _check_unweighted(weight)
    return _reduced(torch.square(input - target), reduction)


@rule("l1_loss")
def l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Tensor:
    """`|a - b|`."""
    _check_unweighted(weight)
    return _reduced(torch.abs(input - target), reduction)


@rule("huber_loss")
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Tensor:
    """`d^2 / 2` near zero, `delta (|d| - delta / 2)` beyond."""
    _check_unweighted(weight)
    gap = input - target
    near = torch.abs(value_of(gap)) <= delta
    far = delta * (torch.abs(gap) - 0.5 * delta)
    return _reduced(torch.where(near, 0.5 * torch.square(gap), far), reduction)


@rule("smooth_l1_loss")
def smooth_l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """`d^2 / (2 beta)` near zero, `|d| - beta / 2` beyond."""
    if beta == 0.0:
        return l1_loss(input, target, reduction=reduction)
    return huber_loss(input, target, reduction, beta) / beta


@rule("prelu")
def prelu(input: Any, weight: Tensor) -> Tensor:
    """`z` above zero, `w z` below, with one weight or one for each channel."""
    if weight.numel() > 1 and input.ndim > 1:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    below = torch.where(value_of(input) > 0, torch.zeros_like(value_of(input)), torch.ones_like(value_of(input)))
    return mul(input, 1.0 - below + below * weight)


@rule("bilinear")
def bilinear_layer(input1: Any, input2: Any, weight: Tensor, bias: Any = None) -> Tensor:
    """`x1^T W x2 + b`."""
    left = torch.einsum("...i,oij->...oj", input1, weight)
    out: Tensor = mul(left, input2.unsqueeze(-2)).sum(-1)
    return out if bias is None else out + bias


@rule("logcumsumexp")
def logcumsumexp(input: Jet, dim: int) -> Tensor:
    """The logarithm of the sum of exponentials up to each entry."""
    highest = input.value.detach().amax(dim, keepdim=True)
    out: Tensor = torch.exp(input - highest).cumsum(dim).log() + highest
    return out


@rule("atan2", "arctan2")
def atan2(input: Any, other: Any) -> Tensor:
    """The angle of a point, from the ratio that is at most one."""
    y, x = value_of(input), value_of(other)
    flat = x.abs() >= y.abs()
    above = torch.where(flat, input, other) / torch.where(flat, other, input)
    angle = torch.atan(above)
    signed = torch.where(flat, angle, -angle)
    out: Tensor = signed + (torch.atan2(y, x) - value_of(signed)).detach()
    return out


@rule("logaddexp")
def logaddexp(input: Any, other: Any) -> Tensor:
    """`log(e^a + e^b)`."""
    highest = torch.maximum(value_of(input), value_of(other)).detach()
    return torch.log(torch.exp(input - highest) + torch.exp(other - highest)) + highest


@rule("hypot")
def hypot(input: Any, other: Any) -> Tensor:
    """`(a^2 + b^2)^(1/2)`."""
    return torch.sqrt(torch.square(input) + torch.square(other))


@rule("binary_cross_entropy_with_logits", "binary_cross_entropy", "cross_entropy", "nll_loss", "kl_div")
def _losses_of_classes(*_: Any, **__: Any) -> None:
    raise NoRule("jets have no rule for losses of classes; write them out by log_softmax or logsigmoid")
