"""Jets under torch.compile without graph breaks and under torch.func: the values and gradients of eager jets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

import fastssm
from tests import oracle
from tests.jets.networks import NETWORKS, data, made

pytestmark = pytest.mark.usefixtures("_fresh_dynamo")
Loss = Callable[[Any, Tensor, Tensor], Tensor]


def sliced(**options: Any) -> Loss:
    return lambda net, x, v: fastssm.sliced_loss(net, x, v=v, kind=net.kind, backend="jets", **options)


LOSSES: dict[str, Loss] = {
    "ssm": sliced(variance_reduced=False),
    "vr": sliced(),
    "terms": lambda net, x, v: sum(t.sin().sum() for t in fastssm.terms(net, x, v=v, kind=net.kind, backend="jets")),
}


def gradients(net: Any, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, v: Tensor) -> list[Tensor]:
    value = loss(x, v)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()))]


def compiled_agrees(network: Callable[[], Any], names: list[str], backend: str) -> None:
    net = made(network)
    x, v = data(net, 4, 2)
    for name in names:
        loss = LOSSES[name]
        expected = gradients(net, lambda x, v, loss=loss: loss(net, x, v), x, v)
        step = torch.compile(lambda x, v, loss=loss: loss(net, x, v), backend=backend, fullgraph=True)
        oracle.assert_close(gradients(net, step, x, v), expected, 1e-9, f"{name} {backend}")


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("score", ["vr", "terms"]),
        pytest.param("score", list(LOSSES), marks=pytest.mark.slow),
        pytest.param("conv", ["vr"], marks=pytest.mark.slow),
        pytest.param("attention", ["ssm", "terms"], marks=pytest.mark.slow),
    ],
)
def test_a_compiled_loss_is_the_eager_one(name: str, losses: list[str]) -> None:
    compiled_agrees(NETWORKS[name], losses, "aot_eager")


@pytest.mark.slow  # test_jets_traced.py has a quicker one
@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_inductor_compiles_a_loss(network: Callable[[], Any]) -> None:
    compiled_agrees(network, ["vr"], "inductor")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_functional_transforms(network: Callable[[], Any]) -> None:
    """`grad` over the parameters, and `vmap` of it over an ensemble."""
    nets = [made(network) for _ in range(3)]
    with torch.no_grad():
        for i, net in enumerate(nets):
            for p in net.parameters():
                p.add_(0.1 * i * torch.ones_like(p))
    net, (x, v) = nets[0], data(nets[0], 4, 2)
    stacked = {
        name: torch.stack([dict(n.named_parameters())[name] for n in nets]) for name, _ in net.named_parameters()
    }
    for name, loss in LOSSES.items():
        of = replaced(net, lambda n, loss=loss: loss(n, x, v))
        expected = [gradients(n, partial(loss, n), x, v)[1:] for n in nets]
        one = grad(of)({name: p.detach() for name, p in net.named_parameters()})
        oracle.assert_close(list(one.values()), expected[0], 1e-9, name)
        every = vmap(grad(of))({name: p.detach() for name, p in stacked.items()})
        for i in range(len(nets)):
            oracle.assert_close([g[i] for g in every.values()], expected[i], 1e-9, f"{name}, member {i}")


def replaced(net: Any, loss: Callable[[Any], Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a loss of a network as a function of its parameters."""
    whole = Whole(net, loss)
    return lambda parameters: functional_call(whole, {f"net.{name}": p for name, p in parameters.items()}, ())


class Whole(torch.nn.Module):
    """A loss of a network as a module, so that its parameters can be replaced."""

    def __init__(self, net: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self) -> Tensor:
        return self.loss(self.net)
