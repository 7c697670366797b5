"""Weighted, preconditioned and tempered score matching by plain autograd, as the papers print them; no fastssm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests import oracle

Field = Callable[[Tensor], Tensor]


def generalized(model: nn.Module, x: Tensor, v: Tensor | None, d: Field, *, energy: bool, form: str) -> Tensor:
    """Return the losses `[B]` in the metric `d(x) [B, D, D]`.

    exact: `s . D s / 2 + div(D s)`, the divergence by plain differentiation; vr and ssm: along `w = B v`.
    """
    x = x.detach().clone().requires_grad_()
    matrix, dim = d(x), x.shape[1]
    output = model(x)
    s = -oracle.derivative(output, x) if energy else output
    pushed = (matrix * s[:, None, :]).sum(2)
    norm = (pushed * s).sum(1) / 2
    if form == "exact":
        return norm + sum(oracle.derivative(pushed[:, i], x)[:, i] for i in range(dim))
    assert v is not None
    slopes = [[oracle.derivative(matrix[:, i, j], x)[:, i] for i in range(dim)] for j in range(dim)]
    divergence = torch.stack([sum(row) for row in slopes], 1)  # type: ignore[arg-type]
    root = torch.linalg.cholesky(matrix.detach())
    found = oracle.terms(model, x, torch.stack([(root * u[:, None, :]).sum(2) for u in v]), energy=energy)
    square = norm if form == "vr" else found.projected_score.square().mean(0) / 2
    return found.along.mean(0) + square + (divergence * s).sum(1)


def tempered(
    model: nn.Module,
    x: Tensor,
    beta: Tensor,
    noise: Tensor,
    v: Tensor,
    *,
    variance: Field,
    log_r: Field,
    ends: tuple[Tensor, Tensor],
    energy: bool = True,
    variance_reduced: bool = True,
) -> Tensor:
    """Return the losses `[B]`, each derivative in beta by differentiating once more.

    `log_r` is the logarithm of the density of levels, normalised; `ends` are the first and the last level, `[B]` each.
    """

    def at(level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = (x + variance(level).sqrt()[:, None] * noise).detach().requires_grad_()
        b = level.detach().clone().requires_grad_()
        output = model(torch.cat([y, b[:, None]], 1))
        if energy:
            return y, b, -oracle.derivative(output, y), -oracle.derivative(output, b)
        return y, b, output[:, :-1], output[:, -1]

    y, b, s, t = at(beta)
    along = torch.stack([(oracle.derivative((s * u).sum(), y) * u).sum(1) for u in v]).mean(0)
    square = s.square().sum(1) if variance_reduced else (v * s).sum(2).square().mean(0)
    slope = oracle.derivative(log_r(b), b).detach()
    inside = along + square / 2 + t.square() / 2 + slope * t + oracle.derivative(t, b)
    first, last = ((log_r(end).exp() * at(end)[3]) for end in ends)
    return inside - (last - first)
