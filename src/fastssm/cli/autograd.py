"""Sliced score matching in plain autograd: the reference of `check` and the baseline of `bench`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def autograd_loss(
    model: nn.Module, x: Tensor, v: Tensor, *, kind: str, variance_reduced: bool, cond: tuple[Tensor, ...] = ()
) -> Tensor:
    """Return the sliced score matching loss by double backward, on M copies of the batch as in the authors' code.

    `mean_mb( v.J v + |s|^2 / 2 )` if variance-reduced, else `mean_mb( v.J v + (v.s)^2 / 2 )`, `J = ds/dx`.

    Args:
        model: energy network (`log p = -E + const`) or score network.
        x: `[B, ...]`.
        v: directions `[M, B, ...]`.
        kind: `"energy"` or `"score"`.
        variance_reduced: use the variance-reduced form.
        cond: further arguments of the model.

    Returns:
        The loss, a scalar.

    Source: Song et al. 2019, "Sliced score matching", equations 7 and 8.
    """
    copies, directions = _copies(x.detach(), len(v)).requires_grad_(True), v.flatten(0, 1)
    s = score(model, copies, kind, tuple(_copies(c, len(v)) for c in cond))
    curvature = dot(directions, torch.autograd.grad(dot(directions, s).sum(), copies, create_graph=True)[0])
    square = dot(s, s) if variance_reduced else dot(directions, s).square()
    return (curvature + square / 2).mean()


def score(model: nn.Module, x: Tensor, kind: str, cond: tuple[Tensor, ...] = ()) -> Tensor:
    """Return `s(x)`, shaped like `x`; an energy network requires `x.requires_grad`."""
    output: Tensor = model(x, *cond)
    if kind == "score":
        return output.reshape(x.shape)
    return -torch.autograd.grad(output.sum(), x, create_graph=True)[0]


def basis(x: Tensor) -> Tensor:
    """Return the directions `sqrt(D) e_d`, `[D, B, ...]`, for which the variance-reduced loss is the exact loss."""
    features = x[0].numel()
    axes = math.sqrt(features) * torch.eye(features, dtype=x.dtype, device=x.device)
    return axes.reshape(features, 1, *x.shape[1:]).expand(features, *x.shape)


def _copies(x: Tensor, count: int) -> Tensor:
    return x.expand(count, *x.shape).flatten(0, 1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, `[B]`."""
    return (a * b).flatten(1).sum(1)
