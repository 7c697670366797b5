"""Domains and weights: distances against walks through the set, derivatives against autograd, every formula."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastssm.domains import WEIGHTS, Ball, Box, Domain, Halfspaces, Positive, Simplex, Weight
from tests.covering import each

D = 3


def polyhedron() -> Halfspaces:
    normals = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.3, 0.0], [0.2, -1.0, 1.0], [0.0, 0.0, -2.0], [1.0, 0.0, 3.0]])
    return Halfspaces(normals, torch.tensor([2.0, 1.0, 1.5, 2.0, 4.0]))


DOMAINS: dict[str, Domain] = {
    "positive": Positive(),
    "box": Box(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, math.inf, 0.5])),
    "halfspaces": polyhedron(),
    "ball": Ball(1.5),
    "simplex": Simplex(),
}


def inside(domain: Domain, count: int = 40) -> Tensor:
    """Draw points of a domain by rejection."""
    generator = torch.Generator().manual_seed(3)
    x = 4 * torch.rand(200_000, D, generator=generator, dtype=torch.float64) - 2
    return x[domain.contains(x)][:count]


def walked(domain: Domain, x: Tensor, way: Tensor, far: float = 1e3) -> Tensor:
    """Return how far each point may go along a direction before it leaves the domain, by bisection."""
    low, high = torch.zeros(len(x), dtype=x.dtype), torch.full((len(x),), far, dtype=x.dtype)
    for _ in range(70):
        middle = (low + high) / 2
        within = domain.contains(x + middle[:, None] * way)
        low, high = torch.where(within, middle, low), torch.where(within, high, middle)
    return torch.where(low > 0.99 * far, math.inf, low)


@each("name", DOMAINS)
def test_phi_is_how_far_a_coordinate_can_go(name: str) -> None:
    domain = DOMAINS[name]
    x = inside(domain)
    phi, sign = domain.sections(x)
    for j, unit in enumerate(torch.eye(D, dtype=x.dtype)):
        below, above = walked(domain, x, -unit), walked(domain, x, unit)
        torch.testing.assert_close(phi[:, j], torch.minimum(below, above), rtol=1e-9, atol=1e-12)
        assert torch.equal(sign[:, j] > 0, below < above)


@each("name", DOMAINS)
def test_the_sign_is_the_derivative_of_phi(name: str) -> None:
    x = inside(DOMAINS[name]).requires_grad_()
    phi, sign = DOMAINS[name].sections(x)
    for j in range(D):
        (slope,) = torch.autograd.grad(phi[:, j].nan_to_num(posinf=0.0).sum(), x, retain_graph=True)
        torch.testing.assert_close(sign[:, j].detach(), slope[:, j])


@each("name", DOMAINS)
def test_the_distance_is_that_to_the_nearest_point_of_the_boundary(name: str) -> None:
    domain = DOMAINS[name]
    x = inside(domain, 12).requires_grad_()
    distance, gradient = domain.distance(x)
    ways = torch.randn(4000, D, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ways = ways / ways.norm(dim=1, keepdim=True)
    for point, far in zip(x.detach(), distance.detach(), strict=True):
        nearest = walked(domain, point.expand(4000, D), ways).min()
        assert far <= nearest * (1 + 1e-9)
        assert nearest < 1.02 * far + 1e-3
    (slope,) = torch.autograd.grad(distance.sum(), x)
    torch.testing.assert_close(gradient.detach(), slope)
    torch.testing.assert_close(gradient.detach().norm(dim=1), torch.ones(12, dtype=x.dtype))


@each("name", DOMAINS)
def test_what_lies_outside_is_not_contained(name: str) -> None:
    domain = DOMAINS[name]
    x = inside(domain, 12)
    phi, sign = domain.sections(x)
    bounded = phi.isfinite()
    assert bounded.any()
    for b, j in bounded.nonzero().tolist():
        for step, expected in ((0.99, True), (1.01, False)):
            moved = x[b].clone()
            moved[j] -= sign[b, j] * step * phi[b, j]
            assert domain.contains(moved[None]).item() is expected
    assert not domain.contains(torch.full((1, D), math.nan)).item()


def scattered(count: int = 300) -> Tensor:
    return 3.0 * torch.randn(count, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@each("name", DOMAINS)
def test_the_nearest_point_is_in_the_domain_and_no_other_is_nearer(name: str) -> None:
    """For a convex set: `(x - p) . (y - p) <= 0` for every y in it, and this holds for no other p."""
    domain, x = DOMAINS[name], scattered()
    within = domain.contains(x)
    assert within.any() or name in ("simplex", "box")
    nearest, others = domain.nearest(x), inside(domain, 200)
    torch.testing.assert_close(nearest[within], x[within], rtol=1e-12, atol=1e-12)
    assert domain.contains(nearest + 1e-9 * (others[0] - nearest)).all()
    assert (torch.einsum("nd,nod->no", x - nearest, others - nearest[:, None]) < 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each("name", DOMAINS)
def test_points_outside_come_back(name: str, dtype: torch.dtype) -> None:
    domain, x = DOMAINS[name], scattered().to(dtype)
    before = inside(domain, 1).to(dtype).expand(len(x), D)
    out = ~domain.contains(x)
    projected, reflected = domain.project(x, before), domain.reflect(x, before)
    for found in (projected, reflected):
        assert found.dtype == dtype
        assert domain.contains(found).all()
        assert torch.equal(found[~out], x[~out])
    near = math.sqrt(torch.finfo(dtype).eps) * 20
    torch.testing.assert_close(projected, domain.nearest(x), rtol=0.0, atol=near)
    mirrored = 2 * domain.nearest(x) - x
    simple = out & domain.contains(mirrored)
    assert simple.any()
    torch.testing.assert_close(reflected[simple], mirrored[simple])


def test_a_box_folds_what_is_further_out_than_it_is_wide() -> None:
    x = torch.tensor([[0.25], [-0.25], [1.25], [2.25], [-1.25], [9.75]])
    found = Box(0.0, 1.0).reflect(x, torch.full_like(x, 0.5))
    assert found.flatten().tolist() == [0.25, 0.25, 0.75, 0.25, 0.75, 0.25]


def test_points_that_are_not_finite_stay() -> None:
    x, before = torch.full((1, D), math.nan), torch.zeros(1, D)
    for domain in DOMAINS.values():
        assert domain.reflect(x, before).isnan().all()
        assert domain.project(x, before).isnan().all()


def test_the_boundary_belongs_to_the_domain() -> None:
    edge = {"positive": [0.0, 1.0, 2.0], "box": [1.0, 0.0, 0.5], "ball": [0.0, 1.5, 0.0], "simplex": [0.5, 0.5, 0.0]}
    for name, point in edge.items():
        x = torch.tensor([point], dtype=torch.float64)
        assert DOMAINS[name].contains(x).item()
        phi, sign = DOMAINS[name].sections(x)
        assert phi.min() == 0
        assert sign.isfinite().all()


def test_ball_keeps_its_digits_near_the_edge() -> None:
    x = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64) * (1.5 - 1e-13)
    phi = Ball(1.5).sections(x).phi
    exact = 1e-13 * 1.5 / 1.5  # to first order: (radius - |x|) radius / |x_j|, with |x_j| = 0.9 and 1.2
    torch.testing.assert_close(
        phi[0, :2], exact * 1.5 / torch.tensor([0.9, 1.2], dtype=torch.float64), rtol=2e-3, atol=0
    )


FORMULAS = {
    "one": lambda t: 1.0,
    "power": lambda t: t**1.7,
    "log_power": lambda t: math.log(1 + t) ** 1.7,
    "asinh": lambda t: math.asinh(1.7 * t),
    "sinh": lambda t: math.sinh(1.7 * t),
    "cosh": lambda t: math.cosh(1.7 * t) - 1,
    "exp": lambda t: math.exp(1.7 * t) - 1,
    "softplus": lambda t: math.log(1 + math.exp(1.7 * t)) - math.log(2),
    "tanh": lambda t: math.tanh(1.7 * t),
    "mcp": lambda t: 1.3 * t - t * t / 4 if t <= 2.6 else 2 * 1.3**2 / 2,
    "scad": lambda t: 1.3 * t if t <= 1.3 else (5.2 * t - t * t - 1.69) / 2 if t < 2.6 else 1.69 * 3 / 2,
    "truncated_sin": lambda t: math.sin(1.7 * t) if 1.7 * t <= math.pi / 2 else 1.0,
    "truncated_tan": lambda t: math.tan(1.7 * t) if 1.7 * t <= math.pi / 4 else 1.0,
}
PARAMETERS = {"one": (), "mcp": (1.3, 2.0), "scad": (1.3, 2.0)}


@pytest.mark.parametrize("cap", [None, 0.8])
def test_each_weight_is_its_formula_and_its_slope_the_derivative(cap: float | None) -> None:
    t = torch.linspace(0.05, 4.0, 80, dtype=torch.float64, requires_grad=True)
    for name in WEIGHTS:
        value, slope = Weight(name, *PARAMETERS.get(name, (1.7,)), cap=cap)(t)
        expected = torch.tensor([FORMULAS[name](u) for u in t.tolist()], dtype=torch.float64)
        expected = expected if cap is None else expected.clamp(max=cap)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        (derivative,) = torch.autograd.grad(value.sum() + 0.0 * t.sum(), t)
        torch.testing.assert_close(
            slope.detach(), derivative, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_weights_vanish_at_the_boundary_and_their_defaults_work() -> None:
    for name in WEIGHTS:
        value, slope = Weight(name)(torch.zeros(1, dtype=torch.float64))
        assert value.item() == (1.0 if name == "one" else 0.0), name
        assert slope.isfinite().all(), name


def test_bounded_weights_are_constant_at_infinity() -> None:
    for name in ("one", "tanh", "mcp", "scad", "truncated_sin", "truncated_tan"):
        value, slope = Weight(name)(torch.tensor([math.inf]))
        assert value.isfinite().all()
        assert slope.item() == 0
        value, slope = Weight("exp", cap=2.0)(torch.tensor([math.inf]))
        assert (value.item(), slope.item()) == (2.0, 0.0)


def test_a_quantile_caps_each_column_at_its_own_finite_values() -> None:
    t = torch.tensor([[0.0, 10.0], [1.0, math.inf], [2.0, 30.0], [3.0, 20.0], [4.0, math.inf]], dtype=torch.float64)
    value, slope = Weight("power", 2.0, quantile=0.5)(t)
    assert value.amax(0).tolist() == [4.0, 400.0]
    assert slope[:, 0].tolist() == [0.0, 2.0, 0.0, 0.0, 0.0]  # the quantile itself counts as cut off
    fixed = Weight("power", 2.0, quantile=0.5).at(t)
    assert fixed(t[:2])[0].tolist() == [[0.0, 100.0], [1.0, 400.0]]
    assert Weight("power", quantile=0.5)(torch.full((3, 1), math.inf))[0].tolist() == [[1.0]] * 3
    assert Weight("tanh").at(t).cap is None


REFUSED: list[tuple[Callable[[], object], tuple[str, ...]]] = [
    (lambda: Box(1.0, 0.0), ("lower < upper", "lower=1.0")),
    (lambda: Box(torch.zeros(2, 2), 1.0), ("a number or a tensor [D]",)),
    (lambda: Halfspaces(torch.zeros(1, 2), torch.zeros(1)), ("none of them zero",)),
    (lambda: Halfspaces(torch.ones(2, 2), torch.zeros(1)), ("offsets [K]", "(2, 2) and (1,)")),
    (lambda: Ball(0.0), ("positive and finite", "0.0")),
    (lambda: Weight("min_pow"), ("one of one, power", "'min_pow'")),
    (lambda: Weight("power", 1.0, 2.0), ("1 positive parameter", "(1.0, 2.0)")),
    (lambda: Weight("power", -1.0), ("1 positive parameter", "(-1.0,)")),
    (lambda: Weight("scad", 1.0, 1.0), ("gamma > 1", "1.0")),
    (lambda: Weight("power", cap=1.0, quantile=0.5), ("got both", "omit one")),
    (lambda: Weight("power", cap=0.0), ("cap", "positive", "0.0")),
    (lambda: Weight("power", quantile=1.0), ("between 0 and 1", "1.0")),
]


def test_what_makes_no_sense_is_refused() -> None:
    for make, phrases in REFUSED:
        with pytest.raises(ValueError, match=re.escape(phrases[0])) as raised:
            make()
        assert [phrase for phrase in phrases if phrase not in str(raised.value)] == []


def test_everything_shows_what_it_is() -> None:
    assert repr(Positive()) == "Positive()"
    assert repr(Box(0.0, 1.0)) == "Box(0.0, 1.0)"
    assert repr(Ball(2)) == "Ball(2.0)"
    assert repr(Simplex()) == "Simplex()"
    assert repr(Halfspaces(torch.ones(1, 2), torch.ones(1))) == "Halfspaces([[1.0, 1.0]], [1.0])"
    assert repr(Weight("power", 2.0, cap=1.0)) == "Weight('power', 2.0, cap=1.0)"
