"""Diagnostics against laws that are known on paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import diagnostics
from fastssm.nn import MLP
from fastssm.options import BackendName

D = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_score(factor: float) -> nn.Linear:
    """`s = factor x`."""
    net = nn.Linear(D, D, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(factor * torch.eye(D))
    return net


def normal(count: int) -> Tensor:
    return torch.randn(count, D, generator=generator(5), dtype=torch.float64)


@pytest.mark.parametrize("known", [lambda x: -x, "tensor"])
def test_fisher_divergence_of_two_gaussians(known: object) -> None:
    """`s = -x / 4` against `-x` on the standard normal: `(3/4)^2 D / 2`."""
    x = normal(50_000)
    found = diagnostics.fisher_divergence(linear_score(-0.25), x, -x if known == "tensor" else known)
    assert abs(found.value - 0.75**2 * D / 2) < 5 * found.error
    assert found.error == pytest.approx(0.75**2 * math.sqrt(D / 2) / math.sqrt(len(x)), rel=0.05)
    assert str(found) == f"{found.value:.4g} ± {found.error:.2g}"
    assert diagnostics.fisher_divergence(linear_score(-1.0), x, -x).value < 1e-20


def test_fisher_divergence_is_the_loss_but_for_a_constant() -> None:
    """On the standard normal the constant is `E |s_true|^2 / 2 = D / 2`."""
    torch.manual_seed(0)
    net, x = MLP(D, [16], activation="tanh").double(), normal(20_000)
    with torch.no_grad():
        losses = fastssm.exact_loss(net, x, reduction="none")
        fisher = 0.5 * (fastssm.score(net, x) + x).square().sum(1)
    difference = fisher - losses - D / 2
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / math.sqrt(len(x))


def test_the_gap_between_sliced_and_exact() -> None:
    torch.manual_seed(0)
    net, x = MLP(D, [16], activation="tanh").double(), normal(100)
    found = diagnostics.sliced_gap(net, x, repeats=200, projection="gaussian", generator=generator())
    with torch.no_grad():
        assert found.exact.value == pytest.approx(float(fastssm.exact_loss(net, x)), rel=1e-10)
    assert abs(found.gap.value) < 5 * found.gap.error
    assert found.gap.value == found.sliced.value - found.exact.value
    assert found.deviation == pytest.approx(found.gap.error * math.sqrt(200))
    more = diagnostics.sliced_gap(net, x, repeats=200, projection="gaussian", n_projections=16, generator=generator())
    assert more.deviation == pytest.approx(found.deviation / 4, rel=0.25)
    whole = diagnostics.sliced_gap(net, x, projection="basis", n_projections=D)
    assert whole.deviation < 1e-12
    assert "gap" in str(found)


@pytest.mark.parametrize("factor", [-0.4, -2.0])
def test_projections_of_a_linear_score(factor: float) -> None:
    """`s = W x`, W = factor I, x ~ N(0, I): `dloss/dW = W x x^T + v v^T`.

    Signs give `V_directions = D (D - 1) / M`, the data `factor^2 D (D + 1)`, and the gradient is `(factor + 1) I`.
    """
    counts = [1, 2, 4, 8]
    found = diagnostics.projection_study(
        linear_score(factor), normal(16_000), counts=counts, chunks=200, generator=generator()
    )
    data, signal = factor**2 * D * (D + 1), (factor + 1) ** 2 * D
    for row, count in zip(found.rows, counts, strict=True):
        directions = D * (D - 1) / count
        assert row.noise == pytest.approx(data + directions, rel=0.15)
        assert row.directions == pytest.approx(directions / (data + directions), rel=0.15)
        assert row.noise_scale == pytest.approx((data + directions) / signal, rel=0.25)
        assert row.cost == (count + 1) / 2
        assert row.work == pytest.approx(row.cost * row.noise / found.rows[0].noise)
    assert found.recommended == (2 if factor == -0.4 else 1)  # sqrt(V_directions / V_data) is 1.9, and 0.4
    assert f"use {found.recommended}: with 1, " in found.reason
    assert str(found).count("\n") == len(counts) + 1


@pytest.mark.parametrize(("model", "backend", "costs"), [
    ("energy", "auto", [1.0, 4 / 3, 2.0]), ("score", "auto", [1.0, 1.5, 2.5]),
    ("unrecognised", "jets", [1.0, 4 / 3, 2.0]), ("unrecognised", "reference", [1.0, 1.5, 2.5]),
])  # fmt: skip
def test_costs_are_those_of_the_products(model: str, backend: BackendName, costs: list[float]) -> None:
    net = MLP(D, [8], D if model == "score" else 1)
    net = nn.Sequential(net, nn.Softsign(), nn.LayerNorm(1)) if model == "unrecognised" else net
    found = diagnostics.projection_study(net, torch.randn(64, D), counts=[1, 2, 4], chunks=4, backend=backend)
    assert [row.cost for row in found.rows] == costs
    assert all(p.grad is None for p in net.parameters())


def test_the_study_takes_conditioning_and_options() -> None:
    net = MLP(D, [8], cond_dim=2)
    found = diagnostics.projection_study(
        net, torch.randn(64, D), counts=[2], chunks=4, cond=torch.randn(64, 2), projection="sphere",
        variance_reduced=False, generator=generator(),
    )  # fmt: skip
    assert found.recommended == 2


class Blurred(nn.Module):
    """The score of data `N(0, I)` blurred by sigma."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -x / (1 + sigma[:, None] ** 2)


