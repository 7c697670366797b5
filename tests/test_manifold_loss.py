"""Score matching on the sphere and the torus: against derivatives along great circles, and known concentrations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.nn import MLP, Periodic
from tests import covering, oracle

B, D, M = 5, 4, 3
BACKENDS = ("auto", "torch", "reference", "jets", *compiled.DEVICES)
FORMS: dict[str, dict[str, object]] = {"vr": {}, "ssm": {"variance_reduced": False}, "exact": {"exact": True}}


def sphere_problem(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(4)
    net = MLP(D, [6, 5], 1 if kind == "energy" else D, "silu").double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    x = nn.functional.normalize(torch.randn(B, D, dtype=torch.float64), dim=1)
    return net, x, torch.randn(M, B, D, dtype=torch.float64)


def along(field: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, *, energy: bool) -> tuple[Tensor, Tensor]:
    """Return what a field does along great circles from `x` with velocity `u`, both derivatives by the angle alone.

    `d log p / dt` and `d2 log p / dt2` of an energy; of a score, `u(t) . s` and its derivative, with the velocity u(t).
    """
    speed = u.norm(dim=1, keepdim=True)
    t = torch.zeros(len(x), 1, dtype=x.dtype, requires_grad=True)
    place = (speed * t).cos() * x + (speed * t).sin() * u / speed
    velocity = -speed * (speed * t).sin() * x + (speed * t).cos() * u
    slope = -oracle.derivative(field(place), t)[:, 0] if energy else (velocity * field(place)).sum(1)
    return slope, oracle.derivative(slope, t)[:, 0]


def tangents(x: Tensor) -> list[Tensor]:
    """Return an orthonormal basis of each tangent space: D - 1 tensors `[B, D]`."""
    bases = torch.linalg.qr(torch.cat([x[:, :, None], torch.eye(D, dtype=x.dtype)[:, 1:].expand(B, D, D - 1)], 2))[0]
    return list(bases[:, :, 1:].permute(2, 0, 1))


def sphere_losses(field: nn.Module, x: Tensor, v: Tensor, form: str, *, energy: bool) -> Tensor:
    """Return the losses: the sphere's own gradient and Laplacian; sliced, second derivatives along projected v."""
    basis = [along(field, x, u, energy=energy) for u in tangents(x)]
    norm = sum(slope.square() for slope, _ in basis) / 2
    if form == "exact":
        return norm + sum(second for _, second in basis)
    projected = [u - (u * x).sum(1, keepdim=True) * x for u in v]
    found = [along(field, x, w, energy=energy) for w in projected]
    trace = sum(second for _, second in found) / M
    return trace + (norm if form == "vr" else sum(slope.square() for slope, _ in found) / 2 / M)


@covering.each("kind", ("energy", "score"))
def test_the_sphere_is_that_of_great_circles(kind: str) -> None:
    net, x, v = sphere_problem(kind)
    weight = torch.linspace(0.5, 1.5, B, dtype=torch.float64)
    for form, options in FORMS.items():
        other = copy.deepcopy(net)
        expected = (weight * sphere_losses(other, x, v, form, energy=kind == "energy")).mean()
        wanted = [expected, *oracle.gradients(expected, other.parameters())]
        for backend in BACKENDS:
            given = {} if form == "exact" else {"v": v}
            loss = fastssm.manifold_loss(
                net, x, manifold="sphere", weight=weight, kind=kind, backend=backend, **options, **given
            )
            found = [loss, *torch.autograd.grad(loss, list(net.parameters()))]
            oracle.assert_close(found, wanted, 1e-9, f"{form} {backend}")


def test_the_model_off_the_sphere_does_not_matter() -> None:
    net, x, v = sphere_problem("energy")

    def scaled(y: Tensor) -> Tensor:
        return net(y / y.norm(dim=1, keepdim=True))

    for options in ({"exact": True}, {"v": v}):
        inside, outside = (
            fastssm.manifold_loss(m, x, manifold="sphere", kind="energy", **options) for m in (net, scaled)
        )
        torch.testing.assert_close(inside, outside)


def test_sliced_is_unbiased_on_the_sphere() -> None:
    net, x, _ = sphere_problem("score")
    rows, count = x[:1].expand(20_000, D), 20_000
    exact = fastssm.manifold_loss(net, x[:1], manifold="sphere", exact=True).item()
    for variance_reduced in (False, True):
        each = fastssm.manifold_loss(
            net.requires_grad_(False),
            rows,
            manifold="sphere",
            reduction="none",
            variance_reduced=variance_reduced,
            generator=torch.Generator().manual_seed(1),
        )
        error = float(each.std()) / math.sqrt(count)
        assert error < 0.05 * abs(exact)
        assert abs(float(each.mean()) - exact) < 5 * error


def test_the_torus_is_score_matching_of_a_periodic_model() -> None:
    """Equal to the oracle's exact and sliced losses; whole periods change nothing; other periods scale."""
    torch.manual_seed(3)
    net = nn.Sequential(Periodic(period=3.0, harmonics=2), nn.Linear(8, 6), nn.Softplus(), nn.Linear(6, 1)).double()
    x, v = 3 * torch.rand(B, 2, dtype=torch.float64), torch.randn(M, B, 2, dtype=torch.float64)
    turns = 3.0 * torch.randint(-3, 4, (B, 2))
    for form, options in FORMS.items():
        given = options if form == "exact" else {**options, "v": v}
        expected = oracle.losses(net, x, v, form, energy=True).mean()
        wanted = [expected, *oracle.gradients(expected, net.parameters())]
        for backend, rows in (*((backend, x) for backend in BACKENDS), ("auto", x + turns)):
            loss = fastssm.manifold_loss(net, rows, manifold="torus", period=3.0, backend=backend, **given)
            oracle.assert_close([loss, *torch.autograd.grad(loss, list(net.parameters()))], wanted, 1e-9, backend)


