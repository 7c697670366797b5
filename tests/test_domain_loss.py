"""Score matching on domains: against plain autograd, against numbers known on paper, and what it must recover."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.domains import Ball, Box, Domain, Halfspaces, Positive, Simplex, Weight
from fastssm.losses import generalized
from fastssm.nn import MLP
from tests import oracle, oracle_weights

B, D, M = 6, 3, 2
BACKENDS = ("torch", "reference", *compiled.DEVICES)
NORMALS = [[1.0, 2.0, 0.5], [-1.0, 0.25, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, -2.0]]
OFFSETS = [2.0, 1.0, 1.5, 2.0]


def chords(x: Tensor) -> Tensor:
    """The halfspaces' distances along each coordinate, one loop per face."""
    found = torch.full_like(x, math.inf)
    for normal, offset in zip(NORMALS, OFFSETS, strict=True):
        for j, a in enumerate(normal):
            if a:
                step = (offset - sum(n * x[:, i] for i, n in enumerate(normal))) / abs(a)
                found = torch.where(torch.arange(D) == j, torch.minimum(found, step[:, None]), found)
    return found


def faces(x: Tensor) -> Tensor:
    slack = [
        offset - sum(n * x[:, i] for i, n in enumerate(normal)) for normal, offset in zip(NORMALS, OFFSETS, strict=True)
    ]
    return torch.stack([s / math.hypot(*normal) for s, normal in zip(slack, NORMALS, strict=True)]).amin(0)


class Case(NamedTuple):
    """A domain and a weight of ours, and `g_j(x)` written out anew."""

    domain: Domain
    h: Weight
    g: Callable[[Tensor], Tensor]  # [B, D]
    g0: Callable[[Tensor], Tensor]  # [B]


CASES = {
    "positive": Case(Positive(), Weight("power", cap=1.0), lambda x: x.clamp(max=1), lambda x: x.amin(1).clamp(max=1)),
    "box": Case(
        Box(-1.0, torch.tensor([1.0, 2.0, 1.5])),
        Weight("power", 2.0),
        lambda x: torch.minimum(x + 1, torch.tensor([1.0, 2.0, 1.5]) - x).square(),
        lambda x: torch.minimum(x + 1, torch.tensor([1.0, 2.0, 1.5]) - x).amin(1).square(),
    ),
    "halfspaces": Case(
        Halfspaces(torch.tensor(NORMALS).double(), torch.tensor(OFFSETS).double()),
        Weight("tanh", 2.0),
        lambda x: (2 * chords(x)).tanh(),
        lambda x: (2 * faces(x)).tanh(),
    ),
    "ball": Case(
        Ball(2.0),
        Weight("truncated_sin", 1.0),
        lambda x: ((4 - x.square().sum(1, keepdim=True) + x.square()).sqrt() - x.abs()).clamp(max=math.pi / 2).sin(),
        lambda x: (2 - x.norm(dim=1)).clamp(max=math.pi / 2).sin(),
    ),
    "simplex": Case(
        Simplex(),
        Weight("log_power", 1.0),
        lambda x: torch.minimum(x, 1 - x.sum(1, keepdim=True)).log1p(),
        lambda x: torch.minimum(x.amin(1), (1 - x.sum(1)) / math.sqrt(3)).log1p(),
    ),
}


def problem(kind: str, domain: Domain) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    net = MLP(D, [5, 4], 1 if kind == "energy" else D, "silu").double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    x = 3 * torch.rand(5000, D, dtype=torch.float64) - 1
    return net, x[domain.contains(x)][:B], torch.randn(M, B, D, dtype=torch.float64)


