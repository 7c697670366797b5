"""Losses whose values are known on paper, and the statistics of their estimators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.directions import PROJECTIONS
from fastssm.nn import MLP, Sin
from tests import oracle

DIM, LOSSES = 4, ("ssm", "vr", "control")


class Gaussian(nn.Module):
    """`E = (x - mean)^T precision (x - mean) / 2`."""

    def __init__(self, mean: Tensor, precision: Tensor) -> None:
        super().__init__()
        self.mean, self.precision = nn.Parameter(mean), nn.Parameter(precision)

    def forward(self, x: Tensor) -> Tensor:
        c = x - self.mean
        return ((c @ self.precision) * c).sum(1) / 2


def gaussian_score(mean: Tensor, precision: Tensor) -> nn.Linear:
    """`s = -precision (x - mean)`."""
    net = nn.Linear(len(mean), len(mean)).double()
    with torch.no_grad():
        net.weight.copy_(-precision)
        net.bias.copy_(precision @ mean)
    return net


@pytest.fixture
def mean_and_precision() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    root = torch.randn(DIM, DIM, dtype=torch.float64)
    return torch.randn(DIM, dtype=torch.float64), root @ root.t() + torch.eye(DIM)


@pytest.fixture
def whitened() -> Tensor:
    """Return data of mean 0 and covariance I to the last bit that matters."""
    torch.manual_seed(0)
    x = torch.randn(400, DIM, dtype=torch.float64)
    u, _, w = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return (u @ w) * math.sqrt(len(x))


@pytest.fixture
def energy() -> MLP:
    torch.manual_seed(5)
    model = MLP(DIM, [16, 16], activation="silu").double().requires_grad_(False)
    for p in model.parameters():
        p.mul_(2.0)
    return model


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_standard_normal_gives_minus_half_the_dimension(kind: str, whitened: Tensor) -> None:
    zero, eye = torch.zeros(DIM, dtype=torch.float64), torch.eye(DIM, dtype=torch.float64)
    model = Gaussian(zero, eye) if kind == "energy" else gaussian_score(zero, eye)
    assert fastssm.exact_loss(model, whitened).item() == pytest.approx(-DIM / 2, abs=1e-12)
    assert fastssm.sliced_loss(model, whitened).item() == pytest.approx(-DIM / 2, abs=1e-12)
    each = fastssm.sliced_loss(model, whitened, reduction="none")
    assert torch.allclose(each, whitened.square().sum(1) / 2 - DIM, atol=1e-12)
    several = fastssm.sliced_loss(model, whitened, variance_reduced=False, n_projections=50)
    assert abs(several.item() + DIM / 2) < 6 * DIM / math.sqrt(50 * 400)


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_gaussians(kind: str, mean_and_precision: tuple[Tensor, Tensor], whitened: Tensor) -> None:
    mean, a = mean_and_precision
    model = Gaussian(mean, a) if kind == "energy" else gaussian_score(mean, a)
    v = torch.randn(3, len(whitened), DIM, dtype=torch.float64)
    s = -(whitened - mean) @ a
    curvature = -torch.einsum("mbi,ij,mbj->mb", v, a, v).mean(0)
    half_norm = s.square().sum(1) / 2
    expected = {
        "exact": half_norm - a.trace(),
        "vr": curvature + half_norm,
        "ssm": curvature + torch.einsum("mbi,bi->mb", v, s).square().mean(0) / 2,
    }
    found = {
        "exact": fastssm.exact_loss(model, whitened, reduction="none"),
        "vr": fastssm.sliced_loss(model, whitened, v=v, reduction="none"),
        "ssm": fastssm.sliced_loss(model, whitened, v=v, reduction="none", variance_reduced=False),
    }
    for name, value in found.items():
        assert torch.allclose(value, expected[name], rtol=1e-12), name


def test_waves() -> None:
    """`E = sum_j w_j sin(k_j . x + p_j)`: `dE/dx = sum w cos k`, `d2E/dx2 = -sum w sin k k^T`."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 7), Sin(), nn.Linear(7, 1)).double()
    x, v = torch.randn(20, 3, dtype=torch.float64), torch.randn(2, 20, 3, dtype=torch.float64)
    with torch.no_grad():
        k, p, w = net[0].weight, net[0].bias, net[2].weight[0]
        phase = x @ k.t() + p
        score = -(phase.cos() * w) @ k
        along = ((v @ k.t()) ** 2 * phase.sin() * w).sum(2)
        trace = (phase.sin() * w) @ k.square().sum(1)
        assert fastssm.explain(net, x).backend in ("cpu", "torch")
        found = fastssm.terms(net, x, v=v)
        assert torch.allclose(found.score, score, rtol=1e-12)
        assert torch.allclose(found.projected_score, (v * score).sum(2), rtol=1e-12)
        assert torch.allclose(found.projected_jacobian, along.mean(0), rtol=1e-12)
        exact = fastssm.exact_loss(net, x, reduction="none")
        assert torch.allclose(exact, trace + score.square().sum(1) / 2, rtol=1e-12)


