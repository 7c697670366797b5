"""Finite-difference losses: the printed formulas, their error against the exact loss, and what they refuse."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.losses.finite_difference import STEPS
from fastssm.nn import MLP
from tests import oracle, oracle_noise

B, D, M = 6, 3, 2


def problem(energy: bool, cond: bool = True) -> tuple[MLP, Tensor, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    net = MLP(D, [8, 7], 1 if energy else D, "silu", cond_dim=2 * cond).double()
    x, v = torch.randn(B, D, dtype=torch.float64), torch.randn(M, B, D, dtype=torch.float64)
    return net, x, v, [torch.randn(B, 2, dtype=torch.float64)] if cond else []


def assert_same(found: Tensor, expected: Tensor, leaves: list[Tensor], rtol: float = 1e-10) -> None:
    grads = (oracle.gradients(oracle.contracted(value), leaves) for value in (found, expected))
    oracle.assert_close([found, *next(grads)], [expected, *next(grads)], rtol)


@pytest.mark.parametrize("form", ["energy", "score", "score, no reduction"])
@pytest.mark.parametrize("step", [None, 0.1])
def test_the_printed_formula(form: str, step: float | None) -> None:
    energy = form == "energy"
    net, x, v, cond = problem(energy)
    leaves = [x.requires_grad_(), cond[0].requires_grad_(), *net.parameters()]
    reduced = {"energy": None, "score": True, "score, no reduction": False}[form]
    options = {"cond": cond[0], "v": v, "step": step, "reduction": "none", "variance_reduced": reduced}
    found = fastssm.finite_difference_loss(net, x, **options)
    size = 1e-4 if step is None else step
    if energy:
        expected = oracle_noise.fd_ssm(net, x, v, size, cond=cond)
    else:
        expected = oracle_noise.fd_ssm_score(net, x, v, size, reduced=bool(reduced), cond=cond)
    assert_same(found, expected, leaves, 1e-10 if step else 1e-6)  # at 1e-4 a curvature is rounded at 1e-8
    loss, terms = fastssm.finite_difference_loss(net, x, **options, return_terms=True)
    assert torch.equal(terms.projected_jacobian + terms.square, loss)


@pytest.mark.parametrize("step", [None, 0.1])
def test_the_printed_formula_of_denoising(step: float | None) -> None:
    net, x, v, cond = problem(True)
    z = torch.randn_like(x)
    leaves = [x.requires_grad_(), cond[0].requires_grad_(), *net.parameters()]
    found = fastssm.finite_difference_denoising_loss(
        net, x, sigma=0.3, cond=cond[0], noise=z, v=v, step=step, reduction="none"
    )
    assert_same(found, oracle_noise.fd_denoising(net, x, z, v, 0.3, step or 1e-4, cond=cond), leaves, 1e-9)


def errors(kind: str, steps: list[float]) -> list[float]:
    """Return the error of the loss's gradient against the exact one, for each step."""
    net, x, v, _ = problem(kind != "score", cond=False)
    parameters, z = list(net.parameters()), torch.randn_like(x)
    if kind == "denoising":
        s = oracle_noise.score(net, x + 0.3 * z, energy=True)
        exact = ((v * (s + z / 0.3)).sum(2) ** 2 / 2).mean()
    else:
        exact = oracle.losses(net, x, v, "ssm" if kind == "energy" else "vr", energy=kind == "energy").mean()
    wanted = torch.cat([g.flatten() for g in oracle.gradients(exact, parameters)])
    found = []
    for step in steps:
        if kind == "denoising":
            loss = fastssm.finite_difference_denoising_loss(net, x, sigma=0.3, noise=z, v=v, step=step)
        else:
            loss = fastssm.finite_difference_loss(net, x, v=v, step=step)
        grads = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        found.append(float((grads - wanted).norm() / wanted.norm()))
    return found


@pytest.mark.parametrize("kind", ["energy", "score", "denoising"])
def test_the_error_is_of_second_order(kind: str) -> None:
    coarse, fine, default = errors(kind, [2e-2, 1e-2, STEPS[torch.float64]])
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.05)
    assert default < 1e-6


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_the_default_step_of_float32_is_near_the_exact_loss(kind: str) -> None:
    net, x, v, _ = problem(kind == "energy", cond=False)
    net, x, v = net.float(), x.float(), v.float()
    exact = fastssm.sliced_loss(net, x, v=v, variance_reduced=kind == "score")
    found = fastssm.finite_difference_loss(net, x, v=v)
    assert found.dtype == torch.float32
    assert 0 < abs(float(found - exact)) < 1e-2 * abs(float(exact))


