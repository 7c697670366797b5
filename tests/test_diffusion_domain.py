"""Samplers of diffusions on a domain: they never leave it, and reflected diffusions whose laws are known come out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssm.diffusion import VE, VP, euler_maruyama, predictor_corrector, probability_flow
from fastssm.domains import Ball, Box, Domain, Halfspaces, Positive, Simplex
from tests.covering import each

COUNT = 20_000
DOMAINS: dict[str, Domain] = {
    "positive": Positive(),
    "box": Box(torch.tensor([-0.5, 0.0]), torch.tensor([1.0, math.inf])),
    "ball": Ball(1.2),
    "simplex": Simplex(),
    "polyhedron": Halfspaces(torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, -3.0]]), torch.tensor([1.5, 0.7, 1.0])),
}
SAMPLERS: dict[str, Any] = {
    "sde": euler_maruyama,
    "between": lambda *a, **k: euler_maruyama(*a, lam=0.5, **k),
    "corrected": lambda *a, **k: predictor_corrector(*a, ratio=0.05, **k),
    "heun": lambda *a, generator, **k: probability_flow(*a, **k),
    "rk4": lambda *a, generator, **k: probability_flow(*a, solver="rk4", **k),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Wave(nn.Module):
    """The score of the density `1 + cos(pi x) / 2` on [0, 1] after reflected noise: a cosine decays alone."""

    def __init__(self, sde: VE) -> None:
        super().__init__()
        self.sde = sde

    def size(self, t: Tensor) -> Tensor:
        return 0.5 * (-0.5 * (math.pi * self.sde.std(t)).square()).exp()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        size = self.size(t)[:, None]
        return -math.pi * size * (math.pi * x).sin() / (1.0 + size * (math.pi * x).cos())


class Normal(nn.Module):
    """The score of a Gaussian with deviation 1, or of another that pushes outwards."""

    def __init__(self, mean: float = 0.0) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mean - x


@each("sampler", SAMPLERS)
def test_a_wave_between_two_walls_comes_back_from_uniform_noise(sampler: str) -> None:
    sde = VE(0.02, 3.0)  # whose first steps are wider than the box
    start = (torch.arange(COUNT, dtype=torch.float64)[:, None] + 0.5) / COUNT
    found = SAMPLERS[sampler](
        Wave(sde), start, sde=sde, steps=100, kind="score", denoise=False, domain=Box(0.0, 1.0), generator=generator()
    )
    assert ((found >= 0) & (found <= 1)).all()
    moments = torch.stack([(k * math.pi * found).cos().mean() for k in (1, 2, 3)])
    first = 0.5 * float(Wave(sde).size(torch.tensor(sde.start, dtype=torch.float64)))
    assert moments.tolist() == pytest.approx([first, 0.0, 0.0], abs=5 * math.sqrt(0.5 / COUNT) + 0.005)


def inside(domain: Domain, count: int) -> Tensor:
    """Draw a standard normal that lies in the domain, by rejection."""
    x = torch.randn(30 * count, 2, generator=generator(7), dtype=torch.float64)
    x = x[domain.contains(x)][:count]
    assert len(x) == count
    return x


@each("name", DOMAINS)
def test_a_reflected_walk_forgets_its_start_and_ends_in_the_truncated_normal(name: str) -> None:
    """Of VP, for which the normal law on any domain stays as it is."""
    domain, count = DOMAINS[name], 4000
    start = torch.full((count, 2), 0.1, dtype=torch.float64)
    found = euler_maruyama(
        Normal(), start, sde=VP(), steps=150, denoise=False, domain=domain, generator=generator(), kind="score"
    )
    assert domain.contains(found).all()
    expected = inside(domain, COUNT)
    spread = expected.std(0)
    assert ((found.mean(0) - expected.mean(0)).abs() < 0.06 * spread).all()
    torch.testing.assert_close(found.std(0), spread, rtol=0.06, atol=0.0)


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.covering(1)
def test_no_sample_leaves_the_domain(name: str, sampler: str, denoise: bool, dtype: torch.dtype) -> None:
    domain, net = DOMAINS[name], Normal(mean=3.0 if name != "positive" else -3.0)
    start = inside(domain, 400).to(dtype)
    start = start[domain.contains(start)]
    options = {"sde": VP(), "steps": 20, "denoise": denoise}
    found = SAMPLERS[sampler](net, start, domain=domain, generator=generator(1), **options)
    assert found.dtype == dtype
    assert domain.contains(found).all()
    assert (found != start).any(1).all()
    assert not domain.contains(SAMPLERS[sampler](net, start, generator=generator(1), **options)).all()


@each("sampler", SAMPLERS)
def test_means_outside_are_projected_and_not_mirrored(sampler: str) -> None:
    options = {"sde": VP(), "steps": 1, "t_min": 0.5, "kind": "score"}
    found = SAMPLERS[sampler](Normal(30.0), torch.rand(9, 2), domain=Box(0.0, 1.0), generator=None, **options)
    assert (found == 1.0).all()


def test_pictures_keep_their_shape() -> None:
    start = torch.rand(3, 1, 2, 2)
    net = lambda x, t: 5.0 - x  # noqa: E731
    for sampler in SAMPLERS.values():
        found = sampler(net, start, sde=VP(), steps=5, domain=Box(0.0, 1.0), kind="score", generator=generator())
        assert found.shape == start.shape
        assert ((found >= 0) & (found <= 1)).all()


@each("sampler", SAMPLERS)
def test_bad_domains_and_starts_are_refused(sampler: str) -> None:
    x, run = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), SAMPLERS[sampler]
    options = {"sde": VP(), "steps": 2, "generator": None}
    with pytest.raises(ValueError, match=r"x must start in the domain Positive, .* first in row 1; drop"):
        run(Normal(), x, domain=Positive(), **options)
    with pytest.raises(TypeError, match="domain must be a domain of"):
        run(Normal(), x, domain=(0.0, 1.0), **options)
    with pytest.raises(ValueError, match="points of 3 coordinate"):
        run(Normal(), x, domain=Box(torch.zeros(3), 1.0), **options)
    with pytest.raises(TypeError, match=r"domain= needs x in float32 or float64.* use x.float\(\)"):
        run(Normal(), x.abs().bfloat16(), domain=Positive(), **options)


def test_a_solver_without_steps_of_its_own_has_no_domain() -> None:
    with pytest.raises(ValueError, match=r'domain= needs solver="heun" or "rk4"'):
        probability_flow(Normal(), torch.ones(2, 2), sde=VP(), solver="torchdiffeq", domain=Positive())


def test_what_is_no_number_stays_visible() -> None:
    net = lambda x, t: x * math.nan  # noqa: E731
    for domain in (Positive(), Ball(2.0)):
        found = euler_maruyama(net, torch.ones(3, 2), sde=VP(), steps=2, domain=domain, kind="score")
        assert found.isnan().all()
