"""Derivatives by function values alone: the judge of the oracle. Autograd has no part in it.

The sliced loss of an energy is made of its first and second derivatives along v, both on one line `x + t v`; that of a
score network of `v . s` and its first. Its derivative along a direction of the parameters is one more difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.nets.net import Net, Problem

FIRST = (1 / 280, -4 / 105, 1 / 5, -4 / 5, 0.0, 4 / 5, -1 / 5, 4 / 105, -1 / 280)  # of order 8
SECOND = (-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560)


@torch.no_grad()
def sliced_loss(net: Net, problem: Problem) -> float:
    """Return the mean of `v^T J v + (v.s)^2 / 2`, without variance reduction."""
    total = 0.0
    for v in problem.v:
        total += float(_along(net, problem, v) + _each(net, problem, v).square().sum() / 2)
    return total / (len(problem.v) * len(problem.x))


def _values(net: Net, problem: Problem, v: Tensor) -> Tensor:
    """Return the energies, or the `v . s`, of the points of a line, `[9, B]`."""
    points = [problem.x + t * net.step * v for t in range(-4, 5)]
    outputs = [problem.model(point.clone(), *problem.cond).reshape(len(v), -1) for point in points]
    return torch.stack([o[:, 0] if net.energy else (o * v.flatten(1)).sum(1) for o in outputs])


def _weighed(coefficients: Sequence[float], values: Tensor) -> Tensor:
    return torch.einsum("t,t...->...", torch.tensor(coefficients, dtype=values.dtype), values)


def _each(net: Net, problem: Problem, v: Tensor) -> Tensor:
    """Return `v . s` of every sample; where samples mix, s is the derivative of the sum of all energies."""
    if not net.energy:
        return _values(net, problem, v)[4]
    if not net.coupled:
        return -_weighed(FIRST, _values(net, problem, v)) / net.step
    one = torch.eye(len(v), dtype=v.dtype).reshape(len(v), len(v), *[1] * (v.ndim - 1))
    return torch.stack([-_weighed(FIRST, _values(net, problem, v * o).sum(1)) / net.step for o in one])


def _along(net: Net, problem: Problem, v: Tensor) -> Tensor:
    """Return the sum of `v^T J v` over samples."""
    values = _values(net, problem, v).sum(1)
    return -_weighed(SECOND, values) / net.step**2 if net.energy else _weighed(FIRST, values) / net.step


def along_parameters(net: Net, direction: Sequence[Tensor], epsilon: float) -> float:
    """Return the derivative of the sliced loss along a direction of the parameters, extrapolated."""

    def moved(by: float) -> float:
        problem = net.problem()
        with torch.no_grad():
            parameters = [p for p in problem.model.parameters() if p.requires_grad]
            for p, d in zip(parameters, direction, strict=True):
                p.add_(by * d)
        return sliced_loss(net, problem)

    return _richardson(moved, epsilon)


def _richardson(function: Callable[[float], float], epsilon: float) -> float:
    near, far = ((function(e) - function(-e)) / (2 * e) for e in (epsilon, 2 * epsilon))
    return (4 * near - far) / 3


def direction(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return a direction in which every parameter has a part of about the same size, none longer than 1."""
    torch.manual_seed(1)
    sizes = [g.square().mean().sqrt() for g in gradients]
    floor = 0.03 * max(sizes)
    drawn = [torch.randn_like(g) / (size + floor) for g, size in zip(gradients, sizes, strict=True)]
    longest = max(d.abs().max() for d in drawn)
    return [d / longest for d in drawn]