def repeated(model: nn.Module, loss: str, projection: str, count: int, m: int = 1) -> tuple[Tensor, Tensor]:
    """Return many independent estimates at one point, and the exact value."""
    x = torch.linspace(-1, 1, DIM, dtype=torch.float64)[None]
    generator = torch.Generator().manual_seed(7)
    estimates = fastssm.sliced_loss(
        model,
        x.expand(count, DIM),
        projection=projection,
        n_projections=m,
        generator=generator,
        reduction="none",
        **oracle.OPTIONS[loss],
    )
    return estimates, fastssm.exact_loss(model, x)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_every_projection_is_unbiased(energy: MLP, projection: str, loss: str) -> None:
    estimates, exact = repeated(energy, loss, projection, 20_000)
    error = float(estimates.std()) / math.sqrt(len(estimates))
    assert error < 0.03 * abs(float(exact))
    assert abs(float(estimates.mean() - exact)) < 6 * error + 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere"])
def test_sliced_becomes_exact_as_directions_grow(energy: MLP, projection: str, loss: str) -> None:
    deviation = None
    for m in (1, 16, 1024):  # more directions than one chunk holds
        estimates, exact = repeated(energy, loss, projection, 60, m)
        spread = float((estimates - exact).square().mean().sqrt())
        deviation = deviation or spread
        assert spread <= 1.6 * deviation / math.sqrt(m)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_variance_reduction_reduces_variance(energy: MLP, projection: str) -> None:
    sliced, reduced, controlled = (float(repeated(energy, loss, projection, 20_000)[0].var()) for loss in LOSSES)
    assert reduced < sliced
    assert controlled <= min(reduced, sliced) * (1 + 1e-9)


def test_variance_reduction_is_noiseless_on_the_standard_normal(whitened: Tensor) -> None:
    zero, eye = torch.zeros(DIM, dtype=torch.float64), torch.eye(DIM, dtype=torch.float64)
    values = {loss: repeated(gaussian_score(zero, eye), loss, "rademacher", 1000)[0].std() for loss in LOSSES}
    assert max(values["vr"], values["control"]) < 1e-12
    assert values["ssm"] > 0.1


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("projection", "dim", "m"),
    [("hadamard", 4, 4), ("hadamard", 5, 8), ("basis", 5, 5), ("hadamard", 5, 24), ("basis", 3, 12)],
)
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("loss", LOSSES)
def test_whole_blocks_of_directions_are_exact(loss: str, kind: str, projection: str, dim: int, m: int) -> None:
    torch.manual_seed(2)
    model = MLP(dim, [6, 7], 1 if kind == "energy" else dim, "tanh").double()
    x = torch.randn(9, dim, dtype=torch.float64, requires_grad=True)
    leaves = [x, *model.parameters()]
    exact = fastssm.exact_loss(model, x)
    found = fastssm.sliced_loss(model, x, projection=projection, n_projections=m, **oracle.OPTIONS[loss])
    grads = [torch.autograd.grad(value, leaves) for value in (found, exact)]
    oracle.assert_close([found, *grads[0]], [exact, *grads[1]], 1e-10)
