"""Forwards that cannot be recognised faithfully: each refusal names the function, the module and the remedy."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastssm
from fastssm import Refusal, UnsupportedError, recognize
from tests import oracle
from tests.own_forwards import B, D, Own, layers, net, normed

GLOBAL = torch.ones(D)


class Cube(torch.autograd.Function):
    """A function whose derivative autograd's tape does not show."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return 3.0 * g


class Straight(torch.autograd.Function):
    """Rounds weights, and passes gradients straight through."""

    @staticmethod
    def forward(ctx: object, w: Tensor) -> Tensor:
        return torch.round(4 * w) / 4

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.tanh(x)


def counts(self: Own, x: Tensor) -> Tensor:
    self.calls += 1
    return self.net(x)


def statistics(self: Own, x: Tensor) -> Tensor:
    self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
    return self.net(x - self.mean)


def detached(self: Own, x: Tensor) -> Tensor:
    h = self.fc0(x)
    with torch.no_grad():
        gate = torch.sigmoid(h)
    return self.fc1(h * gate)


def overwritten(self: Own, x: Tensor) -> Tensor:
    h = self.fc0(x).clone()
    h[:, 0] = 0.0
    return self.fc1(torch.tanh(h))


def through_a_view(self: Own, x: Tensor) -> Tensor:
    h = self.fc0(x).clone()
    h.view(-1).mul_(2.0)
    return self.fc1(torch.tanh(h))


def hooked(self: Own, x: Tensor) -> Tensor:
    h = self.fc0(x)
    h.register_hook(lambda g: 2.0 * g)
    return self.fc1(torch.tanh(h))


def of(forward: Callable[..., Tensor], *widths: int, **parts: object) -> Callable[[], nn.Module]:
    return lambda: Own(forward, **layers(*widths), **{k: p() if callable(p) else p for k, p in parts.items()})


def wrapped(**options: object) -> nn.Module:
    return Own(lambda s, x: s.net(x), net=net(), **options)


def parametrized_twice() -> nn.Module:
    inner = parametrizations.spectral_norm(nn.Linear(D, D))
    return Own(lambda s, x: s.fc0(s.inner(torch.tanh(s.inner(x)))), inner=inner, **layers(D, 1))


def child_hooked() -> nn.Module:
    model = wrapped()
    model.net[0].register_forward_hook(lambda *_: None)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a number read": (of(lambda s, x: s.fc0(x) * x.abs().max().item(), D, 1), r"Own: .* reads a number .* \(item\)"),
    "a branch on data": (of(lambda s, x: s.fc0(x) if x.sum() > 0 else -s.fc0(x), D, 1), r"__bool__.*control flow"),
    "a branch on a weight": (of(lambda s, x: s.fc0(x) * float(s.fc0.bias), D, 1), r"reads a number"),
    "NumPy": (
        of(lambda s, x: s.fc0(torch.from_numpy(np.sin(x.detach().numpy()))), D, 1),
        r"detach gives a result that does not depend on x through autograd",
    ),
    "no_grad": (of(detached, D, 8, 1), r"sigmoid runs with gradients turned off"),
    "detached": (of(lambda s, x: s.fc0(x.detach()), D, 1), r"detach .*cuts the graph"),
    "a custom function": (of(lambda s, x: s.fc0(Cube.apply(x)), D, 1), r"mul runs with gradients turned off"),
    "rounded weights": (
        of(lambda s, x: F.linear(x, Straight.apply(s.fc0.weight)), D, 1),
        r"mul runs with gradients turned off",
    ),
    "scripted": (of(lambda s, x: s.fc0(scripted(x)), D, 1), r"linear takes a tensor that no recorded function made"),
    "a global tensor": (of(lambda s, x: s.fc0(x * GLOBAL.to(x.dtype)), D, 1), r"register it as a buffer"),
    "random": (of(lambda s, x: s.fc0(x + torch.rand(D, dtype=x.dtype)), D, 1), r"draws random numbers"),
    "python's random": (of(lambda s, x: s.fc0(x * random.random()), D, 1), r"mul is called with other numbers"),
    "active dropout": (of(lambda s, x: s.fc0(F.dropout(x, 0.5)), D, 1), r"dropout is active in train mode"),
    "batch norm in training": (lambda: normed(training=True), r"1 \(BatchNorm1d\): batch norm.* in train mode mixes"),
    "statistics": (of(statistics, net=net, mean=lambda: torch.zeros(D)), r"mul_ changes a parameter, a buffer"),
    "a counter": (of(counts, net=net, calls=0), r"changes a buffer or an attribute"),
    "a tensor of the batch's size": (
        of(lambda s, x: s.fc0(x + torch.zeros(len(x), 1, dtype=x.dtype)), D, 1),
        r"zeros is called with other numbers for another batch size",
    ),
    "ones like": (of(lambda s, x: s.fc0(x + torch.ones_like(x)), D, 1), r"ones_like makes a tensor of the batch's"),
    "samples mixed": (of(lambda s, x: s.fc0(x - x.mean(0)), D, 1), r"mean mixes the samples"),
    "written in part": (of(overwritten, D, 8, 1), r"__setitem__ writes into a part"),
    "changed through a view": (of(through_a_view, D, 8, 1), r"tanh takes a tensor that was changed in place"),
    "a hook on a tensor": (of(hooked, D, 8, 1), r"register_hook"),
    "layer norm": (of(lambda s, x: s.fc0(s.norm(x)), D, 1, norm=lambda: nn.LayerNorm(D)), r"norm \(LayerNorm\): layer"),
    "a square": (of(lambda s, x: s.fc0(x) + x.square().sum(1, keepdim=True), D, 1), r"Own: square is neither"),
    "a product": (of(lambda s, x: s.fc1(s.fc0(x) * x), D, D, 1), r"multiplies two values that depend on x"),
    "a quotient": (of(lambda s, x: s.fc1(s.fc0(x) / (2 + x)), D, D, 1), r"divides by a value"),
    "a long skip": (
        of(lambda s, x: s.fc2(x + s.fc1(torch.tanh(s.fc0(x)))), D, 8, D, 1),
        r"adds values of different layers; a skip adds",
    ),
    "convolution": (
        lambda: Own(lambda s, x: s.c(x[:, None]).flatten(1).sum(1), c=nn.Conv1d(1, 2, 3)),
        r"c \(Conv1d\): conv1d is neither",
    ),
    "tokens": (of(lambda s, x: s.fc0(x[..., None]).sum((1, 2)), 1, 1), r"fc0 \(Linear\): linear acts on the last axis"),
    "nothing of x": (of(lambda s, x: s.fc0.bias.expand(len(x), 1), D, 1), r"does not depend on x"),
    "two outputs": (of(lambda s, x: (s.fc0(x), x), D, 1), r"returns tuple, not one tensor"),
    "an error": (of(lambda s, x: s.fc0(x[:, :2]), D, 1), r"its forward raised RuntimeError: mat1 and mat2"),
    "a parametrized layer twice": (parametrized_twice, r"parametrized weight is used more than once"),
    "a hook on a child": (child_hooked, r"net\.0 \(Linear\): it has hooks"),
}  # fmt: skip


