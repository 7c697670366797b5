"""Sliced score matching along diffusions, and the twins of the diffusion losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssm.backends.entries import compiled
from fastssm.diffusion import (
    SDE,
    VE,
    VP,
    CustomSDE,
    ElboLoss,
    SlicedDiffusionLoss,
    TimeSampling,
    elbo_loss,
    sliced_diffusion_loss,
)
from fastssm.nn import MLP
from tests import oracle

B, D, M, STEPS = 6, 3, 2, 4
BACKENDS = ("reference", "torch", *compiled.DEVICES)
SDES: dict[str, SDE] = {
    "VP": VP(),
    "VE": VE(0.1, 5.0),
    "custom": CustomSDE(lambda x, t: x - x**3 * (1 + t[:, None]), lambda t: 0.5 + t, steps=STEPS, end=2.0),
}


def network(energy: bool, **options: Any) -> MLP:
    torch.manual_seed(2)
    return MLP(D, [8, 7], 1 if energy else D, "tanh", **options).double()


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(B, D).double(),
        "noise": torch.randn(B, D).double(),
        "steps": torch.randn(STEPS, B, D).double(),
        "v": torch.randn(M, B, D).double(),
        "t": torch.linspace(0.02, 0.9, B).double(),
        "cond": torch.randn(B, 2).double(),
        "weight": torch.rand(B).double(),
    }


def state(name: str, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the state written out anew."""
    t = t[:, None]
    if name == "VE":
        return x + 0.1 * 50.0**t * noise
    if name == "VP":
        integral = 0.1 * t + 9.95 * t**2
        return torch.exp(-integral / 2) * x + (1 - torch.exp(-integral)) ** 0.5 * noise
    for step in range(STEPS):
        now, size = t * step / STEPS, t / STEPS
        x = x + (x - x**3 * (1 + now)) * size + (0.5 + now) * size**0.5 * noise[step]
    return x


def square_of_noise(name: str, t: Tensor) -> Tensor:
    if name == "VE":
        return 2 * math.log(50.0) * (0.1 * 50.0**t) ** 2
    return 0.1 + 19.9 * t if name == "VP" else (0.5 + t) ** 2


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("energy", "loss", "reduction", "weighting"), [
    (False, "vr", "mean", "likelihood"),
    (True, "ssm", "none", "likelihood"),
    (True, "vr", "sum", lambda t: 1 + t**2),
])  # fmt: skip
def test_the_loss_is_the_formula(
    name: str, backend: str, energy: bool, loss: str, reduction: str, weighting: Any
) -> None:
    b, net = batch(), network(energy, cond_dim=2, fourier_time=True)
    leaves = [b["x"].requires_grad_(), b["cond"].requires_grad_(), *net.parameters()]
    noise = b["steps"] if name == "custom" else b["noise"]
    found, terms = sliced_diffusion_loss(
        net, b["x"], sde=SDES[name], weighting=weighting, cond=b["cond"], t=b["t"], noise=noise, v=b["v"],
        variance_reduced=loss == "vr", weight=b["weight"], reduction=reduction, backend=backend, return_terms=True,
    )  # fmt: skip
    each = oracle.losses(net, state(name, b["x"], b["t"], noise), b["v"], loss, energy=energy, cond=[b["cond"], b["t"]])
    loud = weighting(b["t"]) if callable(weighting) else square_of_noise(name, b["t"])
    expected = oracle.reduced(each * loud, b["weight"], reduction)
    found = oracle.contracted(found) if reduction == "none" else found
    grads = torch.autograd.grad(found, leaves)
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, leaves)], 1e-9)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, each.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pass_is_the_formula(backend: str) -> None:
    b, net = batch(), network(False, cond_dim=1)
    found = sliced_diffusion_loss(
        net, b["x"], sde=SDES["custom"], t=b["t"], noise=b["steps"], v=b["v"], weight=b["weight"], backend=backend
    )
    each = oracle.losses(net, state("custom", b["x"], b["t"], b["steps"]), b["v"], "vr", energy=False, cond=[b["t"]])
    expected = (each * square_of_noise("custom", b["t"]) * b["weight"]).mean()
    grads = torch.autograd.grad(found, list(net.parameters()))
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, net.parameters())], 1e-9)


