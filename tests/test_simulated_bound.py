"""The bound of a diffusion that is simulated, and of processes with less noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.diffusion import SDE, VE, VP, CustomSDE, ElboLoss, SoftTruncation, TimeSampling, elbo, elbo_loss
from fastssm.nn import MLP
from tests import oracle, oracle_noise
from tests.covering import each
from tests.gaussian_diffusion import ENTROPY, MEAN, SDES, VARIANCE, Gaussian, terminal_divergence
from tests.refusals import assert_all_refused

B, D, M, STEPS, END = 5, 3, 2, 4, 2.0
BACKENDS = ("reference", "jets", "torch", *compiled.DEVICES)


class Process(nn.Module):
    """A drift and a diffusion with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor([0.4, 0.7, 0.3], dtype=torch.float64))
        self.noise = nn.Parameter(torch.tensor(0.6, dtype=torch.float64))

    def f(self, x: Tensor, t: Tensor) -> Tensor:
        return x.roll(1, 1).sin() - self.stiffness * x**3 * (1 + t[:, None])

    def g(self, t: Tensor) -> Tensor:
        return self.noise + 0.5 * t

    def sde(self) -> CustomSDE:
        return CustomSDE(self.f, self.g, end=END, steps=STEPS, prior=1.3)


def network(energy: bool, **options: Any) -> MLP:
    torch.manual_seed(2)
    return MLP(D, [8, 7], 1 if energy else D, "tanh", **options).double()


def batch() -> dict[str, Tensor]:
    """Return one call's tensors; the times are those of a step, between two, of neither end, and both ends."""
    torch.manual_seed(1)
    return {
        "x": torch.randn(B, D).double(),
        "noise": torch.randn(STEPS + 1, B, D).double(),
        "v": torch.randn(M, B, D).double(),
        "t": torch.tensor([0.0, 0.5, 0.83, 1.9, 2.0]).double(),
        "cond": torch.randn(B, 2).double(),
        "weight": torch.rand(B).double(),
    }


