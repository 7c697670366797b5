"""Score matching on domains that are not convex: against plain autograd, inside and on the boundary."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

import fastssm
from fastssm.domains import Ball, Intersection, Intervals, OutsideBall, Polynomial, Weight
from tests import oracle, oracle_weights
from tests.covering import each
from tests.test_domain_loss import Case, diagonal, problem


def free_of_ball(x: Tensor, radius: float) -> Tensor:
    """How far each coordinate is from a ball on its line; infinite where the line misses it."""
    rest = x.square().sum(1, keepdim=True) - x.square()
    hit = rest < radius**2
    return torch.where(hit, x.abs() - torch.where(hit, radius**2 - rest, 1.0).sqrt(), math.inf)


def to_ends(x: Tensor, ends: list[float]) -> Tensor:
    return (x[:, :, None] - torch.tensor(ends).double()).abs().amin(2)


def in_ellipsoid(x: Tensor) -> Tensor:
    """`x^2 + 2 y^2 + 3 z^2 + x y <= 4`, by the quadratic formula in each coordinate."""
    a, b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.stack([x[:, 1], x[:, 0], 0 * x[:, 0]], 1)
    c = (a * x.square()).sum(1, keepdim=True) + x[:, :1] * x[:, 1:2] - 4 - a * x.square() - b * x
    root = (b.square() - 4 * a * c).sqrt()
    return torch.minimum(x - (-b - root) / (2 * a), (-b + root) / (2 * a) - x)


UNIONS = {
    "outside": Case(
        OutsideBall(1.0), Weight("power", cap=1.0), lambda x: free_of_ball(x, 1.0).clamp(max=1),
        lambda x: (x.norm(dim=1) - 1).clamp(max=1),
    ),
    "intervals": Case(
        Intervals((-1.0, 0.0), (0.25, 2.0)), Weight("power", 2.0), lambda x: to_ends(x, [-1, 0, 0.25, 2]).square(),
        lambda x: to_ends(x, [-1, 0, 0.25, 2]).amin(1).square(),
    ),
    "ellipsoid": Case(
        Polynomial([1.0, 2.0, 3.0, 1.0], [[2, 0, 0], [0, 2, 0], [0, 0, 2], [1, 1, 0]], 4.0), Weight("tanh", 2.0),
        lambda x: (2 * in_ellipsoid(x)).tanh(), lambda x: x[:, 0],
    ),
    "shell": Case(
        Intersection(Ball(2.0), OutsideBall(1.0)), Weight("power", cap=0.5),
        lambda x: torch.minimum(
            (4 - x.square().sum(1, keepdim=True) + x.square()).sqrt() - x.abs(), free_of_ball(x, 1.0)
        ).clamp(max=0.5),
        lambda x: torch.minimum(2 - x.norm(dim=1), x.norm(dim=1) - 1).clamp(max=0.5),
    ),
}  # fmt: skip


EDGE = {  # a point of the boundary, which some coordinates' lines only touch, and a way into the domain
    "outside": ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
    "intervals": ([0.25, 1.0, 2.0], [1.0, 0.0, -1.0]),
    "ellipsoid": ([2.0, 0.0, 0.0], [-1.0, 0.0, 0.0]),
    "shell": ([0.0, 2.0, 0.0], [0.0, -1.0, 0.0]),
}


@each("name", UNIONS)
def test_domains_that_are_not_convex_give_the_same_as_plain_autograd(name: str) -> None:
    """And rows on the boundary their limit from inside."""
    case = UNIONS[name]
    net, x, v = problem("energy", case.domain)
    other = copy.deepcopy(net)
    for weighting, g in (("coordinate", case.g), ("distance", case.g0))[: 1 if name == "ellipsoid" else 2]:
        loss = fastssm.domain_loss(net, x, domain=case.domain, h=case.h, weighting=weighting, v=v)
        expected = oracle_weights.generalized(other, x, v, diagonal(g), energy=True, form="vr").mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        oracle.assert_close([loss, *grads], [expected, *oracle.gradients(expected, other.parameters())], 1e-10, name)
    at, way = torch.tensor(EDGE[name], dtype=torch.float64)
    edge = torch.stack([at, at + 1e-9 * way])
    assert case.domain.contains(edge).all()
    losses = fastssm.domain_loss(net, edge, domain=case.domain, h=case.h, exact=True, reduction="none")
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