def diagonal(g: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return weights `[B, D]` or `[B]` as matrices `[B, D, D]`."""
    return lambda x: torch.diag_embed(g(x).reshape(len(x), -1).expand_as(x))


FORMS: dict[str, dict[str, object]] = {"vr": {}, "ssm": {"variance_reduced": False}, "exact": {"exact": True}}
EQUAL = [
    *((name, "energy", "vr", "coordinate", "torch") for name in CASES),
    *((name, "score", "exact", "distance", "torch") for name in CASES),
    *((name, "energy", "exact", "coordinate", backend) for name in ("ball", "simplex") for backend in BACKENDS),
    *(("halfspaces", kind, "ssm", "coordinate", backend) for kind in ("energy", "score") for backend in BACKENDS),
    *(("box", "score", "vr", "distance", backend) for backend in BACKENDS),
]


@pytest.mark.parametrize(("name", "kind", "form", "weighting", "backend"), EQUAL)
def test_value_and_gradients_are_those_of_plain_autograd(
    name: str, kind: str, form: str, weighting: str, backend: str
) -> None:
    case = CASES[name]
    net, x, v = problem(kind, case.domain)
    given = {} if form == "exact" else {"v": v}
    weight = torch.rand(B, dtype=torch.float64)
    loss = fastssm.domain_loss(
        net,
        x,
        domain=case.domain,
        h=case.h,
        weighting=weighting,
        backend=backend,
        weight=weight,
        **FORMS[form],
        **given,
    )
    other = copy.deepcopy(net)
    g = case.g if weighting == "coordinate" else case.g0
    each = oracle_weights.generalized(other, x, v, diagonal(g), energy=kind == "energy", form=form)
    expected = oracle.reduced(each, weight, "mean")
    grads = torch.autograd.grad(loss, list(net.parameters()))
    oracle.assert_close([loss, *grads], [expected, *oracle.gradients(expected, other.parameters())], 1e-10, name)


def test_the_exact_trace_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = problem("energy", Positive())
    whole = fastssm.domain_loss(net, x, domain=Positive(), exact=True, reduction="none")
    monkeypatch.setattr(generalized, "MOST_SEEDS", 2 * B * D)
    torch.testing.assert_close(fastssm.domain_loss(net, x, domain=Positive(), exact=True, reduction="none"), whole)


def test_terms_reductions_images_and_cond() -> None:
    torch.manual_seed(0)
    net = MLP(4, [5], cond_dim=2).double()
    x, cond = torch.rand(B, 2, 2, dtype=torch.float64), torch.randn(B, 2, dtype=torch.float64)
    options: dict[str, object] = {"domain": Box(0.0, 1.0), "cond": cond, "exact": True}
    each, terms = fastssm.domain_loss(net, x, reduction="none", return_terms=True, **options)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, each.detach())
    assert fastssm.domain_loss(net, x, **options).item() == pytest.approx(each.mean().item())
    assert fastssm.domain_loss(net, x.flatten(1), reduction="sum", **options).item() == pytest.approx(each.sum().item())
    assert fastssm.domain_loss(net, x[:0], domain=Box(0.0, 1.0), cond=cond[:0], reduction="sum").item() == 0


@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_is_unbiased(projection: str, variance_reduced: bool) -> None:
    net, x, _ = problem("energy", Ball(2.0))
    count = 20_000
    each = fastssm.domain_loss(
        net.requires_grad_(False),
        x[:1].expand(count, D),
        domain=Ball(2.0),
        projection=projection,
        variance_reduced=variance_reduced,
        generator=torch.Generator().manual_seed(1),
        reduction="none",
    )
    exact = fastssm.domain_loss(net, x[:1], domain=Ball(2.0), exact=True)
    error = float(each.std()) / math.sqrt(count)
    assert error < 0.03 * abs(float(exact))
    assert abs(float(each.mean() - exact)) < 5 * error + 1e-12


def quadrature(edges: list[float], count: int = 40) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of Gauss-Legendre panels."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    middle = [((b + a) / 2 + (b - a) / 2 * nodes, (b - a) / 2 * weights) for a, b in itertools.pairwise(edges)]
    return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*middle, strict=True))


class Quadratic(nn.Module):
    """`E = x^T K x / 2 - eta^T x`: a Gaussian, truncated to wherever the data live."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.k, self.eta = nn.Parameter(torch.eye(dim).double()), nn.Parameter(torch.zeros(dim).double())

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ (self.k + self.k.t()) / 2) * x).sum(1) / 2 - x @ self.eta


