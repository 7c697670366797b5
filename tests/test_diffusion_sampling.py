"""Samplers and flows of diffusions against Gaussian data, whose scores and flows are known."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssm.diffusion import (
    VE,
    VP,
    CustomSDE,
    LinearSDE,
    ReciprocalVE,
    SubVP,
    euler_maruyama,
    flow_log_prob,
    predictor_corrector,
    probability_flow,
)

MEAN, STD = torch.tensor([[1.5, -0.5], [0.6, 0.3]], dtype=torch.float64)
SDES: dict[str, LinearSDE] = {
    "VP": VP(),
    "SubVP": SubVP(),
    "VE": VE(0.02, 20.0),
    "ReciprocalVE": ReciprocalVE(0.02, 20.0, eta=0.01, eps=0.01),
}
SAMPLERS: dict[str, Any] = {
    "sde": euler_maruyama,
    "between": lambda *a, **k: euler_maruyama(*a, lam=0.5, **k),
    "ode": lambda *a, **k: euler_maruyama(*a, lam=1.0, **k),
    "corrected": lambda *a, **k: predictor_corrector(*a, ratio=0.1, **k),
    "flow": lambda *a, generator, **k: probability_flow(*a, **k),
}


class Gaussian(nn.Module):
    """The score of `N(MEAN, STD^2)` data along a diffusion; the score, the noise or the energy that has it."""

    def __init__(self, sde: LinearSDE, output: str = "score") -> None:
        super().__init__()
        self.sde, self.output = sde, output

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        t = told
        if isinstance(self.sde, ReciprocalVE):  # told log std, or below the knee a line in 1 / std
            t = self.sde.time_of(2 * told[:1]).expand_as(told)
        mean, std = self.sde.mean(t)[:, None], self.sde.std(t)[:, None]
        var = (mean * STD.to(x)).square() + std.square()
        if self.output == "energy":
            return ((x - mean * MEAN.to(x)).square() / (2 * var)).sum(1)
        score = -(x - mean * MEAN.to(x)) / var
        return score if self.output == "score" else -std * score


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_recover_a_gaussian(name: str, sampler: str) -> None:
    sde, generator, count = SDES[name], torch.Generator().manual_seed(0), 20_000
    start = sde.prior_sample((count, 2), dtype=torch.float64, generator=generator)
    found = SAMPLERS[sampler](Gaussian(sde), start, sde=sde, steps=150, generator=generator)
    assert found.shape == start.shape
    far = float(sde.std(torch.tensor(sde.end))) if name in ("VE", "ReciprocalVE") else 0.0
    bias = 0.02 + 2.0 * float(MEAN.norm()) * (0.6 / far if far else 0.0)  # the prior is centred at 0
    torch.testing.assert_close(found.mean(0), MEAN, rtol=0.0, atol=bias)
    coarse = 0.12 if sampler == "ode" else 0.06  # Euler's steps, without noise to forget them
    torch.testing.assert_close(found.std(0), STD, rtol=coarse, atol=0.0)
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 0.05


@pytest.mark.parametrize("output", ["noise", "energy"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_and_energies_give_the_same_samples(output: str, sampler: str) -> None:
    sde = VP()
    start = sde.prior_sample((50, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"noise": {"predicts": "noise"}, "energy": {"kind": "energy"}, "score": {}}
    found, expected = (
        SAMPLERS[sampler](Gaussian(sde, kind), start, sde=sde, steps=12, generator=torch.Generator().manual_seed(2),
                          **options[kind])
        for kind in (output, "score")
    )  # fmt: skip
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("rk4", 4)])
def test_the_flow_is_exact_to_the_order_of_its_solver(solver: str, order: int) -> None:
    """A Gaussian's flow keeps `(x - mean) / std`."""
    sde, t_min = VP(), 1e-3
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def law(t: float) -> tuple[Tensor, Tensor]:
        time = torch.tensor(t, dtype=torch.float64)
        return sde.mean(time) * MEAN, (sde.mean(time).square() * STD.square() + sde.std(time).square()).sqrt()

    (near, near_std), (far, far_std) = law(t_min), law(1.0)
    expected = near + near_std * (x - far) / far_std
    errors = []
    for steps in (40, 80):
        found = probability_flow(Gaussian(sde), x, sde=sde, solver=solver, steps=steps, denoise=False)
        errors.append(float((found - expected).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.6)
    denoised = probability_flow(Gaussian(sde), x, sde=sde, solver=solver, steps=80)
    score = -(found - near) / near_std.square()
    time = torch.tensor(t_min, dtype=torch.float64)
    torch.testing.assert_close(denoised, (found + sde.std(time).square() * score) / sde.mean(time))


@pytest.mark.parametrize(
    ("name", "trace"), [*((name, "exact") for name in SDES), *((name, "sliced") for name in ("VP", "VE"))]
)
def test_the_density_of_the_flow(name: str, trace: str) -> None:
    """For a diagonal Jacobian Rademacher directions are exact too."""
    sde = SDES[name]
    first = sde.start if sde.start_std > 0 else 1e-3
    near, far = (torch.tensor(t, dtype=torch.float64) for t in (first, sde.end))

    def std(t: Tensor) -> Tensor:
        return (sde.mean(t).square() * STD.square() + sde.std(t).square()).sqrt()

    x = MEAN + 2.0 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = sde.mean(far) * MEAN + std(far) * (x - sde.mean(near) * MEAN) / std(near)
    expected = sde.prior_log_prob(end) + (std(far) / std(near)).log().sum()
    found = flow_log_prob(Gaussian(sde), x, sde=sde, solver="rk4", steps=80, trace=trace)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bits_per_dimension() -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    nats, bits = (flow_log_prob(Gaussian(VP()), x, sde=VP(), steps=5, unit=unit) for unit in ("nats", "bits"))
    torch.testing.assert_close(bits, -nats / (2 * math.log(2.0)))


def test_a_custom_drift_flows_like_the_closed_form() -> None:
    """The same equations without a kernel: the drift's divergence comes from autograd, the times are even."""
    sde = VP(0.5, 3.0)
    custom = CustomSDE(sde.drift, sde.diffusion)
    x = MEAN + torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options: dict[str, Any] = {"solver": "rk4", "steps": 200, "t_min": 1e-3}
    torch.testing.assert_close(
        flow_log_prob(Gaussian(sde), x, sde=custom, **options),
        flow_log_prob(Gaussian(sde), x, sde=sde, **options),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    samples, same = (probability_flow(Gaussian(sde), x, sde=which, denoise=False, **options) for which in (custom, sde))
    torch.testing.assert_close(samples, same, rtol=1e-6, atol=1e-6)


def test_samplers_leave_their_start_and_its_dtype_alone() -> None:
    start = torch.randn(5, 2)
    before = start.clone()
    for sampler in SAMPLERS.values():
        found = sampler(Gaussian(VP()), start, sde=VP(), steps=3, generator=torch.Generator().manual_seed(0))
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert torch.equal(start, before)


def test_without_torchdiffeq_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"pip install torchdiffeq.*heun"):
        probability_flow(Gaussian(VP()), torch.randn(2, 2), sde=VP(), solver="torchdiffeq")


def test_torchdiffeq() -> None:
    pytest.importorskip("torchdiffeq")
    x = torch.randn(4, 2, dtype=torch.float64)
    options = {"rtol": 1e-9, "atol": 1e-9}
    found = probability_flow(Gaussian(VP()), x, sde=VP(), solver="torchdiffeq", solver_options=options)
    expected = probability_flow(Gaussian(VP()), x, sde=VP(), solver="rk4", steps=400)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    likely = flow_log_prob(Gaussian(VP()), x, sde=VP(), solver="torchdiffeq", solver_options=options)
    torch.testing.assert_close(
        likely, flow_log_prob(Gaussian(VP()), x, sde=VP(), solver="rk4", steps=400), rtol=1e-6, atol=1e-6
    )
