"""The factors of the migration page: other codes' losses, written out from their equations, against ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastssm
from fastssm.diffusion import VP, SoftTruncation, TimeSampling, elbo_loss
from fastssm.nn import MLP
from tests import oracle, oracle_noise
from tests.oracle_diffusion import KERNELS

B, D, EPS = 6, 3, 1e-2


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(2, B, D).double(), dim=2)
    return torch.randn(B, D).double(), torch.randn(B, D).double(), unit, torch.linspace(0.05, 0.95, B).double()


def network(out: int, **options: int) -> MLP:
    torch.manual_seed(1)
    return MLP(D, [8, 7], out, "tanh", **options).double()


@pytest.mark.parametrize("out", [1, D])
def test_directions_of_norm_one_divide_the_loss_by_the_dimension(out: int) -> None:
    """ermongroup's `sliced_score_matching` and `sliced_score_estimation`."""
    x, _, unit, _ = drawn()
    net = network(out)
    theirs = oracle.losses(net, x, unit, "ssm", energy=out == 1).mean()
    ours = fastssm.sliced_loss(net, x, v=unit * D**0.5, variance_reduced=False)
    torch.testing.assert_close(theirs, ours / D)


def test_the_weight_of_denoising() -> None:
    """ermongroup's `dsm`: `|sigma^2 s + sigma z|^2 / 2`."""
    x, z, _, _ = drawn()
    net, sigma = network(1), 0.7
    score = oracle_noise.score(net, x + sigma * z, energy=True)
    theirs = ((sigma**2 * score + sigma * z) ** 2).sum(1).mean() / 2
    torch.testing.assert_close(theirs, fastssm.denoising_loss(net, x, sigma=sigma, noise=z) * sigma**4)


def noised(net: MLP, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the network's score at `x_t`, and std and g as columns."""
    std, g = KERNELS["VP"].var(t).sqrt()[:, None], KERNELS["VP"].square(t).sqrt()[:, None]
    return net(KERNELS["VP"].mean(t)[:, None] * x + std * z, t), std, g


def ours(net: MLP, x: Tensor, z: Tensor, t: Tensor, weight: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    _, terms = elbo_loss(
        net, x, sde=VP(), form="denoising", times=TimeSampling("uniform", EPS, weight), decoder=False, t=t, noise=z,
        reduction="none", return_terms=True,
    )  # fmt: skip
    return terms.path


@pytest.mark.parametrize("likelihood_weighting", [True, False])
def test_score_sde_is_the_path_up_to_a_constant(likelihood_weighting: bool) -> None:
    """`get_sde_loss_fn` with `reduce_mean=False`, of which the part without the network is taken off here."""
    x, z, _, t = drawn()
    net = network(D, cond_dim=1)
    score, std, g = noised(net, x, z, t)
    if likelihood_weighting:
        theirs = 0.5 * ((score + z / std) ** 2 - (z / std) ** 2).sum(1) * g[:, 0] ** 2
        found = ours(net, x, z, t)
    else:
        theirs = 0.5 * ((score * std + z) ** 2 - z**2).sum(1)
        found = ours(net, x, z, t, lambda t: (VP().std(t) / VP().diffusion(t)) ** 2)
    torch.testing.assert_close(found, (1.0 - EPS) * theirs.detach())


def test_sdeflow_is_the_path_up_to_a_constant() -> None:
    """`PluginReverseSDE.dsm`, whose drift is `a = g s`: `|a std / g + z|^2 / 2`."""
    x, z, _, t = drawn()
    net = network(D, cond_dim=1)
    score, std, g = noised(net, x, z, t)
    a = g * score
    theirs = 0.5 * ((a * std / g + z) ** 2 - z**2).sum(1)
    found = ours(net, x, z, t, lambda t: (VP().std(t) / VP().diffusion(t)) ** 2)
    torch.testing.assert_close(found, (1.0 - EPS) * theirs.detach())


def test_finite_differences_of_an_energy() -> None:
    """FD-ScoreMatching's `efficient_score_matching_conjugate`, of directions of norm eps."""
    x, _, unit, _ = drawn()
    net, eps = network(1), 1e-3
    ahead, behind = net(x + eps * unit[0]), net(x - eps * unit[0])
    theirs = D / eps**2 * ((ahead - behind) ** 2 / 8 + 2 * net(x) - ahead - behind).mean()
    found = fastssm.finite_difference_loss(net, x, v=unit[:1] * D**0.5, step=eps / D**0.5)
    torch.testing.assert_close(theirs, found)


def test_finite_differences_of_a_score() -> None:
    """`esm_scorenet_VR`."""
    x, _, unit, _ = drawn()
    net, eps = network(D), 1e-3
    ahead, behind = net(x + eps * unit[0]), net(x - eps * unit[0])
    square, slope = ((ahead + behind) ** 2).sum(1) / 8, ((ahead - behind) * eps * unit[0]).sum(1)
    theirs = (square + slope * D / (2 * eps**2)).mean()
    found = fastssm.finite_difference_loss(net, x, v=unit[:1] * D**0.5, step=eps / D**0.5)
    torch.testing.assert_close(theirs, found)


def test_denoising_by_finite_differences() -> None:
    """`dsm_fd`, whose directions have norm eps sqrt(D)."""
    x, z, unit, _ = drawn()
    net, sigma, eps = network(1), 0.7, 1e-3
    along = eps * D**0.5 * unit[0]
    slope = sigma**2 * (net(x + sigma * z - along) - net(x + sigma * z + along))[:, 0] / 2
    theirs = ((slope + (sigma * z * along).sum(1)) ** 2).mean() / (2 * eps**2)
    options = {"sigma": sigma, "noise": z, "v": unit[:1] * D**0.5, "step": eps}
    found = fastssm.finite_difference_denoising_loss(net, x, **options)
    torch.testing.assert_close(theirs, found * sigma**4)


@pytest.mark.parametrize("k", [0.5, 1.0, 1.2, 2.0])
def test_soft_truncation_draws_the_same_times(k: float) -> None:
    """Soft-Truncation's `get_t_min`, of a uniform number."""
    u = torch.linspace(0, 0.999, 20).double()
    theirs = EPS ** (1 - u) if k == 1.0 else EPS / (1 - u * (1 - EPS ** (k - 1))) ** (1 / (k - 1))
    torch.testing.assert_close(SoftTruncation(k, eps=EPS).quantile(u), theirs)


def test_soft_truncation_by_importance_is_half_the_path() -> None:
    """`get_sde_loss_fn` with `importance_sampling=True`; the part without the network is taken off here."""
    x, z, _, t = drawn()
    net = network(D, cond_dim=1)
    score, std, _ = noised(net, x, z, t)

    def antiderivative(t: Tensor) -> Tensor:
        integral = 0.5 * t**2 * (20 - 0.1) + t * 0.1
        return torch.log(1 - torch.exp(-integral)) + integral

    mass = antiderivative(torch.tensor(1.0).double()) - antiderivative(torch.tensor(EPS).double())
    theirs = 0.5 * mass * 0.5 * ((score * std + z) ** 2 - z**2).sum(1)
    _, terms = elbo_loss(
        net, x, sde=VP(), form="denoising", times=TimeSampling(t_min=EPS), decoder=False, t=t, noise=z,
        reduction="none", return_terms=True,
    )  # fmt: skip
    torch.testing.assert_close(terms.path, 2 * theirs.detach())
