"""The bound of diffusion models: the formula and every gradient, and Gaussian data by quadrature."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssm.backends.entries import compiled
from fastssm.diffusion import VE, VP, LinearSDE, TimeSampling, elbo, elbo_loss
from fastssm.nn import MLP
from tests import oracle
from tests.gaussian_diffusion import ENTROPY, MEAN, SDES, VARIANCE, Gaussian, expected_loss, terminal_divergence
from tests.oracle_diffusion import KERNELS, bound, density, integrate, legendre

B, D, M = 6, 3, 2
BACKENDS = ("reference", "torch", *compiled.DEVICES)


def network(energy: bool, **options: Any) -> MLP:
    torch.manual_seed(2)
    return MLP(D, [8, 7], 1 if energy else D, "tanh", **options).double()


class Told(nn.Module):
    """What the SDE tells a network, for the oracle, which passes times."""

    def __init__(self, sde: LinearSDE, net: nn.Module) -> None:
        super().__init__()
        self.sde, self.net = sde, net

    def forward(self, x: Tensor, *cond: Tensor) -> Tensor:
        return self.net(x, *cond[:-1], self.sde.condition(cond[-1]))


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(B, D).double(),
        "noise": torch.randn(B, D).double(),
        "v": torch.randn(M, B, D).double(),
        "t": torch.linspace(0.02, 0.9, B).double(),
        "cond": torch.randn(B, 2).double(),
        "weight": torch.rand(B).double(),
    }


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("form", "energy", "predicts", "reduction"),
    [
        ("sliced", False, "score", "mean"),
        ("sliced", True, "score", "none"),
        ("sliced", False, "noise", "mean"),
        ("exact", False, "score", "sum"),
        ("denoising", False, "noise", "mean"),
        ("denoising", True, "score", "none"),
    ],
)
def test_the_loss_is_the_formula(
    name: str, backend: str, form: str, energy: bool, predicts: str, reduction: str
) -> None:
    b, net, sde, kernel = batch(), network(energy, cond_dim=2, fourier_time=True), SDES[name], KERNELS[name]
    leaves = [b["x"].requires_grad_(), b["cond"].requires_grad_(), *net.parameters()]
    t_min = 0.01 if predicts == "noise" else None
    found, terms = elbo_loss(
        net, b["x"], sde=sde, form=form, predicts=predicts, times=TimeSampling(t_min=t_min), cond=b["cond"], t=b["t"],
        noise=b["noise"], v=b["v"] if form == "sliced" else None, weight=b["weight"], reduction=reduction,
        backend=backend, return_terms=True,
    )  # fmt: skip
    first = sde.start if t_min is None else t_min
    blurred = first > 0 or sde.start_std > 0
    q = density(kernel, b["t"], first, None if blurred else 1e-3)
    v = {"sliced": b["v"], "denoising": None, "exact": torch.eye(D).double()[:, None].expand(D, B, D) * D**0.5}[form]
    prior, path, decoder = bound(
        kernel, Told(sde, net), b["x"], b["t"], b["noise"], v, q, energy=energy, noise=predicts == "noise",
        first=first if blurred else None, cond=[b["cond"]],
    )  # fmt: skip
    expected = oracle.reduced(path - prior - decoder, b["weight"], reduction)
    found = oracle.contracted(found) if reduction == "none" else found
    grads = torch.autograd.grad(found, leaves)
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, leaves)], 1e-8)
    oracle.assert_close(list(terms), [prior, path, decoder], 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variance_reduced", [True, False])
def test_one_pass_and_terms_agree(backend: str, variance_reduced: bool) -> None:
    """Without terms the engine computes value and gradient at once: the same, tightly."""
    b, net = batch(), network(False, cond_dim=1)
    options = {"sde": VP(), "times": TimeSampling("uniform"), "t": b["t"], "noise": b["noise"], "v": b["v"]}
    options |= {"weight": b["weight"], "variance_reduced": variance_reduced, "backend": backend}
    found = elbo_loss(net, b["x"], **options)
    prior, path, _ = bound(
        KERNELS["VP"], net, b["x"], b["t"], b["noise"], b["v"], 1.0, reduced=variance_reduced
    )  # fmt: skip
    expected = ((path - prior) * b["weight"]).mean()
    grads = torch.autograd.grad(found, list(net.parameters()))
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, net.parameters())], 1e-10)


@pytest.mark.parametrize("form", ["exact", "sliced", "denoising"])
def test_the_bound_of_the_true_score_is_the_entropy(form: str) -> None:
    """losses by Huang's formula: -0.96084175 with the standard prior, -0.96079317 with the exact terminal law."""
    sde = VP()
    edges = [(0.0, 0.01), (0.01, 0.1), (0.1, 0.4), (0.4, 1.0)]
    loss, _ = expected_loss(Gaussian(sde), sde, edges, form=form)
    assert -float(loss) == pytest.approx(-0.96084175, abs=5e-9)
    assert -float(loss) + terminal_divergence(sde) == pytest.approx(ENTROPY, abs=1e-10)
    assert pytest.approx(-0.96079317, abs=5e-9) == ENTROPY


