"""The diffusions: their kernels against their equations, against simulation, and against the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastssm.diffusion import VE, VP, CustomSDE, LinearSDE, ReciprocalVE, SubVP
from fastssm.diffusion.times import grid, time_density
from tests.oracle_diffusion import KERNELS, density

SDES: dict[str, LinearSDE] = {
    "VP": VP(),
    "SubVP": SubVP(),
    "VE": VE(0.02, 8.0),
    "ReciprocalVE": ReciprocalVE(0.02, 8.0, eta=0.01, eps=0.01),
    "ReciprocalVE of the paper": ReciprocalVE(),
    "VP, longer": VP(0.2, 5.0, end=2.0),
    "VE, longer": VE(0.1, 5.0, end=3.0),
}


def times(sde: LinearSDE, count: int = 200) -> Tensor:
    low = max(sde.start, 1e-4)
    return torch.linspace(math.log(low), math.log(sde.end), count, dtype=torch.float64).exp().clamp(low, sde.end)


def slope(f: object, t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    return torch.autograd.grad(f(t).sum() + 0.0 * t.sum(), t)[0]


@pytest.mark.parametrize("name", SDES)
def test_mean_and_variance_solve_their_equations(name: str) -> None:
    """`d mean / dt = rate mean`, `d var / dt = 2 rate var + g^2`, and both start as they should."""
    sde = SDES[name]
    t = times(sde)
    mean, var, g = sde.mean(t), sde.std(t).square(), sde.diffusion(t)
    torch.testing.assert_close(slope(sde.mean, t), sde.rate(t) * mean, rtol=1e-10, atol=1e-14)
    growth = slope(lambda t: sde.std(t).square(), t)
    torch.testing.assert_close(growth, 2 * sde.rate(t) * var + g.square(), rtol=1e-9, atol=1e-14)
    start = torch.tensor(sde.start, dtype=torch.float64)
    assert float(sde.std(start)) == pytest.approx(sde.start_std, rel=1e-9)
    assert float(sde.mean(start)) == 1.0


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_those_of_the_papers(name: str) -> None:
    sde, kernel = SDES[name], KERNELS[name]
    t = times(sde)
    for found, expected in (
        (sde.mean(t), kernel.mean(t)),
        (sde.std(t).square(), kernel.var(t)),
        (sde.rate(t), kernel.rate(t)),
        (sde.diffusion(t).square(), kernel.square(t)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert sde.prior_std == pytest.approx(kernel.prior, rel=1e-12)
    x = torch.randn(len(t), 2, dtype=torch.float64)
    torch.testing.assert_close(sde.drift(x, t), kernel.rate(t)[:, None] * x)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_noise_ratio_and_its_inverse(name: str, dtype: torch.dtype) -> None:
    sde, rtol = SDES[name], 1e-9 if dtype == torch.float64 else 2e-4
    t = times(sde).to(dtype)
    ratio = sde.log_noise_ratio(t)
    expected = 2 * (sde.std(times(sde)).log() - sde.mean(times(sde)).log())
    torch.testing.assert_close(ratio.double(), expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(sde.noise_ratio_rate(t), (sde.diffusion(t) / sde.std(t)).square(), rtol=rtol, atol=0.0)
    if dtype == torch.float64:
        torch.testing.assert_close(slope(sde.log_noise_ratio, t), sde.noise_ratio_rate(t), rtol=1e-8, atol=0.0)
    steep = ratio.diff().abs() > 1e-3  # a flat stretch has no inverse to speak of
    back = sde.time_of(ratio)
    torch.testing.assert_close(back[1:][steep], t[1:][steep], rtol=20 * rtol, atol=0.0)


@pytest.mark.parametrize("name", ["VP", "SubVP", "VE"])
def test_simulated_moments_are_those_of_the_kernel(name: str) -> None:
    sde = SDES[name]
    custom = CustomSDE(sde.drift, sde.diffusion, steps=200)
    x = torch.full((20_000, 1), 1.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    t = torch.full((len(x),), 0.4, dtype=torch.float64)
    start = sde.perturb(x, torch.zeros_like(t), generator=generator)  # VE starts with some noise
    for state in (custom.perturb(start, t, generator=generator), sde.perturb(x, t, generator=generator)):
        mean, std = float(sde.mean(t)[0]) * 1.5, float(sde.std(t)[0])
        assert float(state.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(len(x)) + 0.01)
        assert float(state.std()) == pytest.approx(std, rel=0.03)


def test_every_sample_is_simulated_to_its_own_time() -> None:
    """Euler's scheme without noise: `x (1 + t / steps)^steps`."""
    custom = CustomSDE(lambda x, t: x, torch.zeros_like, steps=7)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    state = custom.perturb(torch.ones(5, 2, dtype=torch.float64), t)
    torch.testing.assert_close(state, ((1 + t / 7) ** 7)[:, None].expand(5, 2))
    seen: list[Tensor] = []
    CustomSDE(lambda x, t: seen.append(t) or x, torch.zeros_like, steps=4).perturb(torch.ones(5, 2).double(), t)
    torch.testing.assert_close(torch.stack(seen), torch.arange(4)[:, None] * t / 4)


