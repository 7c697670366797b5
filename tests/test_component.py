"""`component=`: operators of one output of a network of several, against nested autograd in float64: all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastssm
from tests import oracle
from tests.covering import each
from tests.networks import BY_NAME, ENTRIES, sequential, through
from tests.test_operators import agree, basis

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
OUTPUTS = 3


class OwnForward(nn.Module):
    """A network that is recognised by recording."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(2.0 * self.first(x)))


class Product(OwnForward):
    """A network that no engine runs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x.square().sum(1, keepdim=True)


class Modulated(OwnForward):
    """A network whose outputs are scaled and shifted for each sample."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * c + c.sin()


class LastSkip(OwnForward):
    """A network whose last layer skips."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(super().forward(x))


BUILDS = {name: BY_NAME[f"score-{name}"] for name in ("depth-2", "film-time", "weight-norm")}
LAST = {"activation last": lambda: sequential(5, nn.Tanh(), OUTPUTS, nn.Tanh())}  # where the last bias counts
OWN = {"own": OwnForward, "modulated": Modulated, "product": Product, "last skip": LastSkip, **LAST}
REFUSED = ("product", "last skip")  # by all that need a recognised network


def problem(name: str) -> tuple[nn.Module, Tensor, tuple[Tensor, ...]]:
    if name in BUILDS:
        return BUILDS[name].problem()
    torch.manual_seed(0)
    x, c = torch.randn(2, 5, OUTPUTS, dtype=torch.float64)
    return OWN[name]().double(), x, (c,) if name == "modulated" else ()


@pytest.mark.parametrize("backend", [*ENTRIES, "jets", "auto"])
@each("name", [*BUILDS, *OWN])
def test_one_output_is_that_of_autograd(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, cond = problem(name)
    backend = through(backend, monkeypatch)
    leaves = [x.requires_grad_(), *(c.requires_grad_() for c in cond), *model.parameters()]
    v = torch.randn_like(x)
    if name in REFUSED and backend in ("torch", "cpu"):
        with pytest.raises(fastssm.UnsupportedError):
            fastssm.laplacian(model, x, component=1, backend=backend)
        return
    for component in (0, OUTPUTS - 1):
        one = lambda *given, k=component: model(*given)[:, k]  # noqa: E731
        options = {"cond": cond, "component": component, "backend": backend}
        wanted = oracle.terms(one, x, basis(x), energy=True, cond=cond)  # type: ignore[arg-type]
        lap, gradient = fastssm.laplacian(model, x, return_gradient=True, **options)
        agree([lap, gradient], [-wanted.along.sum(0), -wanted.score], leaves, f"{name}, laplacian")
    along = oracle.terms(one, x, v[None], energy=True, cond=cond).along  # type: ignore[arg-type]
    agree([fastssm.hvp_form(model, x, v, **options)], [-along[0]], leaves, f"{name}, hvp_form")


def test_a_function_and_one_output_of_a_compiled_call() -> None:
    """`f_k = a_k sum_i x_i^2` has the Laplacian `2 D a_k`."""
    x, a = torch.randn(5, 3, dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = fastssm.laplacian(lambda x: a * x.square().sum(1, keepdim=True), x, component=1)
    torch.testing.assert_close(found, torch.full_like(found, -12.0))

    net = sequential(8, nn.Tanh(), OUTPUTS).double()
    plan = fastssm.explain(net, x, what="laplacian", component=2, backend="torch")
    assert str(plan.network) == "MLP 3-8-1 (tanh, identity)"
    run = torch.compile(lambda x: fastssm.laplacian(net, x, component=2), fullgraph=True, backend="eager")
    torch.testing.assert_close(run(x), fastssm.laplacian(net, x, component=2, backend="reference"))
