"""The core of each recipe in examples/ against closed forms, and the page that shows them."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor, nn

from tests.covering import each

ROOT = Path(__file__).parents[1]
NAMES = (
    "causal_order",
    "edm_denoiser",
    "flow_matching",
    "poisson",
    "simulation_inference",
    "variational_monte_carlo",
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Formula(nn.Module):
    """A function as a module."""

    def __init__(self, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.formula(*arguments)


@each("name", NAMES)
def test_the_page_shows_each_recipe_with_its_output_and_figure(name: str) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert f"`examples/{name}.py`" in page
    assert f"<!-- table: examples | {name} -->" in page
    assert f"](figures/{name}.png)" in page
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120


@pytest.mark.parametrize("package", ["torchdiffeq", None])
def test_the_density_of_a_linear_flow_is_normal(package: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dx/dt = a t x` makes `N(0, exp(a) I)` of `N(0, I)`."""
    if package is None:
        monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    else:
        pytest.importorskip(package)
    field = Formula(lambda x, t: 0.7 * t.reshape(-1, 1) * x)
    x = torch.linspace(-2, 2, 10).reshape(5, 2)
    exact = -0.5 * x.square().sum(1) / math.exp(0.7) - math.log(2 * math.pi) - 0.7
    torch.testing.assert_close(load("flow_matching").log_prob(field, x), exact, rtol=1e-3, atol=1e-3)


def test_the_order_of_a_chain_is_found() -> None:
    recipe = load("causal_order")
    chain = torch.zeros(3, 3)
    chain[2, 0] = chain[0, 1] = 1.0
    assert recipe.against(chain, [2, 0, 1]) == 0
    assert recipe.against(chain, [1, 0, 2]) == 2
    order, seen = recipe.ordered(recipe.sample(chain, 1000, Generator().manual_seed(1)), 300)
    assert order == [2, 0, 1]
    assert [sorted(found) for found in seen] == [[0, 1, 2], [0, 2]]

    edges = recipe.graph(Generator().manual_seed(0))
    assert not torch.linalg.matrix_power(edges, len(edges)).any()  # no cycle


GROUND_STATES = {
    "two particles": lambda x: -0.5 * x.square().sum(1),
    "hydrogen": lambda x: -x.norm(dim=1),
    "two electrons": lambda x: (1 + 0.5 * (x[:, :3] - x[:, 3:]).norm(dim=1)).log() - 0.25 * x.square().sum(1),
}


@each("name", GROUND_STATES)
def test_the_local_energy_of_the_ground_state_is_constant(name: str) -> None:
    recipe = load("variational_monte_carlo")
    system = recipe.SYSTEMS[name]
    x = torch.randn(20, system.dim, dtype=torch.float64, generator=Generator().manual_seed(0))
    energy = recipe.local_energy(Formula(GROUND_STATES[name]), x, system.potential)
    torch.testing.assert_close(energy, torch.full_like(energy, system.exact))


def test_the_exact_solution_has_no_residual() -> None:
    recipe = load("poisson")
    x = torch.rand(30, 2, dtype=torch.float64, generator=Generator().manual_seed(0))
    waves = [lambda x, k=k: (math.pi * k * x[:, :1]).sin() * (math.pi * x[:, 1:]).sin() for k in (1, 2)]
    exact = Formula(lambda x: torch.cat([wave(x) for wave in waves], 1))
    assert float(recipe.residual_loss(exact, x, 2)) < 1e-20
    assert max(recipe.errors(exact, x, 2)) < 1e-14
    swapped = Formula(lambda x: exact(x).flip(1))
    assert float(recipe.residual_loss(swapped, x, 2)) > 1.0
    sides = recipe.boundary(200)
    assert bool(((sides == 0) | (sides == 1)).any(1).all())
    torch.manual_seed(0)
    torch.testing.assert_close(recipe.Hard(2)(sides), torch.zeros(200, 2))


def test_the_exact_denoiser_gives_the_exact_density() -> None:
    recipe = load("edm_denoiser")
    centres = recipe.mixture().component_distribution.base_dist.loc

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean of the clean data, by Bayes' rule."""
        variance = recipe.WIDTH**2 + sigma[:, None].square()
        share = torch.softmax(-0.5 * (x[:, None] - centres).square().sum(2) / variance, 1)
        mean = share @ centres
        return mean + recipe.WIDTH**2 / variance * (x - mean)

    denoiser = Formula(denoised)
    assert recipe.score_error(denoiser, 0.2) < 1e-8
    torch.manual_seed(0)
    x = recipe.mixture(recipe.SDE.sigma_min).sample((20,))
    options = {"sde": recipe.SDE, "predicts": "noise", "kind": "score", "steps": 100, "solver": "rk4"}
    found = recipe.flow_log_prob(recipe.Noise(denoiser), x, **options)
    torch.testing.assert_close(found, recipe.mixture(recipe.SDE.sigma_min).log_prob(x), rtol=0.0, atol=0.01)


def test_the_posterior_of_the_exact_score_is_that_of_the_joint_normal_density() -> None:
    recipe = load("simulation_inference")
    a, x = recipe.MATRIX, torch.tensor([0.5, -1.0, 2.0])
    gain = a.mT @ torch.linalg.inv(a @ a.mT + recipe.DEVIATION**2 * torch.eye(3))
    torch.testing.assert_close(recipe.COVARIANCE, torch.eye(2) - gain @ a)
    torch.testing.assert_close(recipe.posterior_mean(x), gain @ x)

    score = Formula(lambda theta, x: (x - theta @ a.mT) @ a / recipe.DEVIATION**2 - theta)  # likelihood and prior
    samples = recipe.posterior(score, x, 2000, 1000, Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), gain @ x, rtol=0.0, atol=0.05)
    torch.testing.assert_close(torch.cov(samples.mT), recipe.COVARIANCE, rtol=0.0, atol=0.03)