def one_path(
    process: Process, net: nn.Module, x: Tensor, t: float, z: Tensor, v: Sequence[Tensor], energy: bool, cond: Tensor,
    share: float, factor: float, reduced: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return prior and path of one sample, `share = 1 / q(t)`; everything on autograd's tape."""
    stops = sorted([*(END * k / STEPS for k in range(STEPS + 1)), t])
    y, state = x[None], x[None]
    for k in range(STEPS + 1):
        now, size = torch.tensor([stops[k]]).double(), stops[k + 1] - stops[k]
        y = y + process.f(y, now) * size + process.g(now) * math.sqrt(size) * z[k]
        state = y if stops[k + 1] <= t else state
    at = torch.tensor([t]).double()
    state = state if state.requires_grad else state.requires_grad_()
    s = oracle_noise.score(net, state, energy=energy, cond=[cond, at])
    drift = process.f(state, at)
    along = [sum((oracle.derivative((field * u).sum(), state) * u).sum() for u in v) / len(v) for field in (s, drift)]
    square = (s**2).sum() if reduced else sum((s * u).sum() ** 2 for u in v) / len(v)
    log_prior = -(y**2).sum() / (2 * 1.3**2) - D / 2 * math.log(2 * math.pi * 1.3**2)
    return log_prior + share * along[1], factor * share * process.g(at)[0] ** 2 * (along[0] + square / 2)


VARIANTS: dict[str, dict[str, Any]] = {
    "exact, mean": {"form": "exact"},
    "sliced, energy, none": {"energy": True, "reduction": "none", "variance_reduced": False},
    "sliced, sum, lam": {"reduction": "sum", "lam": 0.5},
    "exact, energy, times": {
        "form": "exact",
        "energy": True,
        "times": TimeSampling(t_min=0.4, weight=lambda t: 1 + t**2),
        "decoder": False,
    },
}


@pytest.mark.parametrize("backend", BACKENDS)
@each("variant", VARIANTS)
def test_the_bound_is_that_of_every_path(backend: str, variant: str) -> None:
    options = dict(VARIANTS[variant])
    energy, reduction = options.pop("energy", False), options.get("reduction", "mean")
    b, net, process = batch(), network(energy, cond_dim=2, fourier_time=True), Process()
    exact = options.get("form") == "exact"
    leaves = [b["x"].requires_grad_(), b["cond"].requires_grad_(), *net.parameters(), *process.parameters()]
    found, terms = elbo_loss(
        net, b["x"], sde=process.sde(), cond=b["cond"], t=b["t"], noise=b["noise"], v=None if exact else b["v"],
        weight=b["weight"], backend=backend, return_terms=True, **options,
    )  # fmt: skip
    times, lam = options.get("times", TimeSampling()), options.get("lam", 0.0)
    parts = []
    for k in range(B):
        v = torch.eye(D).double() * D**0.5 if exact else b["v"][:, k]
        t = float(b["t"][k])
        factor = (1 + lam**2 / (4 * (1 - lam))) * (1 + t**2 if times.weight else 1)
        parts.append(
            one_path(
                process, net, b["x"][k], t, b["noise"][:, k], v, energy, b["cond"][k : k + 1],
                END - (times.t_min or 0.0), factor, exact or options.get("variance_reduced", True),
            )
        )  # fmt: skip
    prior, path = (torch.stack([part.reshape(()) for part in column]) for column in zip(*parts, strict=True))
    expected = oracle.reduced(path - prior, b["weight"], reduction)
    found = oracle.contracted(found) if reduction == "none" else found
    grads = torch.autograd.grad(found, leaves)
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, leaves)], 1e-9)
    oracle.assert_close(list(terms), [prior, path, torch.zeros(B).double()], 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pass_is_the_formula(backend: str) -> None:
    """Where only the network is trained, the engine computes value and gradient at once."""
    b, net, process = batch(), network(False, cond_dim=1), Process().requires_grad_(False)
    given = {"sde": process.sde(), "t": b["t"], "noise": b["noise"], "v": b["v"], "backend": backend}
    found = elbo_loss(net, b["x"], **given)
    expected, _ = elbo_loss(net, b["x"], return_terms=True, **(given | {"backend": "reference"}))
    grads = torch.autograd.grad(found, list(net.parameters()))
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, net.parameters())], 1e-9)


@pytest.mark.parametrize("form", ["exact", "sliced"])
def test_a_simulated_vp_has_the_bound_of_vp(form: str) -> None:
    """Values and gradients in the network agree within the noise of many paths."""
    sde = VP(0.5, 3.0)
    custom = CustomSDE(sde.drift, sde.diffusion, steps=150)
    generator, count = torch.Generator().manual_seed(0), 30_000
    x = MEAN + VARIANCE**0.5 * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    t = (torch.rand(count, generator=generator, dtype=torch.float64) + torch.arange(count)) / count
    factor = torch.full((count,), 0.9, dtype=torch.float64, requires_grad=True)

    class Scaled(nn.Module):
        def forward(self, x: Tensor, told: Tensor) -> Tensor:
            return factor[:, None] * Gaussian(sde)(x, told)

    results = []
    for process in (sde, custom):
        each_loss = elbo_loss(
            Scaled(), x, sde=process, form=form, t=t, times=TimeSampling("uniform"), kind="score", reduction="none",
            generator=generator,
        )  # fmt: skip
        slope = torch.autograd.grad(each_loss.sum(), factor)[0]
        results.append([(float(r.mean()), float(r.std()) / count**0.5) for r in (each_loss.detach(), slope)])
    for (mean, error), (simulated, its_error) in zip(*results, strict=True):
        assert abs(mean - simulated) < 4 * math.hypot(error, its_error)
        assert its_error < 0.03


