"""Langevin samplers: stationary laws known on paper, reproducibility, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.domains import Ball, Box, Halfspaces, Positive, Simplex
from fastssm.nn import MLP
from fastssm.sampling import annealed_langevin, langevin

CHAINS = 20_000


class Gaussian(nn.Module):
    """`N(mean, diag(deviation^2))` as an energy or a score; blurred by sigma where one is given."""

    def __init__(self, energy: bool, mean: float = 0.0, deviation: tuple[float, ...] = (1.0, 1.0)) -> None:
        super().__init__()
        self.energy, self.mean = energy, mean
        self.variance = torch.tensor(deviation, dtype=torch.float64) ** 2

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        variance = self.variance if sigma is None else self.variance + sigma[:, None] ** 2
        centred = x - self.mean
        return (centred**2 / variance).sum(1) / 2 if self.energy else -centred / variance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_moments(x: Tensor, mean: float, variance: Tensor) -> None:
    """Compare within five standard errors; the fourth moment of a Gaussian makes the variance's error `sqrt(2 / n)`."""
    error = (variance / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * error).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / len(x))).all()


def test_mala_leaves_a_gaussian_as_it_is() -> None:
    """Started in the stationary law with a step so large that ULA's variance would be 20 % off."""
    net, deviation = Gaussian(True, 3.0, (1.0, 2.0)), torch.tensor([1.0, 2.0], dtype=torch.float64)
    x = 3.0 + deviation * torch.randn(CHAINS, 2, generator=generator(), dtype=torch.float64)
    found, acceptance = langevin(net, x, step=0.4, n_steps=30, metropolis=True, generator=generator(1))
    assert_moments(found, 3.0, deviation**2)
    assert 0.7 < float(acceptance.mean()) < 0.99
    assert (found != x).any(1).all()


