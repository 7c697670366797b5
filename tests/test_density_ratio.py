"""Density ratios by time scores: against densities of the bridge differentiated in t, and ratios known on paper."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

import fastssm
from fastssm.nn import MLP
from tests import covering, oracle

B, D, SIGMA = 6, 3, 0.8


def problem(outputs: int) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(3)
    net = MLP(D, [6, 5], outputs, "silu", cond_dim=1, fourier_time=True).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    given = {
        "base": torch.randn(B, D, dtype=torch.float64),
        "noise": torch.randn(B, D, dtype=torch.float64),
        "t": torch.linspace(0.05, 0.9, B, dtype=torch.float64),
        "cond": torch.randn(B, 1, dtype=torch.float64),
    }
    return net, given


def bridged(given: dict[str, Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - t) * given["base"] + t * x, SIGMA * (t * (1 - t)).sqrt()


def written_out(net: nn.Module, x: Tensor, given: dict[str, Tensor], objective: str) -> Tensor:
    """Return the losses: the time score of the normal density between the ends, by differentiating it in t."""
    t = given["t"][:, None].clone().requires_grad_()
    mean, std = bridged(given, x, t)
    state = (mean + std * given["noise"]).detach()
    if objective == "implicit":
        u = net(state, given["cond"], t[:, 0]).sum(1)
        ends = [
            net(end, given["cond"], torch.full((B,), at).double()).sum(1)
            for at, end in ((0.0, given["base"]), (1.0, x))
        ]
        return u.square() / 2 + oracle.derivative(u, t)[:, 0] + ends[0] - ends[1]
    each = torch.distributions.Normal(mean, std).log_prob(state)
    known = torch.cat([oracle.derivative(each[:, i], t) for i in range(D)], 1).detach()
    u = net(state, given["cond"], given["t"])
    gap = u - (known if u.shape[1] == D else known.sum(1, keepdim=True))
    return (2 * given["t"] * (1 - given["t"])).square() * gap.square().sum(1) / 2


@covering.each("objective", ("conditional", "implicit"))
def test_value_and_gradients_are_those_of_plain_autograd(objective: str) -> None:
    x, weight = torch.randn(B, D, dtype=torch.float64), torch.linspace(0.5, 1.5, B, dtype=torch.float64)
    for outputs in (1, D):
        net, given = problem(outputs)
        other = copy.deepcopy(net)
        loss = fastssm.density_ratio_loss(net, x, sigma=SIGMA, objective=objective, weight=weight, **given)
        expected = (weight * written_out(other, x, given, objective)).mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        oracle.assert_close([loss, *grads], [expected, *oracle.gradients(expected, other.parameters())], 1e-10)


def marginal(t: Tensor, m: Tensor, s: Tensor, sigma: float) -> torch.distributions.Normal:
    """Return the densities of the bridge from N(0, 1) to N(m, s^2), coordinate by coordinate."""
    return torch.distributions.Normal(t * m, ((1 - t).square() + (t * s).square() + sigma**2 * t * (1 - t)).sqrt())


M, S = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([0.5, 2.0, 1.0]).double()


class Known(nn.Module):
    """The time score of that bridge, by differentiating its densities in t; times and plus a parameter each."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1).double()), nn.Parameter(torch.zeros(1).double())
        self.whole = whole

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            times = t[:, None].expand(x.shape)
            times = times if times.requires_grad else times.clone().requires_grad_()
            each = oracle.derivative(marginal(times, M, S, SIGMA).log_prob(x), times)
        found = self.scale * each + self.shift
        return found.sum(1) if self.whole else found


def test_the_integral_of_the_known_time_score_is_the_known_ratio() -> None:
    x = 2 * torch.randn(50, D, dtype=torch.float64)
    zero, one = (marginal(torch.tensor(t).double(), M, S, SIGMA).log_prob(x).sum(1) for t in (0.0, 1.0))
    for whole in (False, True):
        torch.testing.assert_close(fastssm.log_density_ratio(Known(whole), x, steps=48), one - zero)
    rough = fastssm.log_density_ratio(Known(), x, steps=2)
    assert (rough - (one - zero)).abs().max() > 1e-3


@covering.each("objective", ("conditional", "implicit"))
def test_the_known_time_score_is_the_minimum(objective: str) -> None:
    """The mean gradient there, over many samples, is zero within five errors; elsewhere it is not."""
    count, generator = 40_000, torch.Generator().manual_seed(2)
    base = torch.randn(count, D, generator=generator, dtype=torch.float64)
    x = M + S * torch.randn(count, D, generator=generator, dtype=torch.float64)
    for whole in (False, True):
        for scale, at_minimum in ((1.0, True), (1.3, False)):
            net = Known(whole)
            net.scale.data.fill_(scale)
            torch.manual_seed(4)
            found = []
            for part in range(0, count, 2000):
                rows = slice(part, part + 2000)
                loss = fastssm.density_ratio_loss(net, x[rows], base=base[rows], sigma=SIGMA, objective=objective)
                found.append(torch.cat(torch.autograd.grad(loss, [net.scale, net.shift])))
            slopes = torch.stack(found)
            errors = slopes.mean(0).abs() / (slopes.std(0) / math.sqrt(len(slopes)))
            assert bool((errors < 5).all()) == at_minimum, (whole, scale, errors)


def test_other_shapes_half_precision_the_twin_and_nan() -> None:
    net, given = problem(D)
    x = torch.randn(B, D, dtype=torch.float64)
    each = fastssm.density_ratio_loss(net, x, reduction="none", **given)
    module = fastssm.DensityRatioLoss(net, reduction="none")
    assert torch.equal(module(x, **given), each)

    def images(x: Tensor, c: Tensor, t: Tensor) -> Tensor:
        return net(x.flatten(1), c, t).view(x.shape)

    shaped = {name: t[:, None] if t.shape == x.shape else t for name, t in given.items()}
    assert torch.equal(fastssm.density_ratio_loss(images, x[:, None], reduction="none", **shaped), each)
    half = {name: t.bfloat16() for name, t in given.items()}
    found = fastssm.density_ratio_loss(copy.deepcopy(net).bfloat16(), x.bfloat16(), reduction="none", **half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), each, rtol=0.1, atol=0.1)
    broken = x.clone()
    broken[2] = math.nan
    for objective in ("conditional", "implicit"):
        loss = fastssm.density_ratio_loss(net, broken, reduction="none", objective=objective, **given)
        assert loss.isnan().tolist() == [row == 2 for row in range(B)]
    assert fastssm.density_ratio_loss(net, x[:0], reduction="sum", **{k: t[:0] for k, t in given.items()}) == 0.0
    ends = {"base": given["base"], "cond": given["cond"]}
    for t in (torch.zeros(B), torch.ones(B)):
        assert fastssm.density_ratio_loss(net, x, t=t.double(), **ends).isfinite()
    torch.manual_seed(1)
    first = fastssm.density_ratio_loss(net, x, objective="implicit", sigma=0.0, **ends)
    torch.manual_seed(1)
    assert torch.equal(fastssm.density_ratio_loss(net, x, objective="implicit", sigma=0.0, **ends), first)
