"""What was recognised of a model is remembered, and forgotten as soon as anything that recognition looks at changes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.two_tensor import TwoTensor

import fastssm
from fastssm import Network
from fastssm.nn import Sin
from fastssm.recognition import cache
from tests import oracle
from tests.remembering import MODELS, D, MyLinear, V, X, again, mlp, remembered, same, sequential

Change = Callable[[Any], object]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that were recognised anew."""
    found: list[nn.Module] = []
    read = cache.read
    monkeypatch.setattr(cache, "read", lambda model: found.append(model) or read(model))
    return found


# --- it is remembered ---


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_second_call_recognises_nothing_anew(build: Callable[[], nn.Module], readings: list[nn.Module]) -> None:
    model, optimiser = build(), torch.optim.SGD([torch.zeros(1)], lr=0.1)
    for _ in range(3):
        optimiser = torch.optim.Adam(model.parameters())
        fastssm.sliced_loss(model, X).backward()
        optimiser.step()
        model.zero_grad()
    fastssm.exact_loss(model, X, reduction="none")
    fastssm.terms(model, X.clone())
    fastssm.explain(model, X)
    assert readings == [model]


# --- it is forgotten ---


def hook(*_: object) -> None: ...


def put(index: int, module: nn.Module) -> Change:
    def change(model: Any) -> None:
        model[index] = module.double()

    return change


def assign(path: str, name: str, value: object) -> Change:
    return lambda model: setattr(model.get_submodule(path), name, value)


def renew(path: str, name: str = "weight", scale: float = 3.0) -> Change:
    def change(model: Any) -> None:
        module = model.get_submodule(path)
        setattr(module, name, nn.Parameter(scale * getattr(module, name).detach()))

    return change


def plain_attribute(model: Any) -> None:
    weight = model[1].weight.detach()
    del model[1].weight
    model[1].weight = 3.0 * weight


def shadowed(model: Any) -> None:
    model[1].__dict__["weight"] = 3.0 * model[1].weight.detach()


def scaled_in_place(model: Any) -> None:
    with torch.no_grad():
        model[1].weight.mul_(3.0)


def swapped(model: Any) -> None:
    model[3], model[5] = model[5], model[3]


def new_state(model: Any) -> None:
    model[3].__dict__ = nn.GELU("tanh").__dict__


def softened(model: Any) -> None:
    parametrize.register_parametrization(model[1], "weight", nn.Softplus())


CHANGES: dict[str, Change] = {
    "child replaced": put(3, nn.Tanh()),
    "linear replaced": put(1, nn.Linear(D, 4)),
    "linear by a subclass": put(1, MyLinear(D, 4)),
    "linear by an unknown layer": put(6, nn.RMSNorm(4)),
    "nested child replaced": lambda model: put(0, nn.SiLU())(model[2]),
    "child replaced behind setattr": lambda model: model._modules.update({"3": nn.Tanh()}),
    "identity replaced": put(6, nn.Tanh()),
    "children swapped": swapped,
    "module shared": lambda model: put(4, model[2][2])(model),
    "child appended": lambda model: model.append(nn.Tanh()),
    "child inserted": lambda model: model.insert(4, nn.Tanh()),
    "child deleted": lambda model: model.__delitem__(5),
    "beta": assign("2.0", "beta", 2.0),
    "threshold": assign("2.0", "threshold", 0.1),
    "omega": assign("5", "omega", 2.0),
    "approximate": assign("3", "approximate", "tanh"),
    "dropout in train mode": lambda model: model.train(),
    "dropout alone in train mode": lambda model: model[2][1].train(),
    "forward replaced": assign("1", "forward", lambda x: torch.cat([x, x[:, :1]], dim=1)),
    "class replaced": assign("1", "__class__", MyLinear),
    "state replaced": new_state,
    "parametrized": softened,
    "spectral norm": lambda model: parametrizations.spectral_norm(model[4]),
    "hooks replaced": assign("1", "_forward_hooks", OrderedDict({0: lambda module, args, out: 2.0 * out})),
    "weight replaced": renew("1"),
    "weight a plain attribute": plain_attribute,
    "weight shadowed": shadowed,
    "weight data replaced": lambda model: setattr(model[1].weight, "data", 3.0 * model[1].weight.data),
    "weight changed in place": scaled_in_place,
    "weights loaded": lambda model: model.load_state_dict(sequential().state_dict()),
    "weights tied": lambda model: setattr(model[4], "weight", model[2][2].weight),
    "bias removed": assign("1", "bias", None),
    "bias added": lambda model: setattr(model[2][2], "bias", nn.Parameter(torch.ones(4, dtype=torch.float64))),
}
MLP_CHANGES: dict[str, Change] = {
    "residual": assign("", "residual", True),
    "activation replaced": lambda model: model.activations.__setitem__(1, nn.Tanh()),
    "alpha": assign("activations.0", "alpha", 2.0),
    "linear replaced": lambda model: model.hidden.__setitem__(1, nn.Linear(4, 4).double()),
    "hidden replaced": lambda model: setattr(model, "hidden", mlp().hidden),
    "readout replaced": assign("", "readout", nn.Linear(4, 1).double()),
    "weight replaced": renew("hidden.2"),
    "layer removed": lambda model: (model.hidden.__delitem__(2), model.activations.__delitem__(2)),
}
EVERY_CHANGE = {
    **{name: (sequential, change) for name, change in CHANGES.items()},
    **{f"mlp: {name}": (mlp, change) for name, change in MLP_CHANGES.items()},
}


