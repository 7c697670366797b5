"""Guarded calls give the bits of the long way, and leave to it whatever they do not know.

That their guards fail wherever recognition would find anything else is tested in test_recognition_cache.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm
from fastssm.backends import guarded
from fastssm.backends.entries import compiled
from fastssm.backends.entries.flat import Form
from fastssm.native import extension
from fastssm.recognition import recognised
from tests.covering import combinations

pytestmark = pytest.mark.skipif("cpu" not in compiled.DEVICES, reason=extension.status())
D = 3
FORM = Form(True, True)


def network(kind: str = "energy", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    out = 1 if kind == "energy" else D
    return nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, out)).to(
        dtype
    )


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, D, dtype=dtype, generator=torch.Generator().manual_seed(1))


def result(model: nn.Module, x: Tensor, loss: Callable[..., Any], **options: Any) -> list[Tensor]:
    torch.manual_seed(2)
    value, terms = loss(model, x, return_terms=True, **options)
    value.backward()
    found = [value.detach(), *terms, *(p.grad for p in model.parameters()), x.grad, torch.rand(1)]
    model.zero_grad()
    x.grad = None
    return [t for t in found if t is not None]


CASES = combinations(
    kind=["energy", "score"],
    dtype=[torch.float32, torch.float64],
    variance_reduced=[None, True, False],  # None: exact
    reduction=["mean", "sum"],
    directions=["", "one", "three", "given", "one given"],
    backend=["auto", "cpu"],
    named=[True, False],
    x_needs=[True, False],
)


def options_of(case: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    options = {"reduction": case["reduction"], "backend": case["backend"]}
    if case["named"]:
        options["kind"] = case["kind"]
    if case["variance_reduced"] is None:
        return fastssm.exact_loss, options
    v = torch.randn(2, 5, D)
    given: dict[str, dict[str, Any]] = {
        "": {},
        "one": {"n_projections": 1},
        "three": {"n_projections": 3},
        "given": {"v": v},
        "one given": {"v": v[0].double()},
    }
    return fastssm.sliced_loss, options | given[case["directions"]] | {"variance_reduced": case["variance_reduced"]}


def test_the_bits_are_those_of_the_long_way(subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        with subtests.test(str(case)):
            model, x = network(case["kind"], case["dtype"]), data(case["dtype"]).requires_grad_(case["x_needs"])
            loss, options = options_of(case)
            long = result(model, x, loss, **options)
            with monkeypatch.context() as patch:
                patch.setattr("fastssm.backends.make_request", None)  # the long way
                short = result(model, x, loss, **options)
            assert len(long) == len(short) == 3 + 5 + case["x_needs"] + 1
            assert all(map(torch.equal, long, short))


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Looking(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSSM_BACKEND", "torch")
        yield


WATCHED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a dispatch mode": Watching,
    "a function mode": Looking,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "the environment": environment,
}


def test_what_watches_or_changes_a_call_sends_it_the_long_way() -> None:
    model, x = network(), data()
    for name, context in WATCHED.items():
        fastssm.sliced_loss(model, x)
        assert guarded.objective(model, x, None, 1, FORM) is not None
        with context():
            assert guarded.objective(model, x, None, 1, FORM) is None, name
        assert guarded.objective(model, x, None, 1, FORM) is not None, name


def test_a_transform_of_torch_func_is_seen() -> None:
    model, x = network(), data()
    fastssm.sliced_loss(model, x)
    seen = []

    def loss(_: Tensor) -> Tensor:
        seen.append(guarded.objective(model, x, None, 1, FORM))
        return _.sum()

    torch.func.grad(loss)(x)
    assert seen == [None]


def test_a_block_that_names_a_backend_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), data()
    fastssm.sliced_loss(model, x)
    monkeypatch.setattr(guarded, "objective", lambda *_: pytest.fail("the engine runs this"))
    with fastssm.backend("torch"):
        fastssm.sliced_loss(model, x)


class Own(Tensor):
    """A subclass of Tensor, which has the last word about what is called with it."""


OTHER_DATA = (
    data().as_subclass(Own),
    data().double(),
    data().half(),
    data()[:, :2],
    data()[:0],
    data()[None],
    data().to_sparse(),
    data().to("meta"),
    None,
    [1.0],
)
OTHER_DIRECTIONS = (
    data().as_subclass(Own),
    data()[:4],
    data()[:, :2],
    data()[None, None],
    data()[None][:0],
    data().long(),
    data().to_sparse(),
    data().to("meta"),
    data().requires_grad_(),
    [1.0],
)


def test_other_tensors_go_the_long_way(subtests: pytest.Subtests) -> None:
    model, x = network(), data()
    fastssm.sliced_loss(model, x)
    assert guarded.objective(model, x, x, 1, FORM) is not None
    for index, other in enumerate(OTHER_DATA):
        with subtests.test(f"data {index}"):
            assert guarded.objective(model, other, None, 1, FORM) is None  # type: ignore[arg-type]
    for index, other in enumerate(OTHER_DIRECTIONS):
        with subtests.test(f"directions {index}"):
            assert guarded.objective(model, x, other, 1, FORM) is None  # type: ignore[arg-type]


def test_data_of_inference_mode_go_the_long_way() -> None:
    model = network()
    fastssm.sliced_loss(model, data())
    with torch.inference_mode():
        x = data()
    assert guarded.objective(model, x, None, 1, FORM) is None
    fastssm.sliced_loss(model, x).backward()


OTHER: list[tuple[dict[str, Any], AbstractContextManager[Any]]] = [
    ({"n_projections": 0}, pytest.raises(ValueError, match="at least 1")),
    ({"n_projections": 1.0}, pytest.raises(TypeError, match="must be an integer")),
    ({"n_projections": True}, pytest.raises(TypeError, match="must be an integer")),
    ({"reduction": "none"}, nullcontext()),
    ({"reduction": "average"}, pytest.raises(ValueError, match="reduction must be one of")),
    ({"kind": "score"}, pytest.raises(ValueError, match="which is no score")),
    ({"cond": torch.ones(5, 1)}, pytest.raises(ValueError, match="takes 0 conditioning")),
    ({"backend": "cuda"}, pytest.raises(fastssm.UnsupportedError)),
    ({"weight": torch.ones(4)}, pytest.raises(ValueError, match="weight must have shape")),
    ({"control_variate": "optimal"}, nullcontext()),
    ({"v": data(), "n_projections": 2}, pytest.raises(ValueError, match="contradicts v")),
    ({"kind": "density"}, pytest.raises(ValueError, match="kind must be one of")),
    ({"generator": 1}, pytest.raises(TypeError, match="generator")),
    ({"v": 1}, pytest.raises(TypeError, match="v must be")),
    ({"projection": "circle"}, pytest.raises(ValueError, match="projection")),
    ({"precision": "half"}, pytest.raises(ValueError, match="precision")),
]


def test_other_options_go_the_long_way(subtests: pytest.Subtests) -> None:
    model = network()
    fastssm.sliced_loss(model, data())
    for options, outcome in OTHER:
        with subtests.test(str(options)), outcome:
            fastssm.sliced_loss(model, data(), **options)


def test_an_attribute_before_a_parameter_is_what_the_module_computes_with() -> None:
    model, x = network(), data()
    fastssm.exact_loss(model, x)
    vars(model[0])["weight"] = 2.0 * model[0].weight.detach()
    expected = fastssm.exact_loss(model, x, backend="reference")
    torch.testing.assert_close(fastssm.exact_loss(model, x), expected)


def test_a_network_of_which_something_is_computed_has_no_guarded_call() -> None:
    computed = [
        nn.Sequential(nn.Softplus(), nn.Linear(D, 1)),  # an identity before the activation
        fastssm.nn.MLP(D, [8], cond_dim=2),
    ]
    for model, cond in zip(computed, (None, torch.ones(5, 2)), strict=True):
        for _ in range(2):
            fastssm.sliced_loss(model, data(), cond=cond).backward()
        entry = recognised(model)
        assert entry is None or entry.guarded.call is None
