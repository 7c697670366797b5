"""The factors of the migration page: other codes' losses, written out from their equations, against ours."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import oracle_noise
import pytest
import torch
from oracle_diffusion import KERNELS
from torch import Tensor

import fastssm
from fastssm.diffusion import VP, elbo_loss
from fastssm.nn import MLP

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
        net, x, sde=VP(), form="denoising", times="uniform", t_min=EPS, decoder=False, t=t, noise=z,
        time_weight=weight, reduction="none", return_terms=True,
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