def test_quadratic_energies_have_no_error() -> None:
    """`E = x^T A x / 2`: differences of a quadratic are exact, whatever the step."""
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ((x @ a) * x).sum(1) / 2

    x, v = torch.randn(5, 2, dtype=torch.float64), torch.randn(3, 5, 2, dtype=torch.float64)
    curvature = torch.einsum("mbi,ij,mbj->mb", v, a, v)
    slope = torch.einsum("mbi,ij,bj->mb", v, a, x)
    found = fastssm.finite_difference_loss(Quadratic(), x, v=v, step=0.7, reduction="none")
    torch.testing.assert_close(found, (slope.square() / 2 - curvature).mean(0))
    z = torch.randn_like(x)
    found = fastssm.finite_difference_denoising_loss(Quadratic(), x, sigma=0.5, noise=z, v=v, step=0.7)
    mismatch = (v * (2 * z - (x + 0.5 * z) @ a)).sum(2)
    torch.testing.assert_close(found, (mismatch.square() / 2).mean())


@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere"])
def test_directions_of_unit_covariance_are_unbiased(projection: str) -> None:
    """With `E[v v^T] = I` the mean over directions is the exact loss: with unit vectors it would be 1/D of it."""
    net, x, _, _ = problem(True, cond=False)
    many, generator = x[:1].expand(40_000, D), torch.Generator().manual_seed(0)
    with torch.no_grad():
        exact = fastssm.exact_loss(net, x[:1])
        each = fastssm.finite_difference_loss(net, many, projection=projection, generator=generator, reduction="none")
        assert abs(float(each.mean() - exact)) < 5 * float(each.std()) / 200 + 1e-7
        z = torch.randn(1, D, dtype=torch.float64)
        exact = fastssm.denoising_loss(net, x[:1], sigma=0.3, noise=z)
        each = fastssm.finite_difference_denoising_loss(
            net, many, sigma=0.3, noise=z.expand_as(many), projection=projection, generator=generator, reduction="none"
        )
        assert abs(float(each.mean() - exact)) < 5 * float(each.std()) / 200 + 1e-7


def test_the_scale_of_the_authors_code() -> None:
    """Theirs: directions of norm one, and D in front."""
    net, x, v, _ = problem(True, cond=False)
    unit, eps = v / v.norm(dim=2, keepdim=True), 0.1
    theirs = D * oracle_noise.fd_ssm(net, x, unit, eps).mean()
    ours = fastssm.finite_difference_loss(net, x, v=math.sqrt(D) * unit, step=eps / math.sqrt(D))
    torch.testing.assert_close(ours, theirs)


class Counted(nn.Module):
    """Counts its calls; takes pictures, and is no network that the engine knows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.layer = 0, nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.layer(x)).flatten(1).sum(1) + shift


def test_any_module_in_one_forward_pass() -> None:
    net, x = Counted().double(), torch.randn(4, 1, 5, 5, dtype=torch.float64)
    shift, v = torch.randn(4, dtype=torch.float64), torch.randn(2, 4, 1, 5, 5, dtype=torch.float64)
    found = fastssm.finite_difference_loss(net, x, v=v, cond=shift)
    assert net.calls == 1
    exact = fastssm.sliced_loss(net, x, v=v, cond=shift, variance_reduced=False)
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "phrase"), [(nn.BatchNorm1d(8), "mixes the samples"), (nn.Dropout(0.5), "another mask")]
)
def test_layers_that_differ_between_points_are_warned_of(layer: nn.Module, phrase: str) -> None:
    net = nn.Sequential(nn.Linear(D, 8), layer, nn.Tanh(), nn.Linear(8, 1))
    for loss in (fastssm.finite_difference_loss, fastssm.finite_difference_denoising_loss):
        options = {"sigma": 0.1} if loss is fastssm.finite_difference_denoising_loss else {}
        with pytest.warns(fastssm.FastSSMWarning, match=phrase):
            loss(net.train(), torch.randn(B, D), **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss(net.eval(), torch.randn(B, D), **options)


def test_an_empty_batch_is_legal_for_sum() -> None:
    net, x, _, _ = problem(True, cond=False)
    assert fastssm.finite_difference_loss(net, x[:0], reduction="sum") == 0
    assert fastssm.finite_difference_denoising_loss(net, x[:0], sigma=0.1, reduction="sum") == 0
