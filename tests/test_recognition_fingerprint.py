"""A recorded forward is recorded anew as soon as anything changes that it may depend on, and not before."""

from __future__ import annotations

import copy
import gc
import math
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastssm
from fastssm import Network, Refusal
from fastssm.recognition import Fingerprint, cache
from tests import oracle

D = 3
FACTOR = 1.5
SETTINGS = {"scale": 1.25}
space = types.ModuleType("a_module_of_the_user")
space.GAIN = 2.0


def helper(h: Tensor) -> Tensor:
    return h * FACTOR * SETTINGS["scale"]


class Block(nn.Module):
    gain = 1.25

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.slope = 0.5
        self.options = {"beta": [2.0]}

    def forward(self, h: Tensor) -> Tensor:
        return h + F.softplus(self.linear(h * self.slope), beta=self.options["beta"][0]) if self.gain > 1 else h


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.last = nn.Linear(4, 1)
        self.dropout = nn.Dropout(0.0)
        self.mode = types.SimpleNamespace(sign=1.0)
        self.act = torch.tanh
        self.register_buffer("mean", torch.zeros(D))
        self.own = torch.ones(4, dtype=torch.float64)

    def scaled(self, h: Tensor) -> Tensor:
        return helper(h) * space.GAIN * self.mode.sign * (1.5 if self.training else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x - self.mean)) * self.own
        for block in self.blocks:
            h = block(h)
        return self.last(self.dropout(self.scaled(h)))


def plain() -> nn.Module:
    return Net().double()


X = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
V = torch.randn(2, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that were recorded."""
    found: list[nn.Module] = []
    trace = cache.trace
    monkeypatch.setattr(cache, "trace", lambda model, *args: found.append(model) or trace(model, *args))
    return found


def truth(model: nn.Module) -> list[Tensor]:
    loss = oracle.losses(model, X, V, "vr", energy=True).mean()
    return [loss, *oracle.gradients(loss, model.parameters())]


def found(model: nn.Module) -> list[Tensor]:
    loss = fastssm.sliced_loss(model, X, v=V, kind="energy")
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return [loss, *grads]


def put(path: str, name: str, value: Any) -> Callable[[Any, pytest.MonkeyPatch], None]:
    return lambda model, patch: setattr(model.get_submodule(path), name, value)


def doubled(self: nn.Linear, x: Tensor) -> Tensor:
    return 2.0 * F.linear(x, self.weight, self.bias)


def hook(model: Any, _: pytest.MonkeyPatch) -> None:
    model.last.register_forward_hook(lambda module, args, out: 2.0 * out)


def in_a_container(model: Any, _: pytest.MonkeyPatch) -> None:
    model.blocks[0].options["beta"][0] = 1.0


def in_place(model: Any, _: pytest.MonkeyPatch) -> None:
    model.mean.add_(0.5)


def larger(model: Any, _: pytest.MonkeyPatch) -> None:
    model.blocks = nn.ModuleList()
    model.first, model.last = nn.Linear(D, 6).double(), nn.Linear(6, 1).double()
    model.own = torch.ones(6, dtype=torch.float64)


def wider_in_place(model: Any, _: pytest.MonkeyPatch) -> None:
    """Every type and every module stays; the shapes change."""
    model.first.weight, model.first.bias = nn.Parameter(torch.ones(1, D).double()), nn.Parameter(torch.ones(1).double())


CHANGES: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "attribute": put("blocks.1", "slope", 0.75),
    "attribute in a container": in_a_container,
    "attribute of an object": lambda model, patch: setattr(model.mode, "sign", -1.0),
    "attribute a function": put("", "act", torch.sigmoid),
    "attribute of the class": lambda model, patch: patch.setattr(Block, "gain", 0.5),
    "train mode": lambda model, patch: model.eval(),
    "active dropout": lambda model, patch: setattr(model.dropout, "p", 1.0),
    "hook": hook,
    "forward of a library's class": lambda model, patch: patch.setattr(nn.Linear, "forward", doubled),
    "forward of a class": lambda model, patch: patch.setattr(Block, "forward", lambda self, h: 2.0 * h),
    "method of a class": lambda model, patch: patch.setattr(Net, "scaled", lambda self, h: h),
    "forward of the instance": lambda model, patch: setattr(model.last, "forward", lambda h: 3.0 * h[:, :1]),
    "global number": lambda model, patch: patch.setitem(globals(), "FACTOR", 0.5),
    "global container": lambda model, patch: patch.setitem(SETTINGS, "scale", 0.5),
    "global function": lambda model, patch: patch.setitem(globals(), "helper", lambda h: h),
    "number of another file": lambda model, patch: patch.setattr(space, "GAIN", 3.0),
    "parameter replaced": put("last", "weight", nn.Parameter(torch.ones(1, 4, dtype=torch.float64))),
    "parameter of another shape": wider_in_place,
    "bias removed": put("last", "bias", None),
    "buffer changed": in_place,
    "buffer replaced": put("", "mean", torch.ones(D, dtype=torch.float64)),
    "plain tensor replaced": put("", "own", torch.full((4,), 2.0, dtype=torch.float64)),
    "child replaced": put("", "last", nn.Linear(4, 1).double()),
    "block replaced": lambda model, patch: model.blocks.__setitem__(0, nn.Tanh()),
    "block removed": lambda model, patch: model.blocks.__delitem__(0),
    "parametrized": lambda model, patch: parametrizations.weight_norm(model.last),
    "other widths": larger,
}


def test_a_change_after_the_first_call_shows(subtests: pytest.Subtests) -> None:
    for name in CHANGES:
        with subtests.test(name), pytest.MonkeyPatch.context() as monkeypatch:
            assert_noticed(name, monkeypatch)


def assert_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = plain()
    before = truth(model)
    oracle.assert_close(found(model), before, 1e-10)
    assert fastssm.explain(model, X).network is not None
    CHANGES[name](model, monkeypatch)
    expected = truth(model)
    assert len(expected) != len(before) or not torch.equal(expected[0], before[0]), f"{name} changes nothing"
    oracle.assert_close(found(model), expected, 1e-10, name)


def test_the_forward_of_a_library_s_class_counts_for_networks_read_by_their_structure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    oracle.assert_close(found(model), truth(model), 1e-10)
    monkeypatch.setattr(nn.Linear, "forward", doubled)
    oracle.assert_close(found(model), truth(model), 1e-10)
    assert "the forward method of its class was replaced" in str(fastssm.recognize(model))


@pytest.mark.parametrize("name", ["mode", "forwards alone", "nothing"])
def test_it_is_recorded_once_for_each_state(name: str, recordings: list[nn.Module]) -> None:
    model = plain()
    for step in range(4):
        if name == "mode":
            model.train(step % 2 == 0)
        fastssm.sliced_loss(model, X).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        model.zero_grad()
        if name == "forwards alone":
            model(X)
    fastssm.exact_loss(model, X[:2])
    fastssm.explain(model, X)
    assert len(recordings) == (2 if name == "mode" else 1)


def test_a_refusal_is_kept_too(recordings: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(D, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()
    for _ in range(3):
        assert fastssm.explain(model, X).network is None
    assert recordings == [model]


def test_data_of_another_shape_or_dtype_are_recorded_anew(recordings: list[nn.Module]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(D, 1)

        def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
            h = self.net(x.flatten(1))
            return h if c is None else h + c

    model = Last()
    for shape in ((4, D), (9, D), (4, 1, D), (4, D)):
        fastssm.explain(model, torch.randn(shape))
    assert len(recordings) == 2
    fastssm.explain(model, torch.randn(4, D), cond=torch.randn(4, 1))
    assert len(recordings) == 3


def test_a_forward_that_changes_itself_is_left_alone_in_the_end(recordings: list[nn.Module]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = nn.Linear(D, 1), []

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append(1)
            out: Tensor = self.net(x)
            return out

    model = Counting().double()
    for _ in range(2 * cache.MAX_CHANGES):
        assert isinstance(cache.recognize_cached(model, X), Refusal)
    assert len(recordings) == cache.MAX_CHANGES
    assert "its forward changes the attribute calls of Counting" in str(cache.recognize_cached(model, X))


def test_a_model_dies_with_its_last_reference() -> None:
    class Known(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bound = self.scaled
            self.inner = lambda h: self.scaled(h)

    for kind in (Net, Known):
        model = kind().double()
        assert isinstance(cache.recognize_cached(model, X), Network)
        assert isinstance(cache.recognize_cached(model, X), Network)
        lives = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
        del model
        gc.collect()
        assert [life() for life in lives] == [None] * len(lives), kind


def test_a_copy_is_another_model() -> None:
    model = plain()
    found(model)
    other = copy.deepcopy(model)
    other.blocks[0].slope = 2.0
    oracle.assert_close(found(other), truth(other), 1e-10)
    oracle.assert_close(found(model), truth(model), 1e-10)


def test_a_fingerprint_says_what_changed() -> None:
    model = plain()
    fingerprint = Fingerprint.of(model)
    assert fingerprint.holds()
    assert fingerprint.change() == ""
    model.blocks[1].slope = 2.0
    assert not fingerprint.holds()
    assert fingerprint.change() == "the attribute slope of Block"
    model.blocks[1].slope = 0.5
    model.added = 1
    assert fingerprint.change() == "the attributes added of Net"
    del model.added
    assert fingerprint.holds()


def test_numbers_of_other_types_are_compared() -> None:
    model = plain()
    for before, after in ((1.0, torch.ones(2)), (math.pi, None), ((1, 2), (1, 3)), ({1}, {2}), ([1], [2]), ("a", "b")):
        model.value = before
        fingerprint = Fingerprint.of(model)
        assert fingerprint.holds()
        model.value = after
        assert not fingerprint.holds(), before