def test_mala_arrives_from_afar() -> None:
    x = torch.full((CHAINS, 2), -2.0, dtype=torch.float64)
    found = langevin(Gaussian(True), x, step=0.5, n_steps=60, metropolis=True, generator=generator()).x
    assert_moments(found, 0.0, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("energy", [True, False])
@pytest.mark.parametrize("step", [0.1, 0.8])
def test_ula_has_the_bias_on_paper(energy: bool, step: float) -> None:
    """`x' = (1 - step) x + sqrt(2 step) z` has the stationary variance `1 / (1 - step / 2)`."""
    x = torch.zeros(CHAINS, 2, dtype=torch.float64)
    found, acceptance = langevin(Gaussian(energy), x, step=step, n_steps=80, generator=generator())
    assert_moments(found, 0.0, torch.full((2,), 1 / (1 - step / 2), dtype=torch.float64))
    assert torch.equal(acceptance, torch.ones(CHAINS, dtype=torch.float64))


@pytest.mark.parametrize("energy", [True, False])
def test_annealed_chains_end_in_the_blurred_law(energy: bool) -> None:
    net, sigmas, step = Gaussian(energy, 1.0, (0.3, 0.3)), [3.0, 1.0, 0.5], 0.1
    x = 3 * torch.randn(CHAINS, 2, generator=generator(), dtype=torch.float64)
    found = annealed_langevin(net, x, sigmas=sigmas, step=step, n_steps=60, generator=generator(1))
    variance = 0.3**2 + 0.5**2
    biased = variance / (1 - step * 0.5**2 / (2 * variance))  # of the unadjusted chain at the last level
    assert_moments(found, 1.0, torch.full((2,), biased, dtype=torch.float64))
    # the posterior mean of the clean point: 1 + (x - 1) 0.3^2 / variance
    denoised = annealed_langevin(net, x, sigmas=sigmas, step=step, n_steps=60, generator=generator(1), denoise=True)
    torch.testing.assert_close(denoised, 1 + (found - 1) * 0.3**2 / variance)


def test_one_step_of_the_annealed_chain_is_algorithm_one() -> None:
    """`x + a s / 2 + sqrt(a) z` with the paper's `a = epsilon sigma_i^2 / sigma_L^2`, `epsilon = 2 step sigma_L^2`."""
    net, x, step = Gaussian(False), torch.randn(5, 2, dtype=torch.float64), 0.1
    found = annealed_langevin(net, x, sigmas=[2.0, 0.5], n_steps=1, step=step, generator=generator())
    draws, expected, epsilon = generator(), x, 2 * step * 0.5**2
    for sigma in (2.0, 0.5):
        a = epsilon * sigma**2 / 0.5**2
        s = net(expected, torch.full((5,), sigma, dtype=torch.float64))
        expected = expected + a / 2 * s + math.sqrt(a) * torch.randn(1, 5, 2, generator=draws, dtype=torch.float64)[0]
    torch.testing.assert_close(found, expected)


def test_energies_and_their_scores_walk_alike() -> None:
    x = torch.randn(6, 2, dtype=torch.float64)
    ends = [langevin(Gaussian(e), x, step=0.1, n_steps=5, generator=generator()).x for e in (True, False)]
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_are_reproducible_and_keep_nothing(dtype: torch.dtype) -> None:
    net, level = MLP(2, [8], activation="silu").to(dtype), MLP(2, [8], 2, "silu", cond_dim=1).to(dtype)
    x = torch.randn(6, 2).to(dtype).requires_grad_()
    before = x.detach().clone()
    walks = [
        lambda seed: langevin(net, x, step=0.1, n_steps=3, generator=generator(seed)).x,
        lambda seed: langevin(net, x, step=0.1, n_steps=3, metropolis=True, generator=generator(seed)).x,
        lambda seed: annealed_langevin(
            level, x, sigmas=[1.0, 0.5], condition="log_sigma", n_steps=3, generator=generator(seed)
        ),
    ]
    for walk in walks:
        assert torch.equal(walk(1), walk(1))
        assert not torch.equal(walk(1), walk(2))
        assert walk(1).dtype == dtype
        assert not walk(1).requires_grad
    assert torch.equal(x, before)
    assert all(p.grad is None for p in net.parameters())


def test_pictures_and_conditioning() -> None:
    net = MLP(8, [5], cond_dim=2)
    x, cond = torch.randn(3, 2, 2, 2), torch.randn(3, 2)
    assert langevin(net, x, step=0.1, n_steps=2, metropolis=True, cond=cond).x.shape == x.shape
    net = MLP(8, [5], 8, cond_dim=2, fourier_time=True)
    assert annealed_langevin(net, x, sigmas=[1.0], n_steps=2, cond=cond).shape == x.shape


class Wall(nn.Module):
    """A standard normal on x > 0: not a number elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (x**2 / 2 + 0.0 * x.log()).sum(1)


def test_metropolis_never_leaves_the_domain() -> None:
    x = torch.full((4000, 1), 0.5, dtype=torch.float64)
    found = langevin(Wall(), x, step=0.3, n_steps=40, metropolis=True, kind="energy", generator=generator()).x
    assert (found > 0).all()
    assert float(found.mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)  # of the half normal


def test_chains_that_leave_the_numbers_are_told_of() -> None:
    with pytest.warns(fastssm.FastSSMWarning, match="6 of 6 Langevin chains"):
        langevin(Gaussian(False), torch.randn(6, 2, dtype=torch.float64), step=1e200, n_steps=5)


DOMAINS = {
    "positive": (Positive(), lambda u: u.abs()),
    "box": (Box(-0.5, 1.0), lambda u: (u / 4).clamp(-0.5, 1.0)),
    "ball": (Ball(1.0), lambda u: u / (1 + u.norm(dim=1, keepdim=True))),
    "simplex": (Simplex(), lambda u: u.abs() / (1 + u.abs().sum(1, keepdim=True))),
    "halfspace": (Halfspaces(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])), lambda u: -u.abs()),
}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("energy", [True, False])
def test_chains_never_leave_their_domain(name: str, energy: bool) -> None:
    domain, into = DOMAINS[name]
    x = into(torch.randn(500, 2, generator=generator()))
    net = Gaussian(energy, mean=1.0)  # whose mass lies outside in part
    net.variance = net.variance.float()
    ways = [lambda d: langevin(net, x, step=0.02, n_steps=90, domain=d, generator=generator(1)).x]
    if energy:
        ways.append(
            lambda d: langevin(net, x, step=0.02, n_steps=90, metropolis=True, domain=d, generator=generator(1)).x
        )
    for denoise in (False, True):
        ways.append(
            lambda d, denoise=denoise: annealed_langevin(
                net, x, sigmas=[1.0, 0.3], n_steps=40, step=0.05, denoise=denoise, domain=d, generator=generator(1)
            )
        )
    for way in ways:
        found = way(domain)
        assert domain.contains(found).all()
        assert (found != x).any(1).float().mean() > 0.5
        assert not domain.contains(way(None)).all()


def test_mala_on_a_domain_leaves_the_truncated_law_as_it_is() -> None:
    """The half normal, whose energy knows nothing of the boundary."""
    x = torch.randn(CHAINS, 1, generator=generator(), dtype=torch.float64).abs()
    net = Gaussian(True, deviation=(1.0,))
    options = {"step": 0.3, "n_steps": 40, "kind": "energy"}
    found = langevin(net, x, metropolis=True, domain=Positive(), generator=generator(1), **options)
    mean, variance = math.sqrt(2 / math.pi), 1 - 2 / math.pi
    assert float(found.x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / CHAINS))
    assert float(found.x.var()) == pytest.approx(variance, rel=0.05)
    assert 0.5 < float(found.acceptance.mean()) < 0.95
    plain = langevin(net, x, domain=Positive(), generator=generator(1), **options)
    assert 0.5 < float(plain.acceptance.mean()) < 1.0


def test_chains_must_start_in_their_domain() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    for sampler, options in ((langevin, {"step": 0.1}), (annealed_langevin, {"sigmas": [1.0]})):
        with pytest.raises(ValueError, match=r"x must start in the domain Positive, .* first in row 1; drop"):
            sampler(Gaussian(False), x, n_steps=1, domain=Positive(), **options)
        with pytest.raises(TypeError, match="domain must be a domain of"):
            sampler(Gaussian(False), x, n_steps=1, domain=(0.0, 1.0), **options)
        with pytest.raises(ValueError, match="points of 3 coordinate"):
            sampler(Gaussian(False), x, n_steps=1, domain=Box(torch.zeros(3), 1.0), **options)
