"""What torch.compile makes of jets: forms of calls that it sees otherwise, what it passes by, and recompilations."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import fastssm
from fastssm import backends
from fastssm.backends import traced
from fastssm.compiling import COMPILES
from tests import oracle

pytestmark = [
    pytest.mark.usefixtures("_fresh_dynamo"),
    pytest.mark.skipif(not COMPILES, reason="jets run under torch.compile from torch 2.13 on"),
]
D, WIDTH = 4, 6


class Own(nn.Module):
    """A layer, any function, and a layer."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.middle, self.first, self.last = middle, nn.Linear(D, WIDTH), nn.Linear(WIDTH, 1)
        self.inner, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        energy: Tensor = self.last(self.middle(self, self.first(x).tanh()))
        return energy.squeeze(-1)


def made(middle: Callable[[Any, Tensor], Tensor]) -> Own:
    torch.manual_seed(0)
    return Own(middle).double()


def data(batch: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, D, generator=generator, dtype=torch.float64)
    return x, torch.randn(2, batch, D, generator=generator, dtype=torch.float64)


def vr(net: nn.Module, x: Tensor, v: Tensor, backend: Any = "jets") -> Tensor:
    loss: Tensor = fastssm.sliced_loss(net, x, v=v, backend=backend)
    return loss


def terms(net: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    found = fastssm.terms(net, x, v=v, backend="jets")
    return torch.stack([t.sin().sum() for t in found]).sum()


def gradients(net: nn.Module, loss: Callable[..., Tensor], *args: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    value = loss(*args)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()))]  # zeros of those that are not used


def compiled_agrees(net: nn.Module, loss: Callable[..., Tensor], backend: str = "aot_eager") -> None:
    x, v = data()
    step = torch.compile(lambda x, v: loss(net, x, v), backend=backend, fullgraph=True)
    expected = gradients(net, lambda x, v: loss(net, x, v), x, v)
    oracle.assert_close(gradients(net, step, x, v), expected, 1e-9)


FORMS: dict[str, Callable[[Any, Any], Tensor]] = {
    "tuples": lambda _, h: torch.stack((h, torch.cat((h.sin()[:, :3], h[:, 3:]), dim=1)), -1).sum(-1),
    "methods in Python": lambda _, h: h.norm(dim=1, keepdim=True) * h.unflatten(1, (2, 3)).flatten(1).split(6, 1)[0],
    "in place": lambda _, h: F.elu(h * 1.0, inplace=True) * (h * 1.0).mul_(2.0),
    "checkpoint": lambda net, h: checkpoint(lambda h: net.inner(h).sin() * h, h, use_reentrant=False),
    "dropout": lambda net, h: F.dropout(net.inner(h).sin(), 0.5),
}


QUICK = ("tuples",)


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form in QUICK else [pytest.mark.slow]) for form in FORMS]
)
def test_forms_of_calls(form: str) -> None:
    net = made(FORMS[form])
    compiled_agrees(net, vr)
    compiled_agrees(net, terms)


@pytest.mark.slow
def test_hooks_that_set_an_attribute() -> None:
    net = made(lambda net, h: net.inner(h).sin())
    torch.nn.utils.spectral_norm(net.inner)
    net.eval()
    compiled_agrees(net, vr)


PASSED_BY: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, bool]] = {
    "abs": (lambda _, h: abs(h - 0.1), re.escape(traced.UNSEEN[:40]), True),
    "relu_": (lambda _, h: torch.tanh_(h * 2.0), re.escape(traced.UNTRACED), True),
    "iteration": (lambda _, h: torch.stack([*h.T], 1), re.escape(traced.FORMS[-75:]), False),
    "iteration, then a product": (
        lambda _, h: (lambda a, *_: a[:, None] * h)(*h.T),
        re.escape(traced.FORMS[-75:]),
        False,
    ),
}


@pytest.mark.parametrize("name", PASSED_BY)
def test_what_passes_by_the_rules_is_refused(name: str) -> None:
    """Named, jets refuse with the reason; "auto" takes the reference."""
    middle, reason, by_reference = PASSED_BY[name]
    net = made(middle)
    x, v = data()
    assert not backends.BACKENDS["jets"].unsupported(backends.make_request(net, x), "objective")
    with pytest.raises(Exception, match=reason):
        torch.compile(lambda: vr(net, x, v), backend="eager", fullgraph=True)()
    if by_reference:
        loss = torch.compile(lambda: vr(net, x, v, "auto"), backend="aot_eager", fullgraph=True)()
        oracle.assert_close([loss.detach()], [vr(net, x, v, "reference").detach()], 1e-9)


def test_a_lost_jet_is_never_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trial's trace, what torch.compile passes by raises or is NaN."""
    monkeypatch.setattr("fastssm.backends.trial.objections_of_dynamo", lambda *_: [])
    x, v = data()
    for middle in (lambda _, h: abs(h - 0.1), lambda _, h: h + abs(h), lambda _, h: torch.tanh_(h * 2.0)):
        net = made(middle)
        torch._dynamo.reset()
        try:
            loss = torch.compile(lambda net=net: vr(net, x, v), backend="eager", fullgraph=True)()
        except Exception:
            continue
        assert loss.isnan(), loss


def test_a_second_batch_compiles_nothing() -> None:
    """Nor do new weights; a batch of another size does not either where its size is marked as dynamic."""
    net = made(lambda net, h: torch.cat((net.inner(h).sin(), h), 1)[:, 2:8])
    step = torch.compile(lambda x, v: vr(net, x, v), backend="aot_eager", fullgraph=True)
    compiled = []
    for batch, seed in ((5, 1), (5, 2), (7, 3)):
        x, v = data(batch, seed)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(v, 1)
        oracle.assert_close(gradients(net, step, x, v), gradients(net, lambda x, v: vr(net, x, v), x, v), 1e-9)
        compiled.append(counters["stats"]["unique_graphs"])
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.1)
    assert compiled[0] == compiled[1] == compiled[2]


@pytest.mark.slow
def test_a_compiled_step_trains_a_compiled_module() -> None:
    net = made(lambda net, h: F.layer_norm(net.inner(h), (WIDTH,)).sin())
    twin = torch.compile(fastssm.SlicedScoreLoss(net, backend="jets", projection="gaussian"), backend="aot_eager")
    optimiser = torch.optim.SGD(net.parameters(), 0.01)
    x, _ = data()
    for _ in range(2):
        optimiser.zero_grad()
        torch.manual_seed(0)
        loss = twin(x)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.manual_seed(0)
        expected = fastssm.SlicedScoreLoss(net, backend="jets", projection="gaussian")(x)
        grads = torch.autograd.grad(expected, list(net.parameters()))
        oracle.assert_close([loss, *[p.grad for p in net.parameters() if p.grad is not None]], [expected, *grads], 1e-9)
        optimiser.step()


@pytest.mark.parametrize("name", ["vr", pytest.param("terms", marks=pytest.mark.slow)])
def test_inductor(name: str) -> None:
    compiled_agrees(
        made(lambda net, h: F.layer_norm(net.inner(h), (WIDTH,)).sin()), {"vr": vr, "terms": terms}[name], "inductor"
    )
