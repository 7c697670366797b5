"""Tempered score matching: against plain autograd, against the divergence that it must equal, and its sampler."""

from __future__ import annotations

import copy
import csv
import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import ContinuousTempering, GeometricTempering
from fastssm.backends.entries import compiled
from fastssm.losses import Tempering, tempered
from fastssm.nn import MLP
from tests import oracle, oracle_weights

B, D, M = 6, 3, 2
BACKENDS = ("torch", "reference", *compiled.DEVICES)
LEVELS: dict[str, Tempering] = {
    "continuous": ContinuousTempering(lambda_min=0.5, radius=0.6),
    "geometric": GeometricTempering(lambda_min=0.2, largest_variance=3.0),
}


def log_r(name: str, beta: Tensor) -> Tensor:
    return -7 * 0.36 / 0.5 / (1 + beta) if name == "continuous" else 0.0 * beta


def noise_of(name: str, beta: Tensor) -> Tensor:
    return 0.5 * beta if name == "continuous" else 0.2 * (beta.exp() - 1)


LARGEST = {"continuous": 14 * 0.36 / 0.5 - 1, "geometric": math.log(16)}


def legendre(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((high + low) / 2 + (high - low) / 2 * nodes), torch.from_numpy((high - low) / 2 * weights)


def density(name: str, beta: Tensor) -> Tensor:
    nodes, weights = legendre(0.0, LARGEST[name], 200)
    return log_r(name, beta).exp() / (weights * log_r(name, nodes).exp()).sum()


def problem(kind: str = "energy") -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    net = MLP(D + 1, [5, 4], 1 if kind == "energy" else D + 1, "silu").double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    return net, *torch.randn(2, B, D, dtype=torch.float64), torch.randn(M, B, D, dtype=torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("name", LEVELS)
def test_value_and_gradients_are_those_of_plain_autograd(
    name: str, kind: str, variance_reduced: bool, backend: str
) -> None:
    net, x, z, v = problem(kind)
    beta, weight = LARGEST[name] * torch.rand(2, B, dtype=torch.float64)
    options = {"tempering": LEVELS[name], "beta": beta, "noise": z, "v": v, "weight": weight, "backend": backend}
    loss = fastssm.tempered_loss(net, x, variance_reduced=variance_reduced, **options)
    other = copy.deepcopy(net)
    each = oracle_weights.tempered(
        other,
        x,
        beta,
        z,
        v,
        variance=functools.partial(noise_of, name),
        log_r=lambda b: density(name, b).log(),
        ends=(torch.zeros_like(beta), torch.full_like(beta, LARGEST[name])),
        energy=kind == "energy",
        variance_reduced=variance_reduced,
    )
    expected = oracle.reduced(each, weight, "mean")
    grads = torch.autograd.grad(loss, list(net.parameters()))
    oracle.assert_close([loss, *grads], [expected, *oracle.gradients(expected, other.parameters())], 1e-10, name)


def test_the_gradient_of_the_data_is_right() -> None:
    """Against central differences, since the transcription above holds x still."""
    net, x, z, v = problem()
    options = {"tempering": LEVELS["geometric"], "beta": torch.linspace(0.1, 2, B).double(), "noise": z, "v": v}
    assert torch.autograd.gradcheck(lambda x: fastssm.tempered_loss(net, x, **options), x.requires_grad_())


class Mixture(nn.Module):
    """`p(y | beta) = w N(-0.8, 0.4 + variance) + (1 - w) N(1, 0.5 + variance)` in one dimension, as an energy."""

    def __init__(self, name: str, logit: float, shift: float, scale: float) -> None:
        super().__init__()
        self.name, self.theta = name, nn.Parameter(torch.tensor([logit, shift, scale], dtype=torch.float64))

    def forward(self, joint: Tensor) -> Tensor:
        y, beta = joint.unbind(1)
        logit, shift, scale = self.theta
        log_w = torch.stack([nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)])
        means, widths = torch.stack([-0.8 + shift, 1 + shift]), scale * torch.tensor([0.4, 0.5]).double()
        variance = widths + noise_of(self.name, beta)[:, None]
        logs = log_w - (y[:, None] - means).square() / (2 * variance) - variance.log() / 2
        return -torch.logsumexp(logs, 1)


class Grid(NamedTuple):
    """Quadrature over (x, z, beta): data from the mixture of logit 0.4, standard normal noise, and levels from r."""

    x: Tensor
    z: Tensor
    beta: Tensor
    weight: Tensor


def normal(mean: float, variance: float, count: int) -> tuple[Tensor, Tensor]:
    """Return points and weights of the trapezoid rule, which converges faster than any power for smooth functions."""
    z = torch.linspace(-6.5, 6.5, count, dtype=torch.float64)
    return mean + math.sqrt(variance) * z, torch.softmax(-z.square() / 2, 0)


def grid(name: str) -> Grid:
    z, wz = normal(0.0, 1.0, 32)
    beta, wb = legendre(0.0, LARGEST[name], 22)
    share = torch.tensor(0.4).double().sigmoid()
    (left, wl), (right, wr) = normal(-0.8, 0.4, 44), normal(1.0, 0.5, 44)
    x, wx = torch.cat([left, right]), torch.cat([share * wl, (1 - share) * wr])
    points, weights = torch.cartesian_prod(x, z, beta), torch.cartesian_prod(wx, wz, wb * density(name, beta))
    return Grid(*points.unbind(1), weights.prod(1))


def divergence(found: nn.Module, truth: nn.Module, at: Grid, name: str) -> Tensor:
    """Return `E[ |s - s_data|^2 + (t - t_data)^2 ] / 2` over the grid."""
    joint = torch.stack([at.x + noise_of(name, at.beta).sqrt() * at.z, at.beta], 1).requires_grad_()
    difference = oracle.derivative(found(joint), joint) - oracle.derivative(truth(joint), joint)
    return (at.weight * difference.square().sum(1)).sum() / 2


def loss_on(net: nn.Module, at: Grid, name: str) -> Tensor:
    options = {"tempering": LEVELS[name], "beta": at.beta, "noise": at.z[:, None], "weight": at.weight}
    return fastssm.tempered_loss(net, at.x[:, None], reduction="sum", **options)


THETAS = ((0.4, 0.0, 1.0), (1.5, 0.0, 1.0), (0.4, 0.5, 1.2), (-1.0, -0.4, 1.6))


@pytest.mark.parametrize("name", LEVELS)
def test_the_loss_is_a_constant_away_from_the_divergence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, truth = grid(name), Mixture(name, *THETAS[0])
    nets = [Mixture(name, *theta) for theta in THETAS]
    divergences = [float(divergence(net, truth, at, name)) for net in nets]
    assert divergences[0] < 1e-20
    assert min(divergences[1:]) > 0.004
    gaps = [d - float(loss_on(net, at, name)) for d, net in zip(divergences, nets, strict=True)]
    assert max(gaps) - min(gaps) < 1e-7
    monkeypatch.setattr(tempered, "_boundary", lambda *_: 0.0)  # as the paper's proposition 7 has it
    without = [d - float(loss_on(net, at, name)) for d, net in zip(divergences, nets, strict=True)]
    assert max(without) - min(without) > 5e-4


@pytest.mark.parametrize("name", LEVELS)
def test_gradients_vanish_at_the_truth(name: str) -> None:
    at = grid(name)
    (slope,) = torch.autograd.grad(loss_on(net := Mixture(name, *THETAS[0]), at, name), net.theta)
    assert slope.abs().max() < 1e-7
    (slope,) = torch.autograd.grad(loss_on(net := Mixture(name, *THETAS[1]), at, name), net.theta)
    assert slope.abs().max() > 1e-3


class Normal(nn.Module):
    """`p(y | beta) = N(0, 1 + beta lambda_min)` in D dimensions."""

    def forward(self, joint: Tensor) -> Tensor:
        y, beta = joint[:, :-1], joint[:, -1]
        variance = 1 + noise_of("continuous", beta)
        return y.square().sum(1) / (2 * variance) + y.shape[1] / 2 * variance.log()


def test_a_gaussian_on_paper() -> None:
    """`-E[ |s|^2 + t^2 ] / 2` is least: with `c = 1 + lambda beta`, `E|s|^2 = D / c`, `E t^2 = D lambda^2 / 2c^2`."""
    beta, w = legendre(0.0, LARGEST["continuous"], 60)
    c = 1 + 0.5 * beta
    expected = -(w * density("continuous", beta) * (D / c + D * 0.25 / (2 * c.square()))).sum() / 2
    count = 40_000
    x = torch.randn(count, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    options = {"tempering": LEVELS["continuous"], "generator": torch.Generator().manual_seed(4)}
    each = fastssm.tempered_loss(Normal(), x, reduction="none", **options)
    error = float(each.std()) / math.sqrt(count)
    assert error < 0.02 * abs(float(expected))
    assert abs(float(each.mean() - expected)) < 5 * error


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_drawn_levels_noise_and_directions_are_unbiased(variance_reduced: bool) -> None:
    """Against quadrature over levels and noise, and every coordinate for a direction."""
    torch.manual_seed(0)
    net = MLP(2, [6], activation="silu").double().requires_grad_(False)
    at, count = grid("geometric"), 40_000
    exact = loss_on(net, at, "geometric")
    generator = torch.Generator().manual_seed(2)
    chosen = torch.multinomial(
        torch.stack([torch.tensor(0.4).sigmoid(), torch.tensor(-0.4).sigmoid()]), count, True, generator=generator
    )
    means, widths = torch.tensor([-0.8, 1.0]).double(), torch.tensor([0.4, 0.5]).double()
    x = means[chosen] + widths[chosen].sqrt() * torch.randn(count, generator=generator, dtype=torch.float64)
    options = {"tempering": LEVELS["geometric"], "generator": generator, "variance_reduced": variance_reduced}
    each = fastssm.tempered_loss(net, x[:, None], projection="gaussian", reduction="none", **options)
    error = float(each.std()) / math.sqrt(count)
    assert error < 0.05 * abs(float(exact)) + 0.01
    assert abs(float(each.mean() - exact)) < 5 * error


@pytest.mark.parametrize("name", LEVELS)
def test_levels_follow_their_density(name: str) -> None:
    levels = LEVELS[name]
    assert levels.largest == pytest.approx(LARGEST[name])
    beta, _ = legendre(0.0, levels.largest, 100)
    torch.testing.assert_close(levels.density(beta), density(name, beta), rtol=1e-10, atol=0)
    torch.testing.assert_close(levels.variance(beta), noise_of(name, beta))
    b = beta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(levels.log_density(b).sum() + 0.0 * b.sum(), b)
    torch.testing.assert_close(levels.slope(beta), slope, rtol=1e-10, atol=1e-14)
    drawn = levels.sample(torch.zeros(100_000, 1, dtype=torch.float64), torch.Generator().manual_seed(0)).sort().values
    assert drawn[0] >= 0
    assert drawn[-1] <= levels.largest
    assert len(drawn.unique()) > 99_900  # linear in each panel, not its edge
    for share in (0.05, 0.3, 0.6, 0.95):
        nodes, weights = legendre(0.0, float(drawn[int(share * 100_000)]), 100)
        assert float((weights * density(name, nodes)).sum()) == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_summed_in_float32(backend: str) -> None:
    net, x, z, v = (t.bfloat16() for t in problem())
    options = {"tempering": LEVELS["geometric"], "noise": z, "v": v, "beta": torch.linspace(0.25, 2.5, B).bfloat16()}
    found = fastssm.tempered_loss(net, x, backend=backend, **options)
    assert found.dtype == torch.float32
    wide = {name: t.double() if isinstance(t, Tensor) else t for name, t in options.items()}
    exact = fastssm.tempered_loss(copy.deepcopy(net).double(), x.double(), **wide)
    assert found.item() == pytest.approx(exact.item(), rel=0.05, abs=0.02)


def test_cond_reductions_images_and_the_twin() -> None:
    torch.manual_seed(0)
    net = MLP(4 + 1, [6], cond_dim=2).double()
    x, cond, z = (torch.randn(B, *shape, dtype=torch.float64) for shape in ((2, 2), (2,), (2, 2)))
    options = {
        "beta": torch.linspace(0, 1, B).double(),
        "noise": z,
        "cond": cond,
        "v": torch.randn(1, B, 2, 2).double(),
    }
    levels = LEVELS["geometric"]
    each, terms = fastssm.tempered_loss(net, x, tempering=levels, reduction="none", return_terms=True, **options)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, each.detach())
    flat = {name: t.flatten(2) if name == "v" else t.flatten(1) if t.ndim > 1 else t for name, t in options.items()}
    assert torch.equal(fastssm.tempered_loss(net, x.flatten(1), tempering=levels, reduction="none", **flat), each)
    assert torch.equal(fastssm.TemperedLoss(net, tempering=levels, reduction="none")(x, **options), each)
    assert fastssm.tempered_loss(net, x[:0], tempering=levels, cond=cond[:0], reduction="sum").item() == 0


def test_the_table_of_the_page_is_that_of_the_file() -> None:
    root = Path(__file__).parents[1]
    with (root / "bench" / "results" / "tempered.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    errors: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        errors.setdefault((row["setting"], row["loss"]), []).append(float(row["largest_error"]))
    page = (root / "docs" / "losses" / "tempered.md").read_text()
    lines = [f"| {setting} | {loss} | {sum(e) / len(e):.3f} | {max(e):.3f} |" for (setting, loss), e in errors.items()]
    assert [line for line in lines if line not in page] == []
    assert {len(found) for found in errors.values()} == {5}