class Softened(nn.Module):
    """Energies of one positive variable that have nothing in common."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        return {"gaussian": (x - 0.2).square(), "gamma": 0.8 * x - (x + 0.5).log(), "wave": x.sin() + 0.3 * x}[
            self.name
        ]


CONSTANTS = {  # from the design: h -> Fisher_h - J_h, for k = 1 and k = 2
    "x": (Weight("power", 1.0), 0.66601, 1.09173),
    "x^2": (Weight("power", 2.0), 1.82733, 2.97634),
    "min(x, 1)": (Weight("power", 1.0, cap=1.0), 0.26584, 0.49534),
}


def truncated(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes on R+, the weights of `p ~ x^(k-1) exp(-(x - 0.7)^2 / 2.6)`, and the score of p."""
    x, w = quadrature([0.0, 0.25, 1.0, 2.0, 4.0, 14.0])
    p = x ** (k - 1) * torch.exp(-(x - 0.7).square() / 2.6)
    return x[:, None], w * p / (w * p).sum(), (k - 1) / x - (x - 0.7) / 1.3


def gap(model: nn.Module, h: Weight, k: int) -> float:
    """Return the weighted Fisher divergence less the loss."""
    x, weight, score = truncated(k)
    options = {"domain": Positive(), "h": h, "kind": "energy", "weight": weight, "reduction": "sum"}
    loss = fastssm.domain_loss(model, x, exact=True, **options)
    found = fastssm.terms(model, x, kind="energy").score[:, 0]
    fisher = (weight * h(x[:, 0])[0] * (found - score).square()).sum() / 2
    return float(fisher - loss)


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("k", [1, 2])
def test_the_weighted_loss_is_a_constant_away_from_the_divergence(name: str, k: int) -> None:
    h, *expected = CONSTANTS[name]
    for model in ("gaussian", "gamma", "wave"):
        assert gap(Softened(model), h, k) == pytest.approx(expected[k - 1], abs=6e-6), model


def test_the_unweighted_loss_is_not() -> None:
    found = [gap(Softened(model), Weight("one"), 1) for model in ("gaussian", "gamma", "wave")]
    assert max(found) - min(found) > 0.3
    for model in ("gaussian", "gamma", "wave"):  # and it is the ordinary loss
        x, weight, _ = truncated(1)
        options = {"kind": "energy", "weight": weight, "reduction": "sum"}
        ours = fastssm.domain_loss(Softened(model), x, domain=Positive(), h=Weight("one"), exact=True, **options)
        assert ours.item() == pytest.approx(fastssm.exact_loss(Softened(model), x, **options).item())


def test_exponential_data_on_paper() -> None:
    """`E = lambda . x`: `s = -lambda`, so `loss = sum_j lambda_j^2 x_j^2 / 2 - 2 lambda_j x_j` with `h = x^2`."""
    rates = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    net = nn.Linear(D, 1, bias=False).double()
    net.weight.data = rates[None].clone()
    x = torch.rand(B, D, dtype=torch.float64) + 0.1
    found = fastssm.domain_loss(net, x, domain=Positive(), h=Weight("power", 2.0), reduction="none")
    torch.testing.assert_close(found, ((rates * x).square() / 2 - 2 * rates * x).sum(1))


