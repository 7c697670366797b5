"""The gradient of a sampler's entropy: against log-determinants of affine samplers, quadrature, and plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.nn import MLP
from tests import covering, oracle
from tests.networks import BACKENDS, BY_NAME, RTOL, through

B, D = 40, 3
SOME = ("energy-depth-2", "score-depth-2", "energy-concat", "score-two-conds", "energy-image", "score-image")


def whitened(count: int, dim: int) -> Tensor:
    """Return noise whose mean is zero and whose second moments are the unit matrix, to rounding."""
    torch.manual_seed(5)
    noise = torch.randn(count, dim, dtype=torch.float64)
    return torch.linalg.qr(noise - noise.mean(0))[0] * math.sqrt(count)


def affine() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    matrix = torch.eye(D, dtype=torch.float64) + 0.4 * torch.randn(D, D, dtype=torch.float64)
    return matrix.requires_grad_(), torch.randn(D, dtype=torch.float64, requires_grad=True)


def normal_models(matrix: Tensor, mean: Tensor) -> dict[str, tuple[Callable[[Tensor], Tensor], str]]:
    """Return the score and the energy of `N(mean, A A^T)`, as functions and as a layer that engines run."""
    precision = torch.linalg.inv(matrix @ matrix.mT).detach()
    mean = mean.detach()
    layer = nn.Linear(D, D, dtype=torch.float64)
    layer.weight.data, layer.bias.data = -precision, precision @ mean
    return {
        "score": (lambda z: -(z - mean) @ precision, "score"),
        "layer": (layer, "auto"),
        "energy": (lambda z: 0.5 * ((z - mean) @ precision * (z - mean)).sum(1), "energy"),
    }


@covering.each("name", ("score", "layer", "energy"))
def test_the_gradient_of_an_affine_sampler_is_that_of_the_log_determinant(name: str) -> None:
    """`H = log |det A| + a constant`, exactly for whitened noise; the value is D."""
    matrix, mean = affine()
    model, kind = normal_models(matrix, mean)[name]
    z = whitened(B, D) @ matrix.mT + mean
    found = fastssm.entropy_gradient(model, z, kind=kind)
    (wanted,) = torch.autograd.grad(torch.linalg.slogdet(matrix).logabsdet, matrix)
    grads = torch.autograd.grad(found, [matrix, mean])
    oracle.assert_close([found, *grads], [torch.tensor(3.0), wanted, torch.zeros(D)], 1e-10)


def test_a_conditional_sampler_gets_the_mean_of_the_entropies() -> None:
    """`z = b x + x^a noise` given x: `H = a log x + a constant`, and b changes nothing."""
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.7, -0.4))
    x = torch.linspace(0.5, 3.0, 4, dtype=torch.float64)[:, None].repeat_interleave(B, 0)
    z = b * x + x**a * whitened(B, D).repeat(4, 1)

    def score(z: Tensor, x: Tensor) -> Tensor:
        return (-(z - b * x) / x ** (2 * a)).detach()

    found = fastssm.entropy_gradient(score, z, cond=x, kind="score")
    wanted = torch.autograd.grad(D * (a * x.log()).mean(), a)
    grads = torch.autograd.grad(found, [a, b])
    oracle.assert_close([found, *grads], [torch.tensor(3.0), *wanted, torch.tensor(0.0)], 1e-10)


def test_a_sampler_of_one_coordinate_gets_the_integral() -> None:
    """`z = e + a tanh(e)`, `H = E log dz/de + a constant`: points of a quadrature are samples, its weights theirs."""
    a, normal = torch.tensor(0.8, dtype=torch.float64, requires_grad=True), torch.distributions.Normal(0.0, 1.0)
    noise = torch.linspace(-9.0, 9.0, 4001, dtype=torch.float64)[:, None]
    share = normal.log_prob(noise).exp()[:, 0] * 18 / 4000

    def slope(noise: Tensor, a: Tensor) -> Tensor:
        return 1 + a * (1 - noise.tanh().square())

    point = noise.clone().requires_grad_()
    log_density = normal.log_prob(point) - slope(point, a.detach()).log()  # of z, at the point that e moves to
    score = oracle.derivative(log_density, point).detach() / slope(noise, a.detach())
    options = {"kind": "score", "weight": share, "reduction": "sum"}
    found = fastssm.entropy_gradient(lambda z: score, noise + a * noise.tanh(), **options)
    wanted = torch.autograd.grad((share * slope(noise, a)[:, 0].log()).sum(), a)
    oracle.assert_close([found, *torch.autograd.grad(found, a)], [torch.tensor(1.0), *wanted], 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_are_those_of_plain_autograd(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SOME:
        case = BY_NAME[name]
        model, noise, cond = case.problem()
        for p in model.parameters():
            p.grad = None
        width = torch.full((), 1.3, dtype=torch.float64, requires_grad=True)
        weight = torch.linspace(0.5, 2.0, len(noise), dtype=torch.float64, requires_grad=True)
        z = width * noise + noise.sin()
        exact = oracle.terms(model, z.detach(), torch.ones(1, *z.shape).double(), energy=case.energy, cond=cond)
        each = -(exact.score.detach() * z.flatten(1)).sum(1)
        for reduction in ("mean", "sum", "none"):
            options = {"kind": "energy" if case.energy else "score", "backend": through(backend, monkeypatch)}
            for given in (None, weight):
                found = fastssm.entropy_gradient(model, z, cond=cond, weight=given, reduction=reduction, **options)
                leaves = [width] if given is None else [width, weight]
                expected = oracle.reduced(each, given, reduction)
                value = oracle.contracted(found) if reduction == "none" else found
                grads = torch.autograd.grad(value, leaves, retain_graph=True)
                wanted = torch.autograd.grad(expected, leaves, retain_graph=True)
                oracle.assert_close([value, *grads], [expected, *wanted], RTOL, f"{name}, {reduction}")
                value.backward(retain_graph=True)
                assert all(p.grad is None for p in model.parameters()), name


def test_the_model_and_its_condition_get_no_gradient_and_nothing_is_changed() -> None:
    net, x = MLP(D, [8], D, "tanh", cond_dim=2), torch.randn(B, 2, requires_grad=True)
    z = (2 * torch.randn(B, D)).requires_grad_()
    before = z.detach().clone()
    fastssm.entropy_gradient(net, z, cond=x).backward()
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(z.detach(), before)
    torch.testing.assert_close(z.grad, -net(z, x).detach() / B)


def test_half_precision_empty_batches_nan_and_compilation() -> None:
    net, noise = MLP(D, [8], D, "tanh"), torch.randn(B, D)
    width = torch.tensor(2.0, requires_grad=True)
    each = fastssm.entropy_gradient(net, width * noise, reduction="none")
    narrow = fastssm.entropy_gradient(net.bfloat16(), (width * noise).bfloat16(), reduction="none")
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, each, rtol=0.1, atol=0.1)
    net = net.float()
    assert fastssm.entropy_gradient(net, (width * noise)[:0], reduction="sum") == 0.0
    broken = torch.where(torch.arange(B)[:, None] == 2, math.nan, noise)
    found = fastssm.entropy_gradient(net, width * broken, reduction="none")
    assert found.isnan().tolist() == [row == 2 for row in range(B)]

    def step(noise: Tensor) -> Tensor:
        return fastssm.entropy_gradient(net, width * noise, kind="score")

    values = [step(noise), torch.compile(step, fullgraph=True, backend="eager")(noise)]
    grads = [torch.autograd.grad(value, width)[0] for value in values]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(grads[1], grads[0])


def test_a_sampler_learns_a_density_by_its_divergence() -> None:
    """The minimum of `KL(q | p)` over affine samplers, with the true score of q at every step, is p."""
    target = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    matrix = torch.eye(2, dtype=torch.float64, requires_grad=True)
    noise = whitened(B, 2)
    optimiser = torch.optim.SGD([matrix], lr=0.05)
    for _ in range(300):
        z = noise @ matrix.mT
        covariance = (matrix @ matrix.mT).detach()
        entropy = fastssm.entropy_gradient(lambda z, c=covariance: -torch.linalg.solve(c, z.mT).mT, z, kind="score")
        energy = 0.5 * (z * torch.linalg.solve(target, z.mT).mT).sum(1).mean()
        optimiser.zero_grad()
        (energy - entropy).backward()
        optimiser.step()
    torch.testing.assert_close((matrix @ matrix.mT).detach(), target, rtol=1e-4, atol=1e-4)