def test_a_forward_is_refused_with_the_reason(subtests: pytest.Subtests) -> None:
    for name in REFUSED:
        with subtests.test(name):
            assert_refused(name)


def assert_refused(name: str) -> None:
    torch.manual_seed(0)
    build, reason = REFUSED[name]
    model, x = build().double(), torch.randn(B, D, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = recognize(model, x)
    assert isinstance(found, Refusal), f"{name}: {found}"
    assert re.search(reason, str(found)), f"{name}: {found}"
    with pytest.raises((UnsupportedError, ValueError), match="cannot run this call"):
        fastssm.sliced_loss(model, x, kind="energy", backend="torch")


def test_every_obstacle_of_a_forward_is_listed() -> None:
    model = Own(
        lambda s, x: s.fc2(s.norm(s.fc1(s.fc0(x).square())) + x).cumsum(1)[:, :1],
        norm=nn.LayerNorm(D),
        **layers(D, 8, D, 2),
    )
    found = recognize(model, torch.randn(B, D))
    assert isinstance(found, Refusal)
    assert [re.search(r"\w+ is neither", reason)[0] for reason in found.reasons] == [
        "square is neither",
        "layer_norm is neither",
        "cumsum is neither",
    ]


@pytest.mark.parametrize("name", ["a square", "a long skip", "samples mixed", "rounded weights", "a hook on a tensor"])
def test_what_is_refused_runs_by_autograd(name: str) -> None:
    torch.manual_seed(0)
    model, x = REFUSED[name][0]().double(), torch.randn(B, D, dtype=torch.float64)
    v = torch.randn(2, B, D, dtype=torch.float64)
    found = fastssm.sliced_loss(model, x, v=v, kind="energy")
    expected = oracle.losses(model, x, v, "vr", energy=True).mean()
    grads = torch.autograd.grad(found, list(model.parameters()), materialize_grads=True, allow_unused=True)
    oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, model.parameters())], 1e-9)


def test_a_refused_model_gets_its_state_back() -> None:
    for name in ("statistics", "a counter", "batch norm in training"):
        torch.manual_seed(0)
        model = REFUSED[name][0]().double()
        before = {key: t.clone() for key, t in model.state_dict().items()}, dict(vars(model))
        assert isinstance(recognize(model, torch.randn(B, D, dtype=torch.float64)), Refusal)
        assert all(torch.equal(t, before[0][key]) for key, t in model.state_dict().items()), name
        assert vars(model) == before[1], name


def test_folding_that_would_lose_digits_is_refused() -> None:
    """`(x - mu) / sd` becomes `W / sd x + (b - W mu / sd)`, which cancels where mu is large."""
    model = Own(lambda s, x: s.net((x - s.mu) / s.sd), net=net(), mu=torch.full((D,), 1e6), sd=torch.ones(D))
    x = torch.randn(B, D) + 1e6
    assert "rounding does not explain that" in str(recognize(model, x))
    assert fastssm.explain(model, x).network is None
