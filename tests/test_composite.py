"""Composite score matching: the context net, the loss against autograd, a Gaussian on paper, density, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import fastssm
from fastssm.backends.entries import compiled
from fastssm.nn import MLP, MADEContext
from tests import oracle

BACKENDS = ("torch", "reference", *compiled.DEVICES)
RTOL, B, D, C = 1e-10, 6, 4, 3
HEADS = {
    "energy": ("energy", lambda: MLP(1, [7, 5], cond_dim=C)),
    "energy, film": ("energy", lambda: MLP(1, [6, 6], cond_dim=C, conditioning="film", residual=True)),
    "score": ("score", lambda: MLP(1, [7, 5], activation="silu", cond_dim=C)),
}


def problem(head: str, shape: Sequence[int] = (D,)) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(2)
    context, top = MADEContext(math.prod(shape), C, [9, 8], order=range(math.prod(shape))).double(), HEADS[head][1]()
    for p in (*context.parameters(), *top.double().parameters()):
        nn.init.normal_(p, std=0.6)
    return context, top, torch.randn(B, *shape, dtype=torch.float64)


def transcription(
    context: nn.Module, head: nn.Module, x: Tensor, energy: bool, sigma: float | None = None, z: Tensor | None = None
) -> Tensor:
    """Return the loss of every sample, coordinate after coordinate, every derivative on autograd's tape."""
    contexts, total = context(x), torch.zeros(len(x), dtype=x.dtype)
    for d in range(contexts.shape[1]):
        y = x.flatten(1)[:, d : d + 1] * 1.0  # a node of its own: the contexts do not depend on it
        y = y + sigma * z[:, d : d + 1] if sigma else y
        y = y if y.requires_grad else y.requires_grad_()
        s = head(y, contexts[:, d])
        s = -oracle.derivative(s, y) if energy else s
        residual = s + z[:, d : d + 1] / sigma if sigma else s
        total = total + residual.square().sum(1) / 2
        total = total if sigma else total + oracle.derivative(s, y).sum(1)
    return total


# --- the context net ---


