"""Finite differences and denoising by plain autograd, term by term as the papers print them; nothing of fastssm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests import oracle


def score(model: nn.Module, x: Tensor, *, energy: bool, cond: Sequence[Tensor] = ()) -> Tensor:
    """Return the score `[B, D]`, differentiable in everything."""
    point = x if x.requires_grad else x.detach().clone().requires_grad_()
    with oracle.written_out():
        output = model(point, *cond)
    return (-oracle.derivative(output, point) if energy else output).reshape(len(x), -1)


def denoising(
    model: nn.Module, x: Tensor, z: Tensor, sigma: Tensor | float, *, energy: bool, cond: Sequence[Tensor] = ()
) -> Tensor:
    """Return `|s(x + sigma z) + z / sigma|^2 / 2` per sample; sigma is a number or `[B]`."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    s = score(model, x + sigma * z, energy=energy, cond=cond)
    return ((s + (z / sigma).reshape(s.shape)) ** 2).sum(1) / 2


def fd_ssm(model: nn.Module, x: Tensor, v: Tensor, step: float, *, cond: Sequence[Tensor] = ()) -> Tensor:
    """FD-SSM of an energy, for `log p = -E`: `(log p+ + log p- - 2 log p + (log p+ - log p-)^2 / 8) / step^2`."""
    each = []
    for u in v * step:
        ahead, behind, here = (-model(point, *cond).reshape(len(x)) for point in (x + u, x - u, x))
        each.append((ahead + behind - 2 * here + (ahead - behind) ** 2 / 8) / step**2)
    return torch.stack(each).mean(0)


def fd_ssm_score(
    model: nn.Module, x: Tensor, v: Tensor, step: float, *, reduced: bool, cond: Sequence[Tensor] = ()
) -> Tensor:
    """FD-SSM-VR of a score net: `|s+ + s-|^2 / 8 + (s+ - s-) . v / (2 step)`."""
    each = []
    for u in v:
        ahead, behind = (model(x + sign * step * u, *cond) for sign in (1, -1))
        total = ahead + behind
        square = (total**2).sum(1) if reduced else ((total * u).sum(1)) ** 2
        each.append(square / 8 + ((ahead - behind) * u).sum(1) / (2 * step))
    return torch.stack(each).mean(0)


def fd_denoising(
    model: nn.Module, x: Tensor, z: Tensor, v: Tensor, sigma: float, step: float, *, cond: Sequence[Tensor] = ()
) -> Tensor:
    """FD-DSM as printed, `(sigma^2 (log p(y + n) - log p(y - n)) / 2 + (y - x) . n)^2 / (2 step^2)`, over `sigma^4`."""
    y = x + sigma * z
    each = []
    for u in v:
        n = step * u
        difference = model(y - n, *cond).reshape(len(x)) - model(y + n, *cond).reshape(len(x))  # of log p = -E
        each.append((sigma**2 * difference / 2 + ((y - x) * n).sum(1)) ** 2 / (2 * step**2))
    return torch.stack(each).mean(0) / sigma**4