@pytest.mark.parametrize("form", ["exact", "denoising"])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_wrong_score_pays_its_fisher_divergence(form: str, factor: float) -> None:
    sde = VP()
    edges = [(0.0, 0.01), (0.01, 0.1), (0.1, 0.4), (0.4, 1.0)]
    loss, _ = expected_loss(Gaussian(sde, factor), sde, edges, form=form)
    assert -float(loss) + terminal_divergence(sde) == pytest.approx(-1.18012, abs=5e-6)
    fisher = integrate(lambda t: KERNELS["VP"].square(t) / (VARIANCE * sde.mean(t) ** 2 + sde.std(t) ** 2), 0.0, 1.0)
    price = 0.5 * (1 - factor) ** 2 * fisher + terminal_divergence(sde)
    assert -float(loss) == pytest.approx(ENTROPY - price, abs=1e-9)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("form", ["exact", "denoising"])
def test_the_decoder_pays_for_its_variance(name: str, form: str) -> None:
    """For Gaussian data the decoder's mean is exact, its variance the kernel's and not the posterior's."""
    sde = SDES[name]
    first = 0.02 if name in ("VP", "SubVP") else sde.start
    edges = [first * (1.0 / first) ** (k / 8) if first else k / 8 for k in range(9)]
    model = Gaussian(sde)
    pieces = list(pairwise(edges))
    loss = 0.0
    for low, high in pieces:  # one rule per piece; each sees the whole loss, of which the path alone depends on t
        mean, path = expected_loss(model, sde, [(low, high)], form=form, times=TimeSampling("uniform", first))
        loss += float(path) * (high - low) / (1.0 - first)
    rest = float(mean - path)
    alpha, var = (
        float(sde.mean(torch.tensor(first, dtype=torch.float64))),
        float(sde.std(torch.tensor(first, dtype=torch.float64))) ** 2,
    )
    ratio = alpha**2 * VARIANCE / (alpha**2 * VARIANCE + var)
    price = 0.5 * (ratio - 1 - math.log(ratio))
    assert -(loss + rest) == pytest.approx(ENTROPY - price - terminal_divergence(sde), abs=1e-9)


@pytest.mark.parametrize("lam", [0.5, 0.9])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_family_bounds_the_likelihood_of_its_process(lam: float, factor: float) -> None:
    """Up to `(c - 1)` times the data's own Fisher information, `c = 1 + lam^2 / (4 (1 - lam))`; tight for the truth."""
    sde = VP()
    edges = [(0.0, 0.01), (0.01, 0.1), (0.1, 0.4), (0.4, 1.0)]

    def spread(t: Tensor) -> Tensor:
        return VARIANCE * sde.mean(t) ** 2 + sde.std(t) ** 2

    information = 0.5 * integrate(lambda t: sde.diffusion(t) ** 2 / spread(t), 0.0, 1.0)
    constant = lam**2 / (4 * (1 - lam)) * information
    mean, var = terminal_moments(sde, factor, lam)
    likelihood = -0.5 * math.log(2 * math.pi * var) - (VARIANCE + (MEAN - mean) ** 2) / (2 * var)
    bounds = {member: -float(expected_loss(Gaussian(sde, factor), sde, edges, lam=member)[0]) for member in (0.0, lam)}
    assert bounds[lam] - constant < likelihood - 1e-3
    truth = -float(expected_loss(Gaussian(sde), sde, edges, lam=lam)[0]) - constant
    assert truth == pytest.approx(ENTROPY - terminal_divergence(sde), abs=1e-9)
    assert bounds[lam] - constant < bounds[0.0]  # the price of less noise