def test_the_bound_of_a_nonlinear_diffusion_at_rest() -> None:
    """`f = -x^3`, `g^2 = 2`, data and score those of `exp(-x^4 / 4)`: the bound is `E log N(x; 0, prior^2)`."""
    grid = np.linspace(-4, 4, 80_001)
    density = np.exp(-(grid**4) / 4)
    cdf = (density.cumsum() - density / 2) / density.sum()
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(20_000, generator=generator, dtype=torch.float64)
    x = torch.from_numpy(np.interp(u.numpy(), cdf, grid))[:, None]
    second = float((grid**2 * density).sum() / density.sum())
    expected = -second / (2 * 0.8**2) - 0.5 * math.log(2 * math.pi * 0.8**2)
    sde = CustomSDE(lambda x, t: -(x**3), lambda t: torch.full_like(t, 2.0**0.5), end=0.5, steps=60, prior=0.8)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -(x**3)

    found = elbo(score, x, sde=sde, n_times=4, kind="score", generator=generator)
    assert not found.requires_grad
    error = float(found.std()) / math.sqrt(len(x))
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.02


@pytest.mark.parametrize("form", ["exact", "denoising"])
@pytest.mark.parametrize("name", SDES)
def test_the_bound_of_less_noise_costs_what_the_data_say_of_the_state(name: str, form: str) -> None:
    """For the true score: `c - 1` times the mutual information of the data and their noisy states, both ends."""
    sde, lam = SDES[name], 0.8
    first = 0.05 if name in ("VP", "SubVP") else sde.start
    generator = torch.Generator().manual_seed(3)
    x = MEAN + VARIANCE**0.5 * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    times = TimeSampling(t_min=first)
    found = elbo(
        Gaussian(sde), x, sde=sde, times=times, form=form, lam=lam, n_times=8, kind="score", generator=generator
    )
    ends = torch.tensor([first, sde.end], dtype=torch.float64)
    signal = (sde.mean(ends) ** 2 * VARIANCE / sde.std(ends) ** 2).tolist()
    ratio = signal[0] / (1 + signal[0])
    decoding = 0.5 * (ratio - 1 - math.log(ratio))
    information = 0.5 * (math.log1p(signal[0]) - math.log1p(signal[1]))
    price = lam**2 / (4 * (1 - lam)) * information + decoding + terminal_divergence(sde)
    error = float(found.std()) / math.sqrt(len(x))
    assert float(found.mean()) == pytest.approx(ENTROPY - price, abs=4 * error)
    assert error < 0.05 * price


def test_pictures_dtypes_bits_and_the_generator() -> None:
    class Picture(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x * (1 + t.reshape(-1, *[1] * (x.ndim - 1)))

    sde = CustomSDE(lambda x, t: -x * (1 + x**2), torch.ones_like, steps=3)
    x = torch.randn(4, 1, 2, 2).double()
    nats, rows, bits = (
        elbo(Picture(), given, sde=sde, unit=unit, n_times=2, kind="score", generator=torch.Generator().manual_seed(5))
        for given, unit in ((x, "nats"), (x.flatten(1), "nats"), (x, "bits"))
    )
    torch.testing.assert_close(nats, rows)
    torch.testing.assert_close(bits, -nats / (4 * math.log(2.0)))
    assert float(elbo_loss(Picture(), x[:0], sde=sde, reduction="sum", kind="score").detach()) == 0.0
    half = elbo_loss(Picture(), x.bfloat16(), sde=sde, generator=torch.Generator().manual_seed(1))
    wide = elbo_loss(Picture(), x.bfloat16().float(), sde=sde, generator=torch.Generator().manual_seed(1))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, wide, rtol=0.05, atol=0.0)
    module = ElboLoss(Picture(), sde=sde, form="exact", times=TimeSampling(t_min=SoftTruncation()), decoder=False)
    assert module(x).isfinite()


class Own(SDE):
    """A diffusion that neither has a kernel nor can be simulated."""

    end, prior_std = 1.0, 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def perturb(self, x: Tensor, t: Tensor, noise: Any = None, generator: Any = None) -> Tensor:
        return x