class Linear(nn.Module):
    """`log p = theta . f(x)`, whose loss is a quadratic form of theta."""

    def __init__(self, features: Callable[[Tensor], Tensor], count: int) -> None:
        super().__init__()
        self.features, self.theta = features, nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return -(self.features(x) * self.theta).sum(1)


def minimum(model: Linear, x: Tensor, manifold: str) -> Tensor:
    """Return where the gradient of the exact loss vanishes, from its values at the corners of a simplex."""
    leaves = (model.theta,)
    count = len(model.theta)
    slopes = []
    for place in torch.cat([torch.zeros(1, count), torch.eye(count)]).double():
        model.theta.data = place
        loss = fastssm.manifold_loss(model, x, manifold=manifold, exact=True, kind="energy")
        slopes.append(torch.autograd.grad(loss, leaves)[0])
    first, *rest = slopes
    return torch.linalg.solve(torch.stack([row - first for row in rest], 1), -first)


def von_mises_fisher(mean: Tensor, kappa: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw unit vectors of three coordinates: the height is the inverse of its distribution function."""
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    height = 1 + torch.log(u + (1 - u) * math.exp(-2 * kappa)) / kappa
    angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    level = (1 - height.square()).clamp(min=0).sqrt()
    basis = torch.linalg.qr(torch.cat([mean[:, None], torch.eye(3).double()[:, :2]], 1))[0]
    basis = basis * (basis[:, :1] * mean[:, None]).sum(0).sign()
    return torch.stack([height, level * angle.cos(), level * angle.sin()], 1) @ basis.mT


def test_the_concentration_of_a_von_mises_fisher_density_is_recovered(recwarn: pytest.WarningsRecorder) -> None:
    """`kappa mu` of 20,000 directions, and the estimator on paper: `(D - 1) (I - mean x x^T)^-1 mean x`.

    The energy is linear, and no warning says that it cannot be trained.
    """
    mean = nn.functional.normalize(torch.tensor([1.0, 2.0, -2.0]).double(), dim=0)
    x = von_mises_fisher(mean, 4.0, 20_000, torch.Generator().manual_seed(2))
    found = minimum(Linear(lambda x: x, 3), x, "sphere")
    torch.testing.assert_close(found, 2 * torch.linalg.solve(torch.eye(3).double() - x.mT @ x / len(x), x.mean(0)))
    assert (found - 4.0 * mean).norm() < 0.1  # one standard error is 0.03
    assert [w for w in recwarn if issubclass(w.category, fastssm.FastSSMWarning)] == []


def test_the_concentrations_of_von_mises_densities_are_recovered() -> None:
    """Two angles: `kappa cos mu` and `kappa sin mu` of each."""
    kappa, mu = torch.tensor([3.0, 0.7]).double(), torch.tensor([1.0, -2.0]).double()
    torch.manual_seed(6)
    x = torch.distributions.VonMises(mu, kappa).sample((20_000,))
    found = minimum(Linear(lambda x: torch.cat([x.cos(), x.sin()], 1), 4), x + 2 * math.pi, "torus")
    expected = torch.cat([kappa * mu.cos(), kappa * mu.sin()])
    assert (found - expected).abs().max() < 0.15  # one standard error is 0.04
    sines, cosines = (x.sin().square().mean(0), x.cos().square().mean(0))
    torch.testing.assert_close(found[:2] * sines - found[2:] * (x.sin() * x.cos()).mean(0), x.cos().mean(0))
    torch.testing.assert_close(found[2:] * cosines - found[:2] * (x.sin() * x.cos()).mean(0), x.sin().mean(0))


def test_terms_other_shapes_half_precision_and_nan() -> None:
    net, x, v = sphere_problem("energy")
    loss, terms = fastssm.manifold_loss(net, x, manifold="sphere", v=v, reduction="none", return_terms=True)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, loss.detach())
    for manifold in ("sphere", "torus"):
        assert fastssm.manifold_loss(net, x[:0], manifold=manifold, reduction="sum") == 0.0
    images = nn.Sequential(nn.Flatten(), net)
    square = fastssm.manifold_loss(images, x.view(B, 2, 2), manifold="sphere", v=v.view(M, B, 2, 2), reduction="none")
    torch.testing.assert_close(square, loss)
    assert torch.equal(fastssm.ManifoldLoss(net, manifold="sphere", reduction="none")(x, v=v), loss)
    half = fastssm.manifold_loss(copy.deepcopy(net).bfloat16(), x.bfloat16(), manifold="sphere", v=v, kind="energy")
    assert half.dtype == torch.float32
    assert abs(half.item() - loss.mean().item()) < 0.1 * (1 + abs(loss.mean().item()))
    broken = x.clone()
    broken[2] = math.nan
    each = fastssm.manifold_loss(net, broken, manifold="sphere", v=v, reduction="none")
    assert each.isnan().tolist() == [row == 2 for row in range(B)]