def test_custom_noise_enters_as_euler_and_maruyama_say() -> None:
    custom = CustomSDE(lambda x, t: -x * (1 + t[:, None]), lambda t: 1 + t, steps=3)
    torch.manual_seed(0)
    x, t, noise = torch.randn(4, 2).double(), torch.rand(4).double(), torch.randn(3, 4, 2).double()
    expected = x
    for step in range(3):
        now, size = (t * step / 3)[:, None], (t / 3)[:, None]
        expected = expected - expected * (1 + now) * size + (1 + now) * size**0.5 * noise[step]
    torch.testing.assert_close(custom.perturb(x, t, noise), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_family_of_reverse_processes_has_the_right_marginals(lam: float) -> None:
    """The Fokker-Planck equation, run backwards, of the variance of a Gaussian: `v' = 2 b v - (1 - lam) g^2`."""
    sde, data = VP(), 0.4
    t = times(sde)
    var = data * sde.mean(t).square() + sde.std(t).square()
    growth = slope(lambda t: data * sde.mean(t).square() + sde.std(t).square(), t)
    x = torch.ones(len(t), 1, dtype=torch.float64)
    factor = sde.reverse_drift(x, t, -x / var[:, None], lam)[:, 0]
    torch.testing.assert_close(growth, 2 * factor * var - (1 - lam) * sde.diffusion(t).square(), rtol=1e-8, atol=1e-10)


def test_unbounded_conditioning() -> None:
    """`log std` above the knee, below it a line in `1 / std` of the same value and slope."""
    sde = ReciprocalVE(sigma_min=1e-4, eta=1e-5, eps=1e-3)
    t = times(sde, 2000)
    told, std = sde.condition(t), sde.std(t)
    assert (told.diff() > 0).all()
    above = std > sde.knee
    torch.testing.assert_close(told[above], std[above].log())
    torch.testing.assert_close(told[~above], math.log(0.01) + 1 - 0.01 / std[~above])
    assert told.min() < -100.0 < math.log(1e-4)
    knee = sde.time_of(torch.tensor([2 * math.log(0.01)], dtype=torch.float64))
    sides = torch.cat([knee * (1 - 1e-9), knee * (1 + 1e-9)])
    values, slopes = sde.condition(sides), slope(sde.condition, sides)
    assert float(values.diff()) == pytest.approx(0.0, abs=1e-6)
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-6)
    assert torch.equal(VP().condition(t), t)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("first", [None, 0.05])
def test_times_of_importance_sampling(name: str, first: float | None) -> None:
    """`q ~ g^2 / var`, constant below the floor, whose quantiles the sampler returns."""
    sde, kernel = SDES[name], KERNELS[name]
    q = time_density(sde, "importance", first)
    start = sde.start if first is None else first
    flat = 1e-3 if first is None and sde.start_std == 0.0 else None
    assert q.floor == flat
    u = torch.linspace(0.0, 1.0, 101, dtype=torch.float64).requires_grad_()
    t = q.quantile(u)
    assert float(t.detach()[0]) == pytest.approx(start, rel=1e-6, abs=1e-12)
    assert float(t.detach()[-1]) == pytest.approx(1.0, rel=1e-9)
    assert (t.diff() > 0).all()
    inside = slice(2, -2)
    torch.testing.assert_close(q.inverse(t)[inside], 1 / density(kernel, t, start, flat)[inside], rtol=1e-6, atol=0.0)
    if name == "ReciprocalVE":  # found by bisection: no derivative
        step = (q.quantile(u + 1e-6) - q.quantile(u - 1e-6)) / 2e-6
        torch.testing.assert_close(step[inside], q.inverse(t)[inside], rtol=1e-4, atol=0.0)
    else:
        torch.testing.assert_close(
            torch.autograd.grad(t.sum(), u)[0][inside], q.inverse(t)[inside], rtol=1e-6, atol=0.0
        )


def test_times_are_the_closed_form_of_the_paper() -> None:
    u, tau, low, high = torch.linspace(0, 1, 50, dtype=torch.float64), 1e-2, 0.1, 20.0

    def antiderivative(t: float) -> float:
        b = 0.5 * t**2 * (high - low) + t * low
        return math.log(1.0 - math.exp(-b)) + b

    z = antiderivative(1.0) - antiderivative(tau)
    grown = torch.log(1.0 + torch.exp(z * u + antiderivative(tau)))
    expected = (-low + torch.sqrt(low**2 + 2 * (high - low) * grown)) / (high - low)
    q = time_density(VP(), "importance", tau)
    torch.testing.assert_close(q.quantile(u), expected, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(q.inverse(expected), z / (VP().diffusion(expected) / VP().std(expected)).square())


def test_uniform_times_and_grids() -> None:
    u = torch.rand(9, dtype=torch.float64)
    q = time_density(VP(), "uniform", 0.2)
    torch.testing.assert_close(q.quantile(u), 0.2 + 0.8 * u)
    torch.testing.assert_close(q.inverse(u), torch.full_like(u, 0.8))
    custom = CustomSDE(lambda x, t: x, torch.ones_like, end=2.0)
    assert time_density(custom, "importance").importance is False
    torch.testing.assert_close(grid(custom, 4, 0.0, u), torch.linspace(2, 0, 5, dtype=torch.float64))
    steps = grid(VE(0.1, 10.0), 4, 0.0, u)
    torch.testing.assert_close(VE(0.1, 10.0).std(steps).log().diff(), torch.full((4,), -math.log(100.0) / 4).double())


def test_priors() -> None:
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for sde in SDES.values():
        expected = torch.distributions.Normal(0.0, sde.prior_std).log_prob(x).sum(1)
        torch.testing.assert_close(sde.prior_log_prob(x), expected)
    drawn = VE(0.1, 7.0).prior_sample((4000, 2), generator=torch.Generator().manual_seed(0))
    assert float(drawn.std()) == pytest.approx(7.0, rel=0.05)
    assert drawn.dtype == torch.float32