def minimised(loss_of: Callable[[nn.Module], Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Return precision and mean where a loss, quadratic in K and eta, is least."""
    model = Quadratic(dim)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    optimiser.step(closure)
    k = (model.k + model.k.t()).detach() / 2
    return k, torch.linalg.solve(k, model.eta.detach())


K, MEAN = torch.tensor([[2.0, 0.8], [0.8, 1.5]], dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)
TRUNCATED = {"box": (Box(-1.0, 1.0), [-1.0, 0.0, 1.0]), "positive": (Positive(), [0.0, 1.0, 3.0, 8.0])}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_gaussian_is_recovered_and_not_without_the_weight(name: str) -> None:
    domain, edges = TRUNCATED[name]
    nodes, w = quadrature(edges, 20)
    x, weight = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(w, w).prod(1)
    weight = weight * torch.exp(-(((x - MEAN) @ K) * (x - MEAN)).sum(1) / 2)
    options = {"weight": weight / weight.sum(), "reduction": "sum"}
    precision, mean = minimised(lambda net: fastssm.domain_loss(net, x, domain=domain, exact=True, **options), 2)
    torch.testing.assert_close(precision, K, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mean, MEAN, rtol=1e-6, atol=1e-6)
    biased, _ = minimised(lambda net: fastssm.exact_loss(net, x, **options), 2)
    assert (biased - K).abs().max() > 0.5


@pytest.mark.parametrize("weighting", ["coordinate", "distance"])
def test_a_gaussian_on_the_simplex_is_recovered_from_samples(weighting: str) -> None:
    """Three parts, two free coordinates."""
    k, centre = torch.tensor([[30.0, 8.0], [8.0, 20.0]]).double(), torch.tensor([0.3, 0.2]).double()
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    x = centre + torch.linalg.solve_triangular(torch.linalg.cholesky(k).mT, normal.mT, upper=True).mT
    x = x[Simplex().contains(x)]
    assert 0.5 < len(x) / 40_000 < 0.9  # a good part is cut off
    precision, mean = minimised(
        lambda net: fastssm.domain_loss(net, x, domain=Simplex(), h=Weight("power"), weighting=weighting, exact=True), 2
    )
    assert (precision - k).abs().max() < 3.0
    assert (mean - centre).abs().max() < 0.02
    biased, _ = minimised(lambda net: fastssm.exact_loss(net, x), 2)
    assert (biased - k).abs().max() > 8.0


def test_the_twin_is_the_function() -> None:
    net, x, v = problem("energy", Ball(2.0))
    module = fastssm.DomainLoss(net, domain=Ball(2.0), variance_reduced=False)
    expected = fastssm.domain_loss(net, x, domain=Ball(2.0), variance_reduced=False, v=v)
    assert torch.equal(module(x, v=v), expected)
    assert "domain=Ball(2.0)" in repr(module)


def test_compiled_code_still_refuses_what_lies_outside() -> None:
    net, x, v = problem("energy", Ball(2.0))
    compiled = torch.compile(fastssm.DomainLoss(net, domain=Ball(2.0)), fullgraph=True, backend="eager")
    assert compiled(x, v=v).isfinite()
    with pytest.raises(RuntimeError, match="must lie in the domain"):
        compiled(3 * x, v=v)
    torch._dynamo.reset()


class Gamma(nn.Module):
    """`E = a x - a log x`, whose score is infinite at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x - self.a * x.log()).sum(1)


@pytest.mark.parametrize("exact", [True, False])
def test_rows_on_the_boundary_give_their_limit_or_are_named(exact: bool) -> None:
    inside = torch.tensor([[0.5, 1.0], [1e-6, 2.0], [0.0, 2.0]], dtype=torch.float64)
    options = {"domain": Positive(), "kind": "energy", "exact": exact, "reduction": "none"}
    options |= {} if exact else {"v": torch.ones(1, 3, 2).double()}
    for h in (Weight("power"), Weight("power", 2.0), Weight("log_power"), Weight("scad")):
        losses = fastssm.domain_loss(MLP(2, [8]).double(), inside, h=h, **options)
        torch.testing.assert_close(losses[2], losses[1], rtol=1e-4, atol=1e-4)
        with pytest.raises(
            ValueError, match=r"on the boundary must be finite, .* 1 of 3 row\(s\), first in row 2; the"
        ):
            fastssm.domain_loss(Gamma().double(), inside, h=h, **options)
        options_inside = options if exact else {**options, "v": torch.ones(1, 2, 2).double()}
        assert fastssm.domain_loss(Gamma().double(), inside[:2], h=h, **options_inside).isfinite().all()
