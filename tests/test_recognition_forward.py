"""Networks with a forward of their own: recognised by what it does, with the values and gradients of plain autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastssm
from fastssm import recognize
from fastssm.compiling import COMPILES
from tests import oracle
from tests.networks import COMPILED
from tests.own_forwards import ENERGY, NETS, B, D, Own, net, problem


def test_values_and_gradients_are_those_of_autograd(subtests: pytest.Subtests) -> None:
    for name in NETS:
        with subtests.test(name):
            agree(name)


def agree(name: str) -> None:
    model, kind, x, cond, v = problem(name)
    x.requires_grad_()
    cond = tuple(c.requires_grad_() for c in cond)
    for loss, options in oracle.OPTIONS.items():
        if loss == "control":
            continue
        for backend in ("torch", *COMPILED):
            judge = copy.deepcopy(model)
            leaves, others = [x, *cond, *model.parameters()], [x, *cond, *judge.parameters()]
            given = {"v": v, "cond": cond or None, "kind": kind, "backend": backend, "reduction": "none", **options}
            found = fastssm.sliced_loss(model, x, **given)
            expected = oracle.losses(judge, x, v, loss, energy=kind == ENERGY, cond=cond)
            weights = torch.linspace(0.5, 1.5, B, dtype=torch.float64)
            grads = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
            wanted = oracle.gradients((expected * weights).sum(), others)
            oracle.assert_close([found, *grads], [expected, *wanted], 1e-9, f"{name} {loss} {backend}")
            states = [list(m.state_dict().values()) for m in (model, judge)]
            oracle.assert_close(states[0], states[1], 1e-12, name)


@pytest.mark.parametrize("name", ["own forward", "time before", "film", "batch norm", "parametrized"])
def test_recognising_changes_nothing(name: str) -> None:
    model, kind, x, cond, _ = problem(name)
    before = copy.deepcopy(model.state_dict()), [dict(m.__dict__) for m in model.modules()], torch.get_rng_state()
    found = recognize(model, x, cond)
    assert isinstance(found, fastssm.Network), found
    after = model.state_dict()
    assert all(torch.equal(a, after[key]) for key, a in before[0].items())
    assert [dict(m.__dict__) for m in model.modules()] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad
    assert fastssm.explain(model, x, cond=cond or None, kind=kind).network is not None


def test_a_batch_may_be_empty_or_of_any_size() -> None:
    model, _, x, _, _ = problem("own forward")
    for size in (0, 1, 7, 11):
        few = x[:1].expand(size, D).clone()
        plan = fastssm.explain(model, few)
        assert plan.network is not None
        assert str(plan.network) == "MLP 5-8-8-1 (tanh, softplus, identity)"
        assert fastssm.sliced_loss(model, few, reduction="none").shape == (size,)
    assert isinstance(recognize(copy.deepcopy(model), x[:0]), fastssm.Network)


def test_a_model_without_data_is_told_to_pass_them() -> None:
    model, _, x, _, _ = problem("own forward")
    assert "recognize(model, x)" in str(recognize(model))
    assert str(recognize(model, x)) == "MLP 5-8-8-1 (tanh, softplus, identity)"
    assert "it is not a torch.nn.Module" in str(recognize(lambda x: x, x))


def test_weights_are_read_at_each_call() -> None:
    model, _, x, _, v = problem("learnt normaliser")
    fastssm.sliced_loss(model, x, v=v)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    expected = oracle.losses(model, x, v, "vr", energy=True).mean()
    oracle.assert_close([fastssm.sliced_loss(model, x, v=v)], [expected], 1e-10)


def test_frozen_parameters_get_no_gradient() -> None:
    model, _, x, _, v = problem("normaliser")
    model.net[0].requires_grad_(False)
    fastssm.sliced_loss(model, x, v=v).backward()
    assert model.net[0].weight.grad is None
    assert model.net[2].weight.grad is not None


def test_mixed_precision_is_as_for_other_networks() -> None:
    model, _, x, _, v = problem("own forward")
    model, x, v = model.float(), x.float(), v.float()
    expected = fastssm.sliced_loss(model, x, v=v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fastssm.sliced_loss(model, x, v=v)
    torch.testing.assert_close(found, expected)
    assert fastssm.sliced_loss(model.bfloat16(), x.bfloat16(), v=v.bfloat16(), backend="torch").isfinite()


def test_two_functional_transforms_use_what_was_recognised() -> None:
    model, _, x, _, v = problem("own forward")
    parameters = dict(model.named_parameters())

    names = [name for name, _ in fastssm.SlicedScoreLoss(model).named_parameters()]
    prefix = names[0].removesuffix(next(iter(parameters)))

    def prefixed(given: dict[str, Tensor]) -> Tensor:
        twin = fastssm.SlicedScoreLoss(model, backend="torch")
        return torch.func.functional_call(twin, {prefix + k: p for k, p in given.items()}, (x,), {"v": v})

    expected = fastssm.sliced_loss(model, x, v=v, backend="torch")
    grads = torch.autograd.grad(expected, list(parameters.values()))
    found = torch.func.grad(prefixed)(parameters)
    oracle.assert_close([found[name] for name in parameters], list(grads), 1e-10)


def test_parameters_that_are_not_used_get_a_gradient_of_zero() -> None:
    model = Own(lambda s, x: s.net(x), net=net(), head=nn.Linear(3, 4), w=parametrizations.weight_norm(nn.Linear(2, 2)))
    fastssm.sliced_loss(model, torch.randn(B, D), backend="torch").backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.any()) != name.startswith(("head", "w.")) or name == "net.4.bias", name


def test_arguments_by_name_and_missing_ones() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(D + 1, 8), nn.Linear(8, D)

        def forward(self, x: Tensor, labels: Tensor | None = None, *, t: Tensor, shift: Tensor) -> Tensor:
            assert labels is None
            return self.last(torch.tanh(self.first(torch.cat([x, t], 1)))) + shift

    torch.manual_seed(0)
    model, x = Named().double(), torch.randn(B, D, dtype=torch.float64)
    v, t, shift = torch.randn(1, B, D).double(), torch.rand(B, 1).double(), torch.rand(1, D).double()

    class Judge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = model(x, None, t=t, shift=shift)
            return out

    expected = oracle.losses(Judge(), x, v, "vr", energy=False).mean()
    for cond in ({"labels": None, "t": t, "shift": shift}, {"shift": shift, "t": t}):
        for backend in ("torch", *COMPILED, "reference"):
            found = fastssm.sliced_loss(model, x, v=v, cond=cond, backend=backend)
            oracle.assert_close([found], [expected], 1e-10, backend)
        assert isinstance(recognize(model, x, cond), fastssm.Network)


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize(("name", "inductor"), [("film", True), ("residual loop", False), ("normaliser", False)])
@pytest.mark.skipif(not COMPILES, reason="a constant of a module needs torch 2.13")
def test_what_is_recognised_is_a_constant_of_a_trace(name: str, inductor: bool) -> None:
    model, kind, x, cond, v = problem(name)

    def loss(x: Tensor, v: Tensor, *cond: Tensor) -> Tensor:
        return fastssm.sliced_loss(model, x, v=v, cond=cond or None, kind=kind, backend="torch")

    compiled = torch.compile(loss, fullgraph=True, backend="inductor" if inductor else "aot_eager")
    for _ in range(2):
        values = [f(x, v, *cond) for f in (compiled, loss)]
        grads = [torch.autograd.grad(value, list(model.parameters())) for value in values]
        oracle.assert_close([values[0], *grads[0]], [values[1], *grads[1]], 1e-10, name)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.skipif(not COMPILES, reason="a constant of a module needs torch 2.13")
def test_a_trace_is_made_anew_when_an_attribute_changes() -> None:
    torch.manual_seed(0)
    model = Own(lambda s, x: s.net(x * s.gain) * (2.0 if s.training else 1.0), net=net(), gain=1.5).double()
    x, v = torch.randn(B, D, dtype=torch.float64), torch.randn(2, B, D, dtype=torch.float64)
    compiled = torch.compile(
        lambda: fastssm.sliced_loss(model, x, v=v, backend="torch"), fullgraph=True, backend="eager"
    )
    for change in (lambda: None, model.eval, lambda: setattr(model, "gain", 0.5)):
        change()
        expected = oracle.losses(model, x, v, "vr", energy=True).mean()
        oracle.assert_close([compiled()], [expected], 1e-10)


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.skipif(not COMPILES, reason="a constant of a module needs torch 2.13")
def test_a_refusal_under_compilation_is_the_same() -> None:
    model = Own(lambda s, x: s.net(x).square(), net=net()).double()
    x = torch.randn(B, D, dtype=torch.float64)
    plans = []
    compiled = torch.compile(lambda: plans.append(fastssm.explain(model, x).reasons["torch"]) or x + 1, backend="eager")
    compiled()
    assert plans[0] == fastssm.explain(model, x).reasons["torch"]
    assert "square is neither" in plans[0][0]
