"""Denoising losses at one level and at many, and noise-conditional sliced score matching."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.nn import MLP
from tests import oracle, oracle_noise

B, D, M = 6, 3, 2
SIGMAS = [2.0, 0.7, 0.2]
BACKENDS = ("reference", "torch", *compiled.DEVICES)
LEVELED = {
    "denoising": fastssm.annealed_denoising_loss,
    "sliced": fastssm.annealed_sliced_loss,
}


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(B, D).double(),
        "noise": torch.randn(B, D).double(),
        "v": torch.randn(M, B, D).double(),
        "weight": torch.rand(B).double(),
        "level": torch.tensor([0, 1, 2, 2, 1, 0]),
        "cond": torch.randn(B, 2).double(),
    }


def network(energy: bool, **options: Any) -> MLP:
    torch.manual_seed(2)
    return MLP(D, [8, 7], 1 if energy else D, "softplus", **options).double()


def assert_same(found: Tensor, expected: Tensor, leaves: list[Tensor], reduction: str) -> None:
    found = oracle.contracted(found) if reduction == "none" else found
    expected_grads = oracle.gradients(expected, leaves)
    oracle.assert_close([found, *torch.autograd.grad(found, leaves)], [expected, *expected_grads], 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("energy", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_denoising_is_the_formula(backend: str, energy: bool, reduction: str) -> None:
    b, net = batch(), network(energy, cond_dim=2)
    leaves = [b["x"].requires_grad_(), b["cond"].requires_grad_(), *net.parameters()]
    sigma = torch.linspace(0.1, 1.0, B).double()
    found = fastssm.denoising_loss(
        net, b["x"], sigma=sigma, cond=b["cond"], noise=b["noise"], weight=b["weight"], reduction=reduction,
        backend=backend,
    )  # fmt: skip
    each = oracle_noise.denoising(net, b["x"], b["noise"], sigma, energy=energy, cond=[b["cond"]])
    assert_same(found, oracle.reduced(each, b["weight"], reduction), leaves, reduction)


@pytest.mark.parametrize("loss", LEVELED)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("energy", [True, False])
@pytest.mark.parametrize(("power", "condition", "weighted"), [(2.0, "sigma", True), (0.5, "log_sigma", False)])
def test_annealed_losses_are_the_formula(
    loss: str, backend: str, energy: bool, power: float, condition: str, weighted: bool
) -> None:
    b, net = batch(), network(energy, cond_dim=1)
    leaves = [b["x"].requires_grad_(), *net.parameters()]
    weight = b["weight"] if weighted else None
    options = {"sigmas": SIGMAS, "anneal_power": power, "condition": condition, "weight": weight, "backend": backend}
    options |= {"v": b["v"]} if loss == "sliced" else {}
    found = LEVELED[loss](net, b["x"], level=b["level"], noise=b["noise"], **options)
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)[b["level"]]
    cond = [sigma if condition == "sigma" else sigma.log()]
    if loss == "denoising":
        each = oracle_noise.denoising(net, b["x"], b["noise"], sigma, energy=energy, cond=cond)
    else:
        each = oracle.losses(net, b["x"] + sigma[:, None] * b["noise"], b["v"], "vr", energy=energy, cond=cond)
    assert_same(found, oracle.reduced(each * sigma**power, weight, "mean"), leaves, "mean")


class Embedded(nn.Module):
    """A module of somebody else: called as `model(x, label, level)`, with an embedding of the level."""

    def __init__(self, energy: bool) -> None:
        super().__init__()
        self.table, self.energy = nn.Embedding(len(SIGMAS), 4), energy
        self.first, self.last = nn.Linear(D + 4 + 1, 8), nn.Linear(8, 1 if energy else D)

    def forward(self, x: Tensor, label: Tensor, level: Tensor) -> Tensor:
        h = torch.cat([x, self.table(level), label[:, None]], 1)
        return self.last(torch.tanh(self.first(h)))


@pytest.mark.parametrize("loss", LEVELED)
@pytest.mark.parametrize("energy", [True, False])
def test_any_module_may_be_told_the_index(loss: str, energy: bool) -> None:
    b, net = batch(), Embedded(energy).double()
    label = b["cond"][:, 0]
    options = {"v": b["v"], "variance_reduced": False, "n_projections": M} if loss == "sliced" else {}
    options |= {"sigmas": torch.tensor(SIGMAS), "condition": "level", "cond": label}
    found = LEVELED[loss](net, b["x"], level=b["level"], noise=b["noise"], **options)
    sigma, cond = torch.tensor(SIGMAS).double()[b["level"]], [label, b["level"]]
    if loss == "denoising":
        each = oracle_noise.denoising(net, b["x"], b["noise"], sigma, energy=energy, cond=cond)
    else:
        each = oracle.losses(net, b["x"] + sigma[:, None] * b["noise"], b["v"], "ssm", energy=energy, cond=cond)
    assert_same(found, (each * sigma**2).mean(), list(net.parameters()), "mean")


@pytest.mark.parametrize("fourier", [False, True])
def test_networks_of_the_library_take_the_level_last(fourier: bool) -> None:
    b = batch()
    net = network(False, cond_dim=2, fourier_time=True) if fourier else network(False, cond_dim=1)
    cond = b["cond"] if fourier else None
    for loss in LEVELED.values():
        assert loss(net, b["x"], sigmas=SIGMAS, cond=cond).isfinite()


def gaussian(precision: float, energy: bool) -> nn.Module:
    """`p = N(0, I / precision)`."""

    class Gaussian(nn.Module):
        def forward(self, x: Tensor, *_: Tensor) -> Tensor:
            return precision * x.square().sum(1) / 2 if energy else -precision * x

    return Gaussian()


@pytest.mark.parametrize("energy", [True, False])
@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_closed_form_of_a_gaussian(energy: bool, sigma: float) -> None:
    """Data `N(0, I)`: the loss of precision p is `D (p^2 (1 + sigma^2) - 2 p + 1 / sigma^2) / 2` on average."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, D, generator=generator, dtype=torch.float64)
    for precision in (0.5, 1 / (1 + sigma**2)):
        net = gaussian(precision, energy)
        each = fastssm.denoising_loss(net, x, sigma=sigma, generator=generator, reduction="none").detach()
        expected = D * (precision**2 * (1 + sigma**2) - 2 * precision + sigma**-2) / 2
        assert abs(float(each.mean()) - expected) < 5 * float(each.std()) / math.sqrt(len(x))