@pytest.mark.parametrize("loss", ["denoising", "sliced"])
def test_loss_per_level(loss: str) -> None:
    """The least losses: `sigma^2 D / 2 (1 / sigma^2 - 1 / (1 + sigma^2))`, and `-sigma^2 D / 2 / (1 + sigma^2)`."""
    sigmas = [2.0, 0.5]
    found = diagnostics.loss_per_level(Blurred(), normal(50_000), sigmas=sigmas, loss=loss, generator=generator())
    assert [row.sigma for row in found.rows] == sigmas
    for sigma, (value, error) in found.rows:
        ratio = sigma**2 / (1 + sigma**2)
        expected = D / 2 * ((1 - ratio) if loss == "denoising" else -ratio)
        assert abs(value - expected) < 5 * error
    assert str(found).splitlines()[0].split() == ["sigma", loss, "loss"]


def test_the_optimal_control_variate_is_never_noisier() -> None:
    """Of its own batch: it minimises the variance of the samples' losses over the batch, times their weights."""
    torch.manual_seed(1)
    net, x = MLP(D, [16], activation="tanh").double(), normal(4000)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    v = torch.randn(4000, D, generator=generator(2), dtype=torch.float64)
    skewed = (2 * x[:, 0]).exp()
    for weight in (None, skewed, 1e-3 * skewed):
        with torch.no_grad():
            plain, reduced, best, steady = (
                float(fastssm.sliced_loss(net, x, v=v, reduction="none", weight=weight, **options).var())
                for options in (
                    {"variance_reduced": False},
                    {},
                    {"control_variate": "optimal"},
                    {"control_variate": "optimal", "backend": "reference"},
                )
            )
        assert best <= min(plain, reduced) * (1 + 1e-9)
        assert best == pytest.approx(steady)
        if weight is not None:
            assert best < 0.99 * unweighted_optimum(net, x, v, weight)


def unweighted_optimum(net: torch.nn.Module, x: Tensor, v: Tensor, weight: Tensor) -> float:
    """Return the variance of the weighted losses with the coefficient that suits the losses without weights."""
    with torch.no_grad():
        best = fastssm.sliced_loss(net, x, v=v, reduction="none", control_variate="optimal")
        return float((weight * best).var())