def truth(model: nn.Module) -> list[Tensor]:
    loss = oracle.losses(model, X, V, "vr", energy=True).mean()
    return [loss, *oracle.gradients(loss, model.parameters())]


def test_a_change_after_the_first_call_shows() -> None:
    for name, (build, change) in EVERY_CHANGE.items():
        shows(name, build, change)


def shows(name: str, build: Callable[[], nn.Module], change: Change) -> None:
    torch.manual_seed(0)
    model = build()
    before = truth(model)[0]
    remembered(model)
    oracle.assert_close([fastssm.sliced_loss(model, X, v=V)], [before], 1e-10, name)
    change(model)
    same(model)
    models = [model, copy.deepcopy(model)]  # a spectral norm iterates at each call, a dropout draws
    torch.manual_seed(1)
    expected = truth(models[1])
    assert not torch.equal(expected[0], before), f"{name} changes nothing"
    torch.manual_seed(1)
    found = fastssm.sliced_loss(model, X, v=V)
    grads = torch.autograd.grad(found, list(model.parameters()), allow_unused=True, materialize_grads=True)
    oracle.assert_close([found, *grads], expected, 1e-10, name)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_entry_of_every_module_s_state(build: Callable[[], nn.Module]) -> None:
    """Whatever stands in a module's `__dict__` is changed in turn, and changed back."""
    model = build()
    changed = 0
    for module in model.modules():
        for name, value in list(vars(module).items()):
            for other in others(value):
                remembered(model)
                vars(module)[name] = other
                same(model)
                vars(module)[name] = value
                same(model)
                changed += 1
            if not name.startswith("_"):
                remembered(model)
                del vars(module)[name]
                same(model)
                vars(module)[name] = value
                same(model)
            if isinstance(value, dict):
                remembered(model)
                value["more"] = {"_modules": nn.Tanh(), "_parameters": nn.Parameter(torch.ones(1))}.get(name, hook)
                same(model)
                del value["more"]
                same(model)
        for entries in (module._modules, module._parameters):
            for name, value in list(entries.items()):
                remembered(model)
                entries[name] = None
                same(model)
                entries[name] = value
                same(model)
    assert changed > 50


def others(value: object) -> list[object]:
    """Return values to put in the place of another."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, -value, float(value) + 0.5]
    if isinstance(value, str):
        return ["none", "tanh"]
    if isinstance(value, dict):
        return [{}] if value else [type(value)(more=hook)]
    return []


REGISTER = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


def test_a_weight_of_a_wrapper_s_class_is_noticed() -> None:
    model = sequential()
    remembered(model)
    weight = model[1].weight
    model[1].weight = nn.Parameter(TwoTensor(weight.detach(), weight.detach()))
    same(model)
    assert "TwoTensor" in str(cache.recognize_cached(model))


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("register", REGISTER)
def test_hooks_come_and_go(build: Callable[[], nn.Module], register: str) -> None:
    model = build()
    for module in model.modules():
        remembered(model)
        handle = getattr(module, register)(hook)
        same(model)
        assert fastssm.explain(model, X).network is None
        handle.remove()
        assert fastssm.explain(model, X).network is not None
    remembered(model)
    handle = getattr(nn.modules.module, register.replace("register", "register_module"))(hook)
    try:
        assert not again(model)
        assert fastssm.explain(model, X).network is None
    finally:
        handle.remove()
    remembered(model)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_forward_of_a_class_is_noticed(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    remembered(model)
    monkeypatch.setattr(nn.Linear, "forward", lambda _, x: x)
    assert not again(model)
    same(model)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_what_is_checked_at_each_call(build: Callable[[], nn.Module]) -> None:
    """The weights are those of the moment: their dtype, their device, whether they are trained."""
    model = build()
    remembered(model)
    first = next(model.parameters()).requires_grad_(False)
    fastssm.sliced_loss(model, X).backward()
    assert first.grad is None
    with pytest.raises(TypeError, match="one dtype"):
        fastssm.sliced_loss(model.float(), X)
    with pytest.raises(ValueError, match="one device"):
        fastssm.sliced_loss(model.to("meta"), X.float())
    with pytest.raises(ValueError, match="takes 3 value"):
        fastssm.sliced_loss(model, X[:, :2])


def test_an_attribute_that_may_change_in_place_is_read_each_time() -> None:
    model = nn.Sequential(nn.Linear(D, 4), Sin(), nn.Linear(4, 1)).double()
    model[1].omega = torch.tensor(1.0, dtype=torch.float64)
    for omega in (1.0, 2.0):
        model[1].omega.fill_(omega)
        same(model)
        oracle.assert_close([fastssm.sliced_loss(model, X, v=V)], [truth(model)[0]], 1e-10)


def test_parametrizations_are_recognised_each_time() -> None:
    model = sequential()
    softened(model)
    assert isinstance(cache.recognize_cached(model), Network)
    assert model not in cache._cache
