"""What held-out rows are measured by, against autograd and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from fastssm import training
from fastssm.data import load, prepare
from fastssm.training import Ranks, TrainConfig, Training
from fastssm.training.facts import Facts

ALONE = Ranks(torch.device("cpu"))


def facts_of(train: torch.Tensor, noise: float) -> Facts:
    rows = train.double()
    return Facts(noise, train.amin(0), train.amax(0), rows.mean(0), torch.cov(rows.T))


def test_evaluation_is_the_exact_loss_by_autograd() -> None:
    prepared = prepare(load("moons"), noise=0.1)
    net = Training(TrainConfig("moons", hidden=(16, 16)), prepared, ALONE).net.double()
    rows = prepared.test[:50].double()
    energy = lambda x: net(x[None]).sum()  # noqa: E731
    expected = torch.stack(
        [
            -torch.autograd.functional.hessian(energy, x).trace()
            + torch.autograd.functional.jacobian(energy, x).square().sum() / 2
            for x in rows
        ]
    )
    found = training.EXACT.mean(net, rows, "energy", "auto", ALONE)
    assert found.value == pytest.approx(expected.mean().item(), rel=1e-10)
    assert found.error == pytest.approx(expected.std().item() / math.sqrt(len(rows)), rel=1e-9)


def test_baseline_is_the_exact_loss_of_the_fitted_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(500, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    rows = torch.randn(50, 4, generator=generator)
    fitted = torch.distributions.MultivariateNormal(
        train.double().mean(0), torch.cov(train.double().T) + 0.3**2 * torch.eye(4).double()
    )
    hessian = torch.autograd.functional.hessian(lambda x: fitted.log_prob(x).sum(), rows[0].double())
    losses = []
    for row in rows.double():
        x = row.clone().requires_grad_(True)
        (score,) = torch.autograd.grad(fitted.log_prob(x), x)
        losses.append(hessian.trace() + score.square().sum() / 2)
    found = training.EXACT.baseline(facts_of(train, 0.3), rows)
    assert found.value == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    whitened = prepare(load("moons"), scale="whiten", noise=0.0)
    assert training.EXACT.baseline(Facts.of(whitened), whitened.train).value == pytest.approx(-1.0, rel=1e-3)


def test_composite_baseline_is_that_of_the_fitted_gaussians_conditionals() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator)
    rows = torch.randn(50, 3, generator=generator).double()
    mean, covariance = train.double().mean(0), torch.cov(train.double().T) + 0.3**2 * torch.eye(3).double()
    expected = torch.zeros(50).double()
    for d in range(3):
        before = covariance[:d, :d]
        slope = torch.linalg.solve(before, covariance[:d, d]) if d else torch.zeros(0).double()
        variance = covariance[d, d] - covariance[d, :d] @ slope
        score = -(rows[:, d] - mean[d] - (rows[:, :d] - mean[:d]) @ slope) / variance
        expected += score.square() / 2 - 1 / variance
    found = training.COMPOSITE.baseline(facts_of(train, 0.3), rows.float())
    assert found.value == pytest.approx(expected.mean().item(), rel=1e-6)


def test_an_autoregressive_model_is_evaluated_as_a_normalised_energy() -> None:
    prepared = prepare(load("moons"))
    trained = Training(TrainConfig("moons", loss="composite", hidden=(16, 16)), prepared, ALONE)
    with torch.no_grad():
        trained.net.head.readout.weight.mul_(20)  # far from flat
    net = trained.evaluated(trained.net)
    low, high = net.bounds
    assert (low < prepared.train.min(0).values).all()
    assert (high > prepared.train.max(0).values).all()
    points = [low[d] + (high[d] - low[d]) * (torch.arange(100) + 0.5) / 100 for d in range(2)]
    grid = torch.cartesian_prod(*points)
    energies = net(grid).detach()
    assert energies.shape == (10000, 1)
    assert energies.std() > 0.1
    assert (-energies.double()).exp().sum() * (high - low).prod() / 10000 == pytest.approx(1, abs=2e-3)
    outside = net(torch.cat([torch.tensor([[100.0, 0.0]]), grid[:9]]))  # the same formula goes on
    assert outside.isfinite().all()
    torch.testing.assert_close(outside[1:].detach(), energies[:9])  # whatever the other rows of a batch are