def terminal_moments(sde: LinearSDE, factor: float, lam: float, steps: int = 400) -> tuple[float, float]:
    """Return mean and variance at time 0 of the generative process, from `N(0, 1)`, by a rule of order 4."""

    def velocity(t: float, state: Tensor) -> Tensor:
        time = torch.tensor([max(t, 0.0)], dtype=torch.float64)
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        drift = sde.reverse_drift(x, time.expand(2), Gaussian(sde, factor)(x, time.expand(2)), lam)[:, 0]
        noise = (1 - lam) * sde.diffusion(time)[0] ** 2
        slope = drift[1] - drift[0]
        return torch.stack([drift[0] + slope * state[0], 2 * slope * state[1] - noise])

    state, size = torch.tensor([0.0, 1.0], dtype=torch.float64), -1.0 / steps
    for step in range(steps):
        t = 1.0 + step * size
        a = velocity(t, state)
        b = velocity(t + size / 2, state + size / 2 * a)
        c = velocity(t + size / 2, state + size / 2 * b)
        state = state + size / 6 * (a + 2 * b + 2 * c + velocity(t + size, state + size * c))
    return float(state[0]), float(state[1])


def test_sliced_and_denoising_gradients_agree_for_every_sample() -> None:
    """By quadrature over the noise, for one x and several t: integration by parts against the kernel."""
    torch.manual_seed(0)
    net = MLP(1, [6, 5], 1, "tanh", cond_dim=1).double()
    z, weight = legendre(-9.0, 9.0, 600)
    weight = weight * (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)
    for sde in SDES.values():
        found = {}
        for t in (0.05, 0.5):
            for form in ("exact", "denoising"):
                x = torch.full((len(z), 1), 0.7, dtype=torch.float64)
                each, terms = elbo_loss(
                    net, x, sde=sde, form=form, t=torch.full_like(z, t), noise=z[:, None], kind="score",
                    reduction="none", decoder=False, return_terms=True,
                )  # fmt: skip
                loss = (each * weight).sum()
                found[form] = [(terms.path * weight).sum(), *torch.autograd.grad(loss, list(net.parameters()))]
            oracle.assert_close(found["exact"], found["denoising"], 1e-9)


def test_both_forms_agree_over_draws_too() -> None:
    """The estimators that are trained with: same mean, many draws of t, z and v."""
    net, x = network(False, fourier_time=True), torch.randn(1, D).double()
    generator, count = torch.Generator().manual_seed(0), 40_000
    means, errors = [], []
    for form in ("sliced", "denoising"):
        each = elbo_loss(net, x.expand(count, D), sde=VP(), form=form, generator=generator, reduction="none")
        means.append(float(each.mean()))
        errors.append(float(each.std()) / math.sqrt(count))
    assert abs(means[0] - means[1]) < 5 * math.hypot(*errors)
    assert max(errors) < 0.1 * abs(means[0])


@pytest.mark.parametrize("density", ["importance", "uniform"])
@pytest.mark.parametrize("form", ["exact", "sliced", "denoising"])
def test_elbo_is_unbiased(density: str, form: str) -> None:
    sde, generator = VP(), torch.Generator().manual_seed(3)
    x = MEAN + VARIANCE**0.5 * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    times = TimeSampling(density)
    found = elbo(Gaussian(sde), x, sde=sde, form=form, times=times, n_times=4, kind="score", generator=generator)
    assert not found.requires_grad
    error = float(found.std()) / math.sqrt(len(x))
    assert float(found.mean()) == pytest.approx(ENTROPY - terminal_divergence(sde), abs=5 * error)
    assert error < 0.05


def test_elbo_in_bits_and_from_a_generator() -> None:
    net, x = network(False, fourier_time=True), batch()["x"]
    nats, bits, again = (
        elbo(net, x, sde=VP(), unit=unit, generator=torch.Generator().manual_seed(5), n_times=2)
        for unit in ("nats", "bits", "nats")
    )
    torch.testing.assert_close(bits, -nats / (D * math.log(2.0)))
    assert torch.equal(nats, again)


def test_times_of_an_evaluation_are_stratified() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            if len(t) == B:  # recognition runs other numbers of rows
                seen.append(t.detach())
            return -x

    elbo(
        Spy(),
        batch()["x"],
        sde=VE(0.1, 10.0),
        n_times=8,
        form="denoising",
        times=TimeSampling("uniform"),
        backend="reference",
    )
    paths = torch.stack(seen[::2])  # every other call is the decoder's
    assert torch.equal(paths.mul(8).floor(), torch.arange(8.0)[:, None].expand(8, B))
