"""Soft truncation: its density, its draws, and the weight that it stands for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fastssm.diffusion import VP, SoftTruncation, TimeSampling, elbo_loss
from fastssm.nn import MLP
from tests.gaussian_diffusion import SDES, Gaussian, mean_path
from tests.oracle_diffusion import integrate, legendre

B, D = 6, 3


@pytest.mark.parametrize("k", [0.0, 0.8, 1.0, 1.2, 2.0])
def test_soft_truncation_is_its_density(k: float) -> None:
    soft = SoftTruncation(k, eps=1e-3)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = soft.quantile(u).requires_grad_()
    assert float(t[0]) == pytest.approx(1e-3)
    assert float(t[-1]) == pytest.approx(1.0)
    torch.testing.assert_close(soft.cdf(t), u)
    assert soft.weight(t).equal(soft.cdf(t))
    total = integrate(lambda s: s**-k, 1e-3, 1.0)
    inside = t[1:-1]
    torch.testing.assert_close(torch.autograd.grad(soft.cdf(inside).sum(), t)[0][1:-1], inside**-k / total)
    if k == 1.0:
        printed = 1e-3 ** (1 - u)
    else:
        printed = 1e-3 / (1 - u * (1 - 1e-3 ** (k - 1))) ** (1 / (k - 1)) if k > 1 else t.detach()
    torch.testing.assert_close(t.detach(), printed)
    near = SoftTruncation(k + 1e-7, eps=1e-3)
    torch.testing.assert_close(near.quantile(u), t.detach(), rtol=1e-5, atol=0.0)


def test_soft_truncation_draws_one_time_per_batch() -> None:
    torch.manual_seed(2)
    soft, net = SoftTruncation(1.0, eps=1e-2), MLP(D, [8], D, "tanh", cond_dim=1).double()
    x, noise, v = torch.randn(3, B, D).double()
    generator = torch.Generator().manual_seed(4)
    tau = torch.stack([soft.draw(generator=generator, dtype=torch.float64) for _ in range(2000)])
    assert float(soft.cdf(tau).mean()) == pytest.approx(0.5, abs=0.03)
    given = {"sde": VP(), "t": torch.linspace(0.02, 0.9, B).double(), "noise": noise, "v": v}
    found = elbo_loss(net, x, times=TimeSampling(t_min=soft), generator=torch.Generator().manual_seed(9), **given)
    drawn = float(soft.draw(generator=torch.Generator().manual_seed(9), dtype=torch.float64))
    torch.testing.assert_close(found, elbo_loss(net, x, times=TimeSampling(t_min=drawn), **given))
    other = elbo_loss(net, x, times=TimeSampling(t_min=soft.eps), **given)
    assert float(found) != pytest.approx(float(other), rel=1e-3)


def test_soft_truncation_never_looks_before_its_time() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            if len(t) == 500:  # recognition runs a few rows
                seen.append(t.detach())
            return -x

    x, generator = torch.zeros(500, 2), torch.Generator().manual_seed(1)
    soft = TimeSampling(t_min=SoftTruncation(eps=1e-3))
    for _ in range(20):
        elbo_loss(Spy(), x, sde=VP(), form="denoising", times=soft, generator=generator, backend="reference")
    paths, decoders = seen[::2], seen[1::2]
    for times, tau in zip(paths, decoders, strict=True):
        assert (tau == tau[0]).all()
        assert times.min() >= tau[0] * (1 - 1e-5)
    assert len({float(tau[0]) for tau in decoders}) == 20


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("density", ["uniform", "importance"])
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_soft_truncation_is_likelihood_weighting_times_its_distribution(name: str, density: str, k: float) -> None:
    """Over `tau` and t, for every SDE: `E_tau int_tau^1 h(t) dt = int_eps^1 P(tau <= t) h(t) dt`."""
    sde, eps = SDES[name], 0.02
    soft, model = SoftTruncation(k, eps=eps), Gaussian(sde, 0.7)
    softened = 0.0
    for low, high in pairwise((0.0, 0.6, 0.9, 1.0)):  # k = 2 has a pole just beyond 1
        u, share = legendre(low, high, 8)
        for tau, weight in zip(soft.quantile(u).tolist(), share.tolist(), strict=True):
            softened += weight * mean_path(model, sde, TimeSampling(density, tau))
    weighted = mean_path(model, sde, TimeSampling(density, eps, soft.weight))
    assert softened == pytest.approx(weighted, rel=5e-6)
    assert softened != pytest.approx(mean_path(model, sde, TimeSampling(density, eps)), rel=1e-3)  # not the plain loss
