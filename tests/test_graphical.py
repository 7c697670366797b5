"""Graphical models: the quadratic against plain autograd, paths against other solvers, graphs that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastssm import graphical
from fastssm.domains import Domain, Intersection, Intervals, OutsideBall, Positive, Simplex, Weight
from fastssm.graphical import descent, quadratics
from tests import oracle, oracle_weights
from tests.covering import each
from tests.test_domain_loss import diagonal

D = 3


class Energy(nn.Module):
    """The energy of a pairwise interaction model, its parameters one by one."""

    def __init__(self, family: graphical.Interaction, theta: Tensor, dim: int) -> None:
        super().__init__()
        self.family, self.theta, self.m = family, nn.Parameter(theta), dim + family.last_part

    def forward(self, x: Tensor) -> Tensor:
        if self.family.last_part:
            x = torch.cat([x, 1 - x.sum(1, keepdim=True)], 1)
        a, b = self.family.a, self.family.b
        left, energy = list(self.theta), torch.zeros(len(x), dtype=x.dtype)
        u, w = ((x**power / power) if power else x.log() for power in (a, b))
        u = u * a**0.5 if a else u  # (x^a / a) (x^a / a) a = x^a x^a / a
        if self.family.pairs:
            for i, j in itertools.combinations_with_replacement(range(self.m), 2):
                energy = energy + left.pop(0) * u[:, i] * u[:, j] / (2 if i == j else 1)
        if self.family.linear:
            energy = energy - sum(left.pop(0) * w[:, j] for j in range(self.m))
        assert not left
        return energy


def points(domain: Domain, count: int = 12) -> Tensor:
    x = 2.5 * torch.rand(20_000, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return x[domain.contains(x)][:count]


FAMILIES = {
    **graphical.FAMILIES,
    "a and b": graphical.Interaction(1.5, 0.7),
    "centred": graphical.Interaction(2.0, 1.0, linear=False),
    "only linear": graphical.Interaction(1.0, 0.5, pairs=False),
    "centred compositions": graphical.Interaction(0.5, 1.0, linear=False, last_part=True),
}


@each("name", FAMILIES)
def test_the_quadratic_is_the_loss_of_plain_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[name]
    domain, h = (Simplex() if family.last_part else Positive()), Weight("power", 2.0, cap=0.5)
    x, size = points(domain), family.size(D)
    monkeypatch.setattr(quadratics, "CHUNK", 150)  # several chunks
    found = graphical.quadratic(x, name if name in graphical.FAMILIES else family, domain=domain, h=h)
    phi = (lambda y: torch.minimum(y, 1 - y.sum(1, keepdim=True))) if family.last_part else (lambda y: y)
    theta = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    energy = Energy(family, theta, D)
    weight = diagonal(lambda y: phi(y).square().clamp(max=0.5))
    each_loss = oracle_weights.generalized(energy, x, None, weight, energy=True, form="exact")
    (slope,) = torch.autograd.grad(each_loss.mean(), energy.theta, create_graph=True)
    curvature = torch.stack([torch.autograd.grad(part, energy.theta, retain_graph=True)[0] for part in slope])
    assert (found.rows, found.dim, size) == (12, D, len(found.g))
    ours = [found.loss(theta), found.gamma @ theta - found.g, found.gamma]
    oracle.assert_close(ours, [each_loss.mean(), slope, curvature], 1e-10, name)
    k, eta = found.split(theta)
    assert torch.equal(k, k.T)
    assert (k.ne(0).any().item(), eta.ne(0).any().item()) == (family.pairs, family.linear)


def test_the_quadratic_on_other_domains_with_one_weight_and_on_the_boundary() -> None:
    theta = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ring = Intersection(Positive(), OutsideBall(1.0))
    ends = torch.tensor([0.0, 0.5, 0.75, 2.0]).double()
    for domain, weighting, g in (
        (Intervals((0.0, 0.5), (0.75, 2.0)), "coordinate", lambda y: (y[:, :, None] - ends).abs().amin(2).clamp(max=1)),
        (ring, "distance", lambda y: torch.minimum(y.amin(1), y.norm(dim=1) - 1).clamp(max=1)),
    ):
        x, energy = points(domain), Energy(graphical.FAMILIES["gaussian"], theta, D)
        loss = oracle_weights.generalized(energy, x, None, diagonal(g), energy=True, form="exact").mean()
        found = graphical.quadratic(x, domain=domain, weighting=weighting)
        slope = oracle.gradients(loss, energy.parameters())
        oracle.assert_close([found.loss(theta), found.gamma @ theta - found.g], [loss, *slope], 1e-10, repr(domain))
    edge, near = x.clone(), x.clone()
    edge[3, 1], near[3, 1] = 0.0, 1e-9  # a row's limit; where it is infinite, the row is named (test_bad_graphical.py)
    at, by = (graphical.quadratic(t, domain=Positive()) for t in (edge, near))
    oracle.assert_close([at.gamma, at.g], [by.gamma, by.g], 1e-7)


def test_a_gaussian_has_the_inverse_covariance_and_a_dirichlet_distribution_its_concentrations() -> None:
    x, mixing = torch.randn(2, 50, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x @ mixing[:D]
    k, eta = (found := graphical.quadratic(x)).split(found.solve())
    covariance = torch.cov(x.T, correction=0)
    torch.testing.assert_close(k @ covariance, torch.eye(D).double())
    torch.testing.assert_close(eta, k @ x.mean(0))
    torch.manual_seed(0)
    alpha = torch.tensor([0.8, 1.5, 3.0, 2.0], dtype=torch.float64)
    x = torch.distributions.Dirichlet(alpha).sample((20_000,))[:, :-1]
    found = graphical.quadratic(x, "dirichlet", domain=Simplex(), h=Weight("power", 2.0))
    torch.testing.assert_close(found.split(found.solve())[1] + 1, alpha, rtol=0.05, atol=0.05)


def problem(rows: int, variables: int) -> graphical.Quadratic:
    x = torch.randn(rows, variables, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x[:, 1:] += 0.8 * x[:, :-1]  # a chain
    return graphical.quadratic(x.abs(), domain=Positive())


def proximal(loss: graphical.Quadratic, penalty: float, diagonal: float, steps: int = 30_000) -> Tensor:
    """Return the minimum by proximal gradient steps on K and eta as they stand, with `penalty sum |K_ij|`."""
    gamma, m = loss.gamma.clone(), loss.dim
    place = [(i, j) for i in range(m) for j in range(i, m)]
    for index in range(len(place)):
        gamma[index, index] *= diagonal
    threshold = torch.tensor([2.0 * penalty * (i != j) for i, j in place] + [0.0] * m, dtype=torch.float64)
    step = 1 / torch.linalg.eigvalsh(gamma)[-1]
    theta = torch.zeros_like(loss.g)
    for _ in range(steps):
        last, theta = theta, theta - step * (gamma @ theta - loss.g)
        theta = theta.sign() * (theta.abs() - step * threshold).clamp(min=0)
        if torch.allclose(theta, last, rtol=0, atol=1e-13):
            break
    return theta


@each("diagonal", [1.0, 1.7])
def test_a_path_has_the_minima_of_proximal_gradient_steps(diagonal: float) -> None:
    loss = problem(60, 4)
    path = graphical.path(loss, count=7, smallest=0.02, diagonal=diagonal)
    counts = path.edges.sum((1, 2)) // 2
    assert counts[0] == 0
    assert 1 < counts[-1] <= 6
    for penalty, theta in list(zip(path.penalties.tolist(), path.theta, strict=True))[1::3]:
        torch.testing.assert_close(theta, proximal(loss, penalty, diagonal), rtol=1e-6, atol=1e-7)
    first = graphical.path(loss, penalties=[0.999 * path.penalties[0].item()], diagonal=diagonal)
    assert first.edges.sum() == 2  # the first penalty is the least without an edge
    shuffled = graphical.path(loss, penalties=path.penalties.flip(0), diagonal=diagonal)
    torch.testing.assert_close(shuffled.theta, path.theta, rtol=1e-7, atol=1e-9)


def test_few_rows_have_a_path_with_the_multiplier_and_none_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graphical.multiplier(80, 100) == pytest.approx(2 - 1 / (1 + 4 * math.e * math.sqrt(6 * math.log(100) / 80)))
    assert graphical.multiplier(10, 100) == pytest.approx(2 - 1 / (1 + 4 * math.e * 0.6 * math.log(100)))
    loss = problem(8, 12)
    with pytest.raises(ValueError, match=r"from 8 row\(s\) must not be singular; .* diagonal=fastssm"):
        graphical.path(loss)
    factor = graphical.multiplier(8, 12)
    path = graphical.path(loss, diagonal=factor, smallest=0.05, count=12)
    gamma = loss.gamma.clone()
    gamma.diagonal()[:78] *= factor
    off = torch.tensor([i != j for i in range(12) for j in range(i, 12)] + [False] * 12)
    for penalty, theta in zip(path.penalties, path.theta, strict=True):  # the optimality conditions
        pull = (loss.g - gamma @ theta) / torch.where(off, 2 * penalty, 1.0)
        torch.testing.assert_close(pull[off & (theta != 0)], theta[off & (theta != 0)].sign(), rtol=0, atol=1e-6)
        assert pull[off].abs().max() <= 1 + 1e-6
        assert pull[~off].abs().max() < 1e-7
    assert path.ebic().isinf().any()  # the refit has no multiplier
    assert path.refit().isnan().any()
    assert path.best().ebic < math.inf
    monkeypatch.setattr(descent, "ROUNDS", 1)
    monkeypatch.setattr(descent, "STEPS", 0)
    with pytest.raises(ValueError, match=r"does not in 1 rounds for the penalty 0\.\d+: Gamma is nearly singular"):
        graphical.path(problem(60, 4))


def test_the_criterion_is_its_formula_and_the_best_graph_has_the_least() -> None:
    loss = problem(300, 5)
    path = graphical.path(loss, count=20)
    free = [index for index, (i, j) in enumerate((i, j) for i in range(5) for j in range(i, 5)) if i == j]
    expected = []
    for theta in path.theta.numpy():
        kept = sorted({*np.flatnonzero(theta), *free, *range(15, 20)})
        gamma, g = loss.gamma.numpy()[np.ix_(kept, kept)], loss.g.numpy()[kept]
        refit, edges = np.linalg.solve(gamma, g), len(kept) - 10
        least = refit @ gamma @ refit / 2 - g @ refit
        expected.append(2 * 300 * least + edges * math.log(300) + 2 * 0.5 * math.log(math.comb(10, edges)))
    torch.testing.assert_close(path.ebic(0.5), torch.tensor(expected, dtype=torch.float64))
    best, index = path.best(0.5), int(np.argmin(expected))
    assert (best.ebic, best.penalty) == (pytest.approx(expected[index]), path.penalties[index].item())
    assert torch.equal(best.edges, path.edges[index])
    assert torch.equal(best.k.ne(0) & ~torch.eye(5, dtype=torch.bool), best.edges)
    assert len(path.ebic(0.0).unique()) > 3


def test_the_graph_of_a_truncated_gaussian_is_found_and_its_matrix_needs_the_weight() -> None:
    """A chain of four, cut off at zero: a quarter of the points remain."""
    k = torch.tensor([[1.5, -0.6, 0, 0], [-0.6, 1.5, -0.6, 0], [0, -0.6, 1.5, 0.6], [0, 0, 0.6, 1.5]]).double()
    z = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = 0.2 + torch.linalg.solve_triangular(torch.linalg.cholesky(k).mT, z.mT, upper=True).mT
    x = x[Positive().contains(x)][:20_000]
    graph = graphical.path(graphical.quadratic(x, domain=Positive())).best()
    assert torch.equal(graph.edges, k.ne(0) & ~torch.eye(4, dtype=torch.bool))
    assert (graph.k - k).abs().max() < 0.2
    torch.testing.assert_close(torch.linalg.solve(graph.k, graph.eta), torch.full((4,), 0.2).double(), rtol=0, atol=0.1)
    biased = graphical.quadratic(x, domain=Positive(), h=Weight("one"))
    assert (biased.split(biased.solve())[0] - k).abs().max() > 1.0