def test_sliced_and_denoising_differ_by_a_constant() -> None:
    """The two annealed losses have one expectation up to a constant: the same gradient, on average."""
    torch.manual_seed(3)
    x, generator = torch.randn(1, D).double().expand(60_000, D), torch.Generator().manual_seed(3)
    net = network(True, cond_dim=1)
    parameter = net.readout.weight
    found = []
    for loss in LEVELED.values():
        chunks = [
            torch.autograd.grad(loss(net, part, sigmas=[1.5, 0.8], generator=generator), parameter)[0]
            for part in x.split(1000)
        ]
        stacked = torch.stack(chunks)
        found.append((stacked.mean(0), stacked.std(0) / math.sqrt(len(chunks))))
    (a, error_a), (b, error_b) = found
    assert ((a - b).abs() < 5 * (error_a**2 + error_b**2).sqrt()).all()
    assert a.abs().max() > 10 * error_a.max()  # there is something to agree on


@pytest.mark.parametrize("loss", LEVELED)
def test_the_noise_of_the_gradient_at_a_small_level(loss: str) -> None:
    """Data and model standard normal: denoising's gradient is noisy like `1 / sigma`, the sliced loss's is not."""
    x, deviations = torch.randn(2000, D, generator=torch.Generator().manual_seed(0)).double(), []
    factor = -torch.ones(2000, 1, dtype=torch.float64).requires_grad_()  # a parameter for each sample

    class Linear(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return factor * x

    for sigma in (0.1, 0.001):
        generator = torch.Generator().manual_seed(1)
        loss_sum = LEVELED[loss](Linear(), x, sigmas=[sigma], anneal_power=0, generator=generator, reduction="sum")
        deviations.append(float(torch.autograd.grad(loss_sum, factor)[0].std()))
    assert deviations[1] / deviations[0] == pytest.approx(100.0 if loss == "denoising" else 1.0, rel=0.1)


@pytest.mark.parametrize("loss", [fastssm.denoising_loss, *LEVELED.values()])
def test_noise_and_levels_come_from_the_generator(loss: Any) -> None:
    b = batch()
    options = {"sigma": 0.3} if loss is fastssm.denoising_loss else {"sigmas": SIGMAS}
    net = network(True) if loss is fastssm.denoising_loss else network(True, cond_dim=1)
    values = [loss(net, b["x"], generator=torch.Generator().manual_seed(s), **options) for s in (7, 7, 8)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_levels_are_uniform() -> None:
    """The expectation over levels is their plain mean."""
    net, x = gaussian(1.0, False), torch.zeros(100_000, D, dtype=torch.float64)
    each = fastssm.annealed_denoising_loss(
        net, x, sigmas=SIGMAS, generator=torch.Generator().manual_seed(0), reduction="none"
    ).detach()
    # x = 0, s = -x: sigma^2 |(1 / sigma - sigma) z|^2 / 2
    expected = sum(D * (1 - s**2) ** 2 / 2 for s in SIGMAS) / len(SIGMAS)
    assert abs(float(each.mean()) - expected) < 5 * float(each.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    b = {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch().items()}
    for backend in BACKENDS:
        found = fastssm.denoising_loss(network(False).to(dtype), b["x"], sigma=0.5, noise=b["noise"], backend=backend)
        assert found.dtype == torch.float32
    exact = fastssm.denoising_loss(
        network(False).to(dtype).float(), b["x"].float(), sigma=0.5, noise=b["noise"].float()
    )
    assert float(found) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["energy", "score"])
def test_score_of_an_empty_batch_and_of_pictures(backend: str, kind: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1 if kind == "energy" else 8)).double()
    x = torch.randn(5, 2, 2, 2).double()
    found = fastssm.score(net, x, backend=backend)
    assert found.shape == x.shape
    torch.testing.assert_close(found.flatten(1), oracle_noise.score(net, x, energy=kind == "energy"))
    assert fastssm.score(net, x[:0], kind=kind, backend=backend).shape == (0, 2, 2, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_score_gives_every_parameter_a_gradient_and_keeps_none_without(backend: str) -> None:
    net, x = network(True), batch()["x"]
    fastssm.score(net, x, backend=backend).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not x.requires_grad
    with torch.no_grad():
        assert not fastssm.score(net, x, backend=backend).requires_grad
    with torch.inference_mode():
        assert fastssm.score(net, x, backend=backend).isfinite().all()