@pytest.mark.parametrize("order", [None, (2, 0, 3, 1)])
@pytest.mark.parametrize("widths", [[], [5], [16, 9, 12]])
def test_a_context_sees_the_coordinates_before_it_and_all_of_them(
    order: Sequence[int] | None, widths: list[int]
) -> None:
    torch.manual_seed(0)
    net = MADEContext(D, C, widths, order=order).double()
    x = torch.randn(1, D, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(net, x)[0, :, :, 0].abs().sum(1)  # [d, j]
    place = {d: i for i, d in enumerate(order or range(D))}
    for d in range(D):
        for j in range(D):
            assert (jacobian[d, j] > 0) == (place[j] < place[d])


def test_context_nets_of_one_coordinate_and_of_images() -> None:
    assert torch.equal(*MADEContext(1, C, [5])(torch.randn(2, 1)).unbind(0))
    net = MADEContext(8, C, [5])
    x = torch.randn(3, 2, 2, 2)
    assert torch.equal(net(x), net(x.flatten(1)))
    assert net(x).shape == (3, 8, C)
    assert net(x[:0]).shape == (0, 8, C)
    assert "order=[0, 1, 2, 3, 4, 5, 6, 7]" in repr(net)


# --- the loss ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("sigma", [None, 0.3])
def test_composite_loss(sigma: float | None, name: str, reduction: str, backend: str) -> None:
    kind, (context, head, x) = HEADS[name][0], problem(name)
    x.requires_grad_()
    z = torch.randn(B * D, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).view(B, D)
    each = transcription(context, head, x, kind == "energy", sigma, z)
    leaves = [x, *context.parameters(), *head.parameters()]
    for weight in (None, torch.rand(B, dtype=torch.float64)):
        options = {"weight": weight, "reduction": reduction, "kind": kind, "backend": backend, "sigma": sigma}
        generator = torch.Generator().manual_seed(4)
        found = fastssm.composite_loss(context, head, x, generator=generator, **options)
        found = oracle.contracted(found) if reduction == "none" else found
        grads = torch.autograd.grad(found, leaves)
        expected = oracle.reduced(each, weight, reduction)
        wanted = torch.autograd.grad(expected, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        oracle.assert_close([found, *grads], [expected, *wanted], RTOL, f"{name} {options}")


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_terms_add_up_and_images_are_flat(sigma: float | None) -> None:
    context, head, x = problem("energy", (2, 2))
    options = {"sigma": sigma, "reduction": "none"}
    generators = [torch.Generator().manual_seed(1) for _ in range(3)]
    each, parts = fastssm.composite_loss(context, head, x, return_terms=True, generator=generators[0], **options)
    torch.testing.assert_close(parts.projected_jacobian + parts.square, each)
    torch.testing.assert_close(
        fastssm.composite_loss(context, head, x.flatten(1), generator=generators[1], **options), each
    )
    mean, parts = fastssm.composite_loss(context, head, x, sigma=sigma, generator=generators[2], return_terms=True)
    torch.testing.assert_close(mean, each.mean())
    torch.testing.assert_close(parts.projected_jacobian + parts.square, each)
    assert not parts.square.requires_grad
    assert fastssm.composite_loss(context, head, x[:0], sigma=sigma, reduction="sum") == 0


def test_the_module_owns_both_nets() -> None:
    context, head, x = problem("energy")
    weight = torch.rand(B, dtype=torch.float64)
    module = fastssm.CompositeLoss(context, head, reduction="sum")
    assert set(module.parameters()) == {*context.parameters(), *head.parameters()}
    found = module(x, weight=weight)
    torch.testing.assert_close(found, fastssm.composite_loss(context, head, x, weight=weight, reduction="sum"))


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_the_compiled_loss_has_no_graph_break(sigma: float | None) -> None:
    torch._dynamo.reset()
    context, head, x = problem("energy")
    module = fastssm.CompositeLoss(context, head, sigma=sigma)
    parameters = list(module.parameters())
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    results = []
    for call in (module, compiled):
        torch.manual_seed(0)
        value = call(x)
        results.append([value, *torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)])
    oracle.assert_close(results[1], results[0], RTOL)


# --- a Gaussian on paper ---


class Before(nn.Module):
    """Contexts `(mean, log precision)` of `x_d = sum_{j<d} a_dj x_j + b_d + N(0, e^-l_d)`."""

    def __init__(self, a: Tensor, b: Tensor, log_precision: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.log_precision = nn.Parameter(a), nn.Parameter(b), nn.Parameter(log_precision)

    def forward(self, x: Tensor) -> Tensor:
        mean = x @ self.a.tril(-1).t() + self.b
        return torch.stack([mean, self.log_precision.expand_as(mean)], 2)


class Parabola(nn.Module):
    """`E = precision (y - mean)^2 / 2`, or its score."""

    def __init__(self, kind: str = "energy") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        away, precision = y - c[:, :1], c[:, 1:].exp()
        return precision * away * away / 2 if self.kind == "energy" else -precision * away


def gaussian() -> tuple[Tensor, Tensor, Tensor, MultivariateNormal]:
    """Return the conditionals of a Gaussian, and itself: `x = A x + b + noise`, so `x = (I - A)^-1 (b + noise)`."""
    torch.manual_seed(1)
    a = torch.randn(D, D, dtype=torch.float64).tril(-1)
    b, log_precision = torch.randn(D, dtype=torch.float64), 0.5 * torch.randn(D, dtype=torch.float64)
    mixing = torch.linalg.inv(torch.eye(D, dtype=torch.float64) - a)
    covariance = mixing @ torch.diag((-log_precision).exp()) @ mixing.t()
    return a, b, log_precision, MultivariateNormal(mixing @ b, covariance)


def with_moments(law: MultivariateNormal, n: int = 500) -> Tensor:
    """Return data with exactly the mean and the covariance of a Gaussian."""
    x = torch.randn(n, D, dtype=torch.float64)
    u, _, w = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return law.mean + (u @ w * math.sqrt(n)) @ law.scale_tril.t()


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_the_optimum_on_a_gaussian(kind: str) -> None:
    """At the true conditionals the loss is minus half the sum of their precisions, and its gradient is zero."""
    a, b, log_precision, law = gaussian()
    context, head, x = Before(a, b, log_precision), Parabola(kind), with_moments(law)
    loss = fastssm.composite_loss(context, head, x, kind=kind)
    assert loss.item() == pytest.approx(-log_precision.exp().sum().item() / 2, rel=1e-10)
    loss.backward()
    assert max(p.grad.abs().max() for p in context.parameters()) < 1e-9


def test_another_gaussian_on_paper() -> None:
    """Off the optimum `loss_b = sum_d( l_d^2 (x_d - m_d)^2 / 2 - l_d )`."""
    _, _, _, law = gaussian()
    torch.manual_seed(7)
    context, x = Before(torch.randn(D, D).double(), torch.randn(D).double(), torch.randn(D).double()), law.sample((50,))
    mean, log_precision = context(x).unbind(2)
    expected = (log_precision.exp().square() * (x - mean).square() / 2 - log_precision.exp()).sum(1)
    torch.testing.assert_close(fastssm.composite_loss(context, Parabola(), x, reduction="none"), expected)


def test_the_denoising_optimum_is_the_blurred_conditional() -> None:
    """For data `N(0, 1)` and noise sigma the best precision is `1 / (1 + sigma^2)`: the mean gradient there is zero."""
    n, sigma = 200_000, 0.5
    context = Before(
        torch.zeros(1, 1).double(), torch.zeros(1).double(), torch.tensor([-math.log1p(sigma**2)]).double()
    )
    x = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    loss = fastssm.composite_loss(context, Parabola(), x, sigma=sigma, generator=generator)
    loss.backward()
    assert abs(float(context.log_precision.grad)) < 6 * 2.0 / math.sqrt(n)


# --- density and samples ---


def wide(law: MultivariateNormal) -> Tensor:
    away = 9 * law.variance.sqrt()
    return torch.stack([law.mean - away, law.mean + away])


@pytest.mark.parametrize(("kind", "rtol"), [("energy", 1e-9), ("score", 1e-9)])
def test_log_prob_of_a_gaussian(kind: str, rtol: float) -> None:
    a, b, log_precision, law = gaussian()
    context, x = Before(a, b, log_precision), law.sample((40,))
    found = fastssm.composite_log_prob(context, Parabola(kind), x, wide(law), points=4096, kind=kind)
    torch.testing.assert_close(found, law.log_prob(x), rtol=rtol, atol=1e-9)
    assert found.dtype == torch.float64


def test_the_density_of_a_network_integrates_to_one() -> None:
    torch.manual_seed(3)
    context, head = MADEContext(2, C, [16], order=(1, 0)), MLP(1, [16, 16], cond_dim=C)
    bounds = torch.tensor([[-2.0, -1.0], [3.0, 4.0]])
    axes = [torch.linspace(*ends.tolist(), 201) for ends in bounds.t()]
    log_prob = fastssm.composite_log_prob(context, head, torch.cartesian_prod(*axes), bounds)
    rows = torch.trapezoid(log_prob.exp().view(201, 201), axes[1].double(), dim=1)
    assert torch.trapezoid(rows, axes[0].double()).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", ["energy", pytest.param("score", marks=pytest.mark.slow)])
def test_samples_of_a_gaussian(kind: str) -> None:
    a, b, log_precision, law = gaussian()
    context, n = Before(a, b, log_precision), 20_000
    generator = torch.Generator().manual_seed(5)
    x = fastssm.composite_sample(context, Parabola(kind), n, wide(law), points=1024, kind=kind, generator=generator)
    z = torch.linalg.solve_triangular(law.scale_tril, (x - law.mean).t(), upper=False)
    assert z.mean(1).abs().max() < 6 / math.sqrt(n)
    assert (z @ z.t() / n - torch.eye(D)).abs().max() < 6 * math.sqrt(2 / n)
    assert (z**4).mean(1).sub(3).abs().max() < 6 * math.sqrt(96 / n)


def test_samples_follow_the_order_of_the_context_net() -> None:
    torch.manual_seed(3)
    net = MADEContext(2, 1, [], order=(1, 0))
    with torch.no_grad():
        net.layers[0].weight.fill_(5.0)  # x_0 around 5 x_1, which is around 0
        net.layers[0].bias.zero_()

    class Well(nn.Module):
        def forward(self, y: Tensor, c: Tensor) -> Tensor:
            return 200 * (y - c) ** 2

    x = fastssm.composite_sample(net, Well(), 500, torch.tensor([[-2.0, -2.0], [2.0, 2.0]]), points=2001)
    assert (x[:, 0] - 5 * x[:, 1]).std().item() == pytest.approx(0.05, rel=0.2)
    assert x[:, 1].std().item() == pytest.approx(0.05, rel=0.2)


def test_a_uniform_number_is_the_distribution_function_of_its_sample() -> None:
    """Inverse CDF on paper: a density that rises linearly on `[0, 1]`, `F(x) = x^2`, is exact inside every cell."""

    class Rising(nn.Module):
        def forward(self, y: Tensor, c: Tensor) -> Tensor:
            return -y.clamp(min=1e-300).log()

    uniform = torch.tensor([0.0, 1e-4, 0.3, 0.5, 0.999, 1.0 - 1e-12], dtype=torch.float64)
    grid = fastssm.conditionals.Grid(Rising(), torch.zeros(6, 1, dtype=torch.float64), 0.0, 1.0, 11, "energy")
    torch.testing.assert_close(grid.sample(uniform), uniform.sqrt(), rtol=1e-9, atol=1e-9)