CUSTOM = CustomSDE(lambda x, t: -x, torch.ones_like, steps=2)
CUT = CustomSDE(lambda x, t: -x.detach(), torch.ones_like, steps=2)


def bound(s: Any, sde: SDE = CUSTOM, **options: Any) -> Tensor:
    return elbo_loss(s.score, s.x, sde=sde, **options)


def evaluate(s: Any, sde: SDE = CUSTOM, **options: Any) -> Tensor:
    return elbo(s.score, s.x, sde=sde, **options)


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS: dict[str, Any] = {
    "the denoising form": (lambda s: bound(s, form="denoising"), ValueError, ("closed form", "CustomSDE", '"sliced"')),
    "a decoder": (
        lambda s: bound(s, times=TimeSampling(t_min=0.1)),
        ValueError,
        ("a decoder needs a kernel", "got the earliest time 0.1", "decoder=False"),
    ),
    "a decoder of soft truncation": (
        lambda s: bound(s, times=TimeSampling(t_min=SoftTruncation(eps=0.01))),
        ValueError,
        ("a decoder needs a kernel", "0.01", "decoder=False"),
    ),
    "noise of too few steps": (lambda s: bound(s, noise=s.paths[1:]), ValueError, ("(3, 5, 3)", "got (2, 5, 3)")),
    "noise of another shape": (lambda s: bound(s, noise=s.paths[:, 1:]), ValueError, ("of x, (5, 3)", "(4, 3)")),
    "noise of text": (lambda s: bound(s, noise="normal"), ValueError, ("must be a tensor (3, 5, 3)", "got str")),
    "a time after the end": (
        lambda s: bound(s, t=s.t + 0.5),
        ValueError,
        ("t must lie in [0, 1]", "first in row 2", "no further"),
    ),
    "a diffusion of one's own": (lambda s: bound(s, Own()), TypeError, ("CustomSDE(f, g)", "got Own", "flow_log_prob")),
    "a drift that autograd cannot see": (
        lambda s: bound(s, CUT, t=s.t, v=s.v, noise=s.paths),
        ValueError,
        ("f(x, t) must depend on x through autograd", "0 * x", ".detach()"),
    ),
    "noise of the network": (lambda s: bound(s, predicts="noise"), ValueError, ("CustomSDE", "predict the score")),
    "elbo from a later time": (
        lambda s: evaluate(s, times=TimeSampling(t_min=0.1)),
        ValueError,
        ("likelihood of data", "t_min=0.1", "leave it out"),
    ),
    "elbo: less noise without a kernel": (
        lambda s: evaluate(s, lam=0.5),
        ValueError,
        ("lam > 0 needs a kernel", "lam=0.5 and CustomSDE", "lam=0"),
    ),
    "elbo: less noise from the data on": (
        lambda s: evaluate(s, VP(), lam=0.5),
        ValueError,
        ("noise at the earliest time", "VP(", "t_min=1e-3"),
    ),
    "elbo: no noise": (lambda s: evaluate(s, VE(), lam=1.0), ValueError, ("0 <= lam < 1", "flow_log_prob")),
    "elbo: lam of text": (lambda s: evaluate(s, VE(), lam="0"), TypeError, ("lam must be a number", "str")),
}


def test_each_bad_input_raises_and_touches_nothing() -> None:
    torch.manual_seed(0)
    s = SimpleNamespace(
        score=MLP(D, [8], D, cond_dim=1),
        x=torch.randn(B, D),
        v=torch.randn(2, B, D),
        paths=torch.randn(3, B, D),
        t=torch.tensor([0.1, 0.4, 0.6, 0.7, 0.5]),
    )
    assert_all_refused(s, ROWS)
    with pytest.raises(ValueError, match="0 \\* x"):
        fastssm.diffusion.flow_log_prob(s.score, s.x, sde=CUT)
