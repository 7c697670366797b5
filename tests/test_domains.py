"""Domains and weights: distances against walks through the set, derivatives against autograd, every formula."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastssm.domains import (
    WEIGHTS,
    Ball,
    Box,
    Domain,
    Halfspaces,
    Intersection,
    Intervals,
    OutsideBall,
    Polynomial,
    Positive,
    Simplex,
    Weight,
)
from tests.covering import each

D = 3


def polyhedron() -> Halfspaces:
    normals = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.3, 0.0], [0.2, -1.0, 1.0], [0.0, 0.0, -2.0], [1.0, 0.0, 3.0]])
    return Halfspaces(normals, torch.tensor([2.0, 1.0, 1.5, 2.0, 4.0]))


CONVEX: dict[str, Domain] = {
    "positive": Positive(),
    "box": Box(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, math.inf, 0.5])),
    "halfspaces": polyhedron(),
    "ball": Ball(1.5),
    "simplex": Simplex(),
    "lens": Intersection(Ball(1.5), Box(-1.2, 1.0)),
}
DOMAINS: dict[str, Domain] = {
    **CONVEX,
    "outside": OutsideBall(1.0),
    "intervals": Intervals((-1.5, -0.2), (0.3, 1.0), (1.2, math.inf)),
    "quartic": Polynomial([1.0, 1.0, 0.5, -1.0], [[4, 0, 0], [0, 2, 2], [0, 0, 2], [1, 1, 0]], 0.7),
    "cubic": Polynomial([1.0, 1.0, -2.0], [[3, 1, 0], [0, 0, 2], [0, 1, 0]], 0.5),
    "not in a ball": Polynomial([-1.0, -1.0, -1.0], [[2, 0, 0], [0, 2, 0], [0, 0, 2]], -1.0),
    "shells": Intersection(Ball(1.8), OutsideBall(1.0), Intervals((-1.5, -0.2), (-0.1, 1.7))),
}
EUCLIDEAN = [name for name in DOMAINS if not isinstance(DOMAINS[name], Polynomial)]


def inside(domain: Domain, count: int = 40) -> Tensor:
    """Draw points of a domain by rejection."""
    generator = torch.Generator().manual_seed(3)
    x = 4 * torch.rand(200_000, D, generator=generator, dtype=torch.float64) - 2
    return x[domain.contains(x)][:count]


@each("name", DOMAINS)
def test_phi_is_how_far_a_coordinate_can_go(name: str) -> None:
    domain = DOMAINS[name]
    x = inside(domain)
    phi, sign = domain.sections(x)
    assert phi.isfinite().any()
    far = torch.where(phi.isfinite(), phi, 100.0)
    for j, unit in enumerate(torch.eye(D, dtype=x.dtype)):
        for share in torch.linspace(-1 + 1e-9, 1 - 1e-9, 101, dtype=x.dtype).tolist():
            assert domain.contains(x + share * far[:, j, None] * unit).all()
        ends = [domain.contains(x + side * (1 + 1e-6) * far[:, j, None] * unit) for side in (-1, 1)]
        for end, within in zip((1, -1), ends, strict=True):
            assert torch.equal(~within, (sign[:, j] == end) & phi[:, j].isfinite())


@each("name", DOMAINS)
def test_the_sign_is_the_derivative_of_phi(name: str) -> None:
    x = inside(DOMAINS[name])
    sign = DOMAINS[name].sections(x).sign
    for j, unit in enumerate(torch.eye(D, dtype=x.dtype)):
        ahead, behind = (DOMAINS[name].sections(x + side * 1e-6 * unit).phi[:, j] for side in (1, -1))
        slope = torch.where(ahead.isfinite(), ahead - behind, 0.0) / 2e-6
        torch.testing.assert_close(sign[:, j], slope, rtol=1e-6, atol=1e-6)


@each("name", EUCLIDEAN)
def test_the_distance_is_that_to_the_nearest_point_of_the_boundary(name: str) -> None:
    domain = DOMAINS[name]
    x = inside(domain, 12).requires_grad_()
    distance, gradient = domain.distance(x)
    ways = torch.randn(4000, D, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ways = ways / ways.norm(dim=1, keepdim=True)
    for point, far in zip(x.detach(), distance.detach(), strict=True):
        for share in (0.1, 0.4, 0.7, 1 - 1e-9):
            assert domain.contains(point + share * far * ways).all()
        assert not domain.contains(point + (1.02 * far + 1e-3) * ways).all()
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


@each("name", CONVEX)
def test_the_nearest_point_is_in_the_domain_and_no_other_is_nearer(name: str) -> None:
    """For a convex set: `(x - p) . (y - p) <= 0` for every y in it, and this holds for no other p."""
    domain, x = CONVEX[name], scattered()
    within = domain.contains(x)
    assert within.any() or name in ("simplex", "box")
    nearest, others = domain.nearest(x), inside(domain, 200)
    torch.testing.assert_close(nearest[within], x[within], rtol=1e-12, atol=1e-12)
    assert domain.contains(nearest + 1e-9 * (others[0] - nearest)).all()
    assert (torch.einsum("nd,nod->no", x - nearest, others - nearest[:, None]) < 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each("name", CONVEX)
def test_points_outside_come_back(name: str, dtype: torch.dtype) -> None:
    domain, x = CONVEX[name], scattered().to(dtype)
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


@each("name", sorted(DOMAINS.keys() - CONVEX.keys()))
def test_points_outside_of_what_is_not_convex_come_back(name: str) -> None:
    """Nothing nearer lies in the domain; for polynomials and intersections, up to the square of a small distance."""
    domain = DOMAINS[name]
    before = inside(domain, 500)
    phi, sign = domain.sections(before)
    bounded = phi.isfinite().any(1)
    before, phi, sign = before[bounded], phi[bounded], sign[bounded]
    least = phi.min(1)
    way = torch.zeros_like(before).scatter_(1, least.indices[:, None], 1.0) * -sign
    x = before + (1.01 * least.values[:, None] + 1e-3) * way
    out = ~domain.contains(x)
    x, before = x[out], before[out]
    assert len(x) > 100
    for found in (domain.project(x, before), domain.reflect(x, before)):
        assert domain.contains(found).all()
    if name == "outside":  # whose centre leaves along the first axis
        assert domain.nearest(torch.zeros(1, D)).tolist() == [[1.0, 0.0, 0.0]]
    moved = domain.project(x, before)
    exact = isinstance(domain, OutsideBall | Intervals)
    gap = (moved - x).norm(dim=1)
    torch.testing.assert_close(
        moved[~(moved == before).all(1)], domain.nearest(x)[~(moved == before).all(1)], rtol=0, atol=1e-6
    )
    ways = torch.randn(300, D, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ways = ways / ways.norm(dim=1, keepdim=True)
    for point, far in zip(x[:30], gap[:30], strict=True):
        assert not domain.contains(point + (1 - 1e-6 if exact else 0.8) * far * ways).any()


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
    edge |= {"outside": [0.0, 1.0, 0.0], "intervals": [1.0, 2.0, 1.2], "not in a ball": [0.0, -1.0, 0.0]}
    edge |= {"shells": [0.0, 1.0, 0.0], "cubic": [0.0, -0.25, 0.0], "lens": [0.0, -1.2, 0.5]}
    for name, point in edge.items():
        x = torch.tensor([point], dtype=torch.float64)
        assert DOMAINS[name].contains(x).item()
        phi, sign = DOMAINS[name].sections(x)
        assert phi.min() == 0
        assert sign.isfinite().all()
    # A section goes on: `(x - 1)^2 (x - 3) <= 0` is all up to 3, and the tangent of a disc is free outside it.
    sections = Polynomial([1.0, -5.0, 7.0], [[3], [2], [1]], 3.0).sections(torch.tensor([[0.0], [1.0], [2.5]]).double())
    torch.testing.assert_close(sections.phi, torch.tensor([[3.0], [2.0], [0.5]]).double(), rtol=1e-7, atol=0)
    assert sections.sign.tolist() == [[-1.0]] * 3
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for domain, free in (
        (Ball(1.0), 0.0),
        (Polynomial([1.0, 1.0], [[2, 0], [0, 2]], 1.0), 0.0),
        (OutsideBall(1.0), math.inf),
        (Polynomial([-1.0, -1.0], [[2, 0], [0, 2]], -1.0), math.inf),
    ):
        assert domain.sections(x).phi.tolist() == [[0.0, free]]
        assert domain.sections(x).sign[0, 1] == 0


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
    (lambda: OutsideBall(-1.0), ("positive and finite", "-1.0")),
    (lambda: Intervals(), ("ascending", "none")),
    (lambda: Intervals((0.0, 1.0), (1.0, 2.0)), ("with gaps", "(0.0, 1.0), (1.0, 2.0)")),
    (lambda: Intervals((0.0, math.nan)), ("ascending", "nan")),
    (lambda: Polynomial([1.0], [[2, 0], [0, 2]], 1.0), ("[T, D]", "(1,) and (2, 2)")),
    (lambda: Polynomial([math.inf], [[2]], 1.0), ("finite coefficients",)),
    (lambda: Polynomial([1.0], [[-1]], 1.0), ("at least 0", "[[-1]]", "multiply by a power")),
    (lambda: Polynomial([1.0], [[0.5]], 1.0), ("integers",)),
    (lambda: Polynomial([1.0], [[0, 0]], 1.0), ("some coordinate must occur",)),
    (lambda: DOMAINS["cubic"].distance(torch.zeros(1, D)), ("has no formula", 'weighting="coordinate"')),
    (lambda: Intersection(Ball(1.0)), ("at least two", "Ball(1.0)")),
    (lambda: Intersection(polyhedron(), Box(0.0, torch.ones(2))), ("same number of coordinates",)),
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
    with pytest.raises(TypeError, match=r"takes domains of fastssm\.domains, got int"):
        Intersection(Ball(1.0), 3)  # type: ignore[arg-type]
    for make, phrases in REFUSED:
        with pytest.raises(ValueError, match=re.escape(phrases[0])) as raised:
            make()
        assert [phrase for phrase in phrases if phrase not in str(raised.value)] == []


def test_everything_shows_what_it_is() -> None:
    assert repr(Positive()) == "Positive()"
    assert repr(Box(0.0, 1.0)) == "Box(0.0, 1.0)"
    assert repr(Ball(2)) == "Ball(2.0)"
    assert repr(Simplex()) == "Simplex()"
    assert repr(Intervals((0, 1), (2, math.inf))) == "Intervals((0.0, 1.0), (2.0, inf))"
    assert repr(Intersection(Ball(2), OutsideBall(1))) == "Intersection(Ball(2.0), OutsideBall(1.0))"
    assert repr(Polynomial([1.0], [[2, 0]], 1)) == "Polynomial([1.0], [[2, 0]], 1.0)"
    assert Intersection(Positive(), polyhedron()).width() == 3
    assert repr(Halfspaces(torch.ones(1, 2), torch.ones(1))) == "Halfspaces([[1.0, 1.0]], [1.0])"
    assert repr(Weight("power", 2.0, cap=1.0)) == "Weight('power', 2.0, cap=1.0)"