def test_the_variance_as_the_weight() -> None:
    b, net = batch(), network(False, cond_dim=1)
    given = {"t": b["t"], "noise": b["noise"], "v": b["v"]}
    found = sliced_diffusion_loss(net, b["x"], sde=VP(), weighting="variance", **given)
    expected = sliced_diffusion_loss(net, b["x"], sde=VP(), weighting=lambda t: VP().std(t) ** 2, **given)
    torch.testing.assert_close(found, expected)


def test_likelihood_weighting_is_the_path_of_the_bound() -> None:
    b, net = batch(), network(False, cond_dim=1)
    given = {"sde": VP(), "t": b["t"], "noise": b["noise"], "v": b["v"], "return_terms": True, "reduction": "none"}
    found, _ = sliced_diffusion_loss(net, b["x"], **given)
    _, terms = elbo_loss(net, b["x"], times=TimeSampling("uniform"), **given)
    torch.testing.assert_close(found.detach(), terms.path)


class Line(nn.Module):
    """`s = -a(t) x` with one free number per bin of time."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(bins, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        index = (t * len(self.slope)).long().clamp(max=len(self.slope) - 1)
        return -self.slope[index][:, None] * x


def test_the_minimiser_is_the_score_of_the_marginals() -> None:
    """An Ornstein-Uhlenbeck process given as a custom drift: `a = 1 / var(t)`, solved for in each bin of time."""
    sde = CustomSDE(lambda x, t: -x, lambda t: torch.full_like(t, 2.0**0.5), steps=200)
    generator, net = torch.Generator().manual_seed(0), Line(4)
    x = 0.5 * torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(len(x), generator=generator, dtype=torch.float64)
    loss = sliced_diffusion_loss(
        net, x, sde=sde, t=t, weighting=torch.ones_like, generator=generator, backend="reference"
    )
    grad = torch.autograd.grad(loss, net.slope, create_graph=True)[0]
    curvature = torch.stack([torch.autograd.grad(g, net.slope, retain_graph=True)[0][i] for i, g in enumerate(grad)])
    found = (net.slope - grad / curvature).detach()  # quadratic in each slope
    var = 0.25 * (-2 * t).exp() + 1 - (-2 * t).exp()
    expected = torch.stack([1 / var[(t * 4).long() == k].mean() for k in range(4)])
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.0)


def test_randomness_comes_from_the_generator() -> None:
    b, net = batch(), network(False, cond_dim=1)
    for loss, sde in ((sliced_diffusion_loss, SDES["custom"]), (elbo_loss, SDES["VP"])):
        values = [loss(net, b["x"], sde=sde, generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8)]
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    b = {name: value.to(dtype) for name, value in batch().items()}
    net = network(False, cond_dim=1).to(dtype)
    wide = {name: value.float() for name, value in b.items()}
    for backend in BACKENDS:
        found, exact = (
            elbo_loss(model, given["x"], sde=VP(), t=wide["t"], noise=given["noise"], v=given["v"], backend=backend)
            for model, given in ((net, b), (network(False, cond_dim=1).to(dtype).float(), wide))
        )
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(exact), rel=0.05)


def test_twins() -> None:
    b, net = batch(), network(False, cond_dim=1)
    given = {"t": b["t"], "noise": b["noise"], "v": b["v"], "weight": b["weight"]}
    for twin, loss in ((ElboLoss, elbo_loss), (SlicedDiffusionLoss, sliced_diffusion_loss)):
        module = twin(net, sde=VP(), reduction="sum")
        torch.testing.assert_close(module(b["x"], **given), loss(net, b["x"], sde=VP(), reduction="sum", **given))
        assert "VP(beta_min=0.1" in repr(module)
        with pytest.raises(TypeError, match="needs sde"):
            twin(net)


@pytest.mark.parametrize("sde", [VP(), SDES["custom"]], ids=["VP", "custom"])
def test_an_empty_batch_and_pictures(sde: SDE) -> None:
    class Picture(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x * (1 + t.reshape(-1, 1, 1, 1))

    if isinstance(sde, CustomSDE):
        sde = CustomSDE(lambda x, t: -x, torch.ones_like, steps=3)
    x = torch.randn(4, 1, 2, 2)
    assert sliced_diffusion_loss(Picture(), x, sde=sde).isfinite()
    assert float(sliced_diffusion_loss(Picture(), x[:0], sde=sde, reduction="sum", kind="score")) == 0.0
    if isinstance(sde, VP):
        assert elbo_loss(Picture(), x, sde=sde).isfinite()
        assert float(elbo_loss(Picture(), x[:0], sde=sde, reduction="sum", kind="score")) == 0.0
