"""The entries of the compiled engine: the same bits behind both, and who goes through which."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm
from fastssm.backends import choice
from fastssm.backends.entries import compiled, dispatcher
from fastssm.native import cuda_library
from fastssm.nn import MLP
from tests import oracle

pytestmark = pytest.mark.skipif("cpu" not in compiled.DEVICES, reason="the cpu engine is not built")
B, D, M = 6, 3, 2
NETS: dict[str, Callable[[], nn.Module]] = {
    "energy": lambda: nn.Sequential(nn.Linear(D, 7), nn.Softplus(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)),
    "one layer": lambda: nn.Sequential(nn.Linear(D, 7), nn.Softplus(), nn.Linear(7, 1)),
    "score": lambda: nn.Sequential(nn.Linear(D, 7), nn.SiLU(), nn.Linear(7, D)),
    "concat": lambda: MLP(D, [7, 7], cond_dim=2, residual=True),
    "film": lambda: MLP(D, [7, 5], D, "silu", cond_dim=2, conditioning="film"),
}


def problem(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    torch.manual_seed(3)
    net = NETS[name]().to(dtype)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.6)
    cond = {"cond": torch.randn(B, 2, dtype=dtype)} if isinstance(net, MLP) else {}
    return net, torch.randn(B, D, dtype=dtype), cond


class Watching(TorchDispatchMode):
    """Lists the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **kwargs or {})


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that went through the operators."""
    found: list[str] = []
    for name in ("objective", "terms"):
        original = getattr(dispatcher, name)
        monkeypatch.setattr(dispatcher, name, lambda *a, _name=name, _call=original: found.append(_name) or _call(*a))
    return found


def loss_and_gradients(net: nn.Module, x: Tensor, **options: object) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    loss = fastssm.sliced_loss(net, x, generator=torch.Generator().manual_seed(5), **options)
    return [loss, *torch.autograd.grad(loss.sum(), [x, *net.parameters()])]


# --- two entries, one engine ---


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", NETS)
def test_both_entries_return_the_same_bits(name: str, reduction: str, dtype: torch.dtype, watched: list[str]) -> None:
    net, x, given = problem(name, dtype)
    for variance_reduced in (True, False):
        options = {"reduction": reduction, "variance_reduced": variance_reduced, "n_projections": M, **given}
        direct = loss_and_gradients(net, x, backend="cpu", **options)
        assert watched == []
        with Watching() as mode:
            dispatched = loss_and_gradients(net, x, backend="cpu", **options)
        assert any("fastssm" in call for call in mode.seen)
        assert not any("mm" in call for call in mode.seen if name != "film"), "the engine leaks its arithmetic"
        assert all(map(torch.equal, direct, dispatched))
        assert [g.dtype for g in direct] == [g.dtype for g in dispatched]
        watched.clear()


@pytest.mark.parametrize("loss", ["ssm", "vr"])
def test_the_engine_draws_the_signs_of_the_pytorch_path(loss: str) -> None:
    net, x, _ = problem("energy")
    options = {"n_projections": M, **oracle.OPTIONS[loss]}
    found = [loss_and_gradients(net, x, backend=name, **options) for name in ("cpu", "torch")]
    oracle.assert_close(found[0], found[1], 1e-12)


# --- who sees operators ---


def test_a_plain_call_enters_directly(watched: list[str]) -> None:
    net, x, _ = problem("energy")
    fastssm.sliced_loss(net, x, backend="cpu")
    fastssm.terms(net, x, backend="cpu")
    fastssm.sliced_loss(net, nn.Parameter(x), backend="cpu").backward()
    assert watched == []


def test_fake_tensors_see_operators(watched: list[str]) -> None:
    net, _, _ = problem("energy")
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(B, D, dtype=torch.float64)
        assert fastssm.sliced_loss(net, x, backend="cpu").shape == ()
    assert fastssm.explain(net, x).backend == "cpu"
    assert watched == ["objective"]


def test_subclasses_of_tensors_see_operators(watched: list[str]) -> None:
    net, x, _ = problem("energy")
    v = torch.ones(1, B, D, dtype=torch.float64)
    pair = TwoTensor(x, 2.0 * x)
    found = fastssm.sliced_loss(net, pair, v=v, backend="cpu")
    assert watched == ["objective"]
    for half, data in ((found.a, x), (found.b, 2.0 * x)):
        assert torch.equal(half, fastssm.sliced_loss(net, data, v=v, backend="cpu"))


def test_a_compiled_loss_holds_one_operator() -> None:
    net, x, _ = problem("energy")
    v = torch.ones(1, B, D, dtype=torch.float64)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def loss(x: Tensor) -> Tensor:
        return fastssm.sliced_loss(net, x, v=v)

    torch._dynamo.reset()
    assert torch.equal(torch.compile(loss, fullgraph=True, backend=keep)(x), loss(x))
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("fastssm.objective" in name for name in called) == 1
    assert not any("mm" in name for name in called)


# --- what the engine refuses ---


def refused(net: nn.Module, x: Tensor, **options: object) -> str:
    with pytest.raises(fastssm.UnsupportedError) as raised:
        fastssm.sliced_loss(net, x, backend="cpu", **options)
    return str(raised.value)


def test_transforms_are_left_to_the_pytorch_path() -> None:
    net, x, _ = problem("one layer")
    v = torch.ones(1, B, D, dtype=torch.float64)
    direct = x.clone().requires_grad_()
    expected = torch.autograd.grad(fastssm.sliced_loss(net, direct, v=v), direct)[0]

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: fastssm.sliced_loss(net, x, v=v))(x)

    torch._dynamo.reset()
    ways = [gradient]
    if torch.__version__ >= (2, 11):  # 2.10 compiles no autograd.Function under a transform
        ways.append(torch.compile(gradient, backend="eager", fullgraph=True))
    for way in ways:
        found = way(x)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-12)
    messages: list[str] = []

    def named(x: Tensor) -> Tensor:
        messages.append(refused(net, x, v=v))
        return x.sum()

    torch.func.grad(named)(x)
    assert "torch.func transform" in messages[0]


def test_other_devices_are_refused() -> None:
    net, x, _ = problem("energy")
    net, x = net.to("meta"), x.to("meta")
    assert "x is on meta, the cpu engine runs on CPU tensors" in refused(net, x)
    assert fastssm.explain(net, x).backend == "torch"


def test_forward_mode_derivatives_are_refused_in_words() -> None:
    net, x, _ = problem("energy")
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp is not implemented"):
        fastssm.sliced_loss(net, torch.autograd.forward_ad.make_dual(x, x), backend="cpu")


# --- bfloat16 products ---

WIDE: dict[str, dict[str, object]] = {
    "energy": {"out_features": 1},
    "score": {"out_features": 16, "activation": "silu"},
    "film": {"out_features": 1, "cond_dim": 2, "conditioning": "film", "residual": True},
}
rounds = pytest.mark.skipif(
    "not compiled.DEVICES or not compiled.multiplies_bf16()", reason="this processor has no bfloat16 products"
)


def wide_problem(name: str) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    torch.manual_seed(4)
    cond = {"cond": torch.randn(32, 2)} if "cond_dim" in WIDE[name] else {}
    return MLP(16, [64, 64], **WIDE[name]), torch.randn(32, 16), cond


@rounds
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("loss", ["ssm", "vr"])
def test_bf16_products_are_close_to_full_precision(name: str, loss: str) -> None:
    net, x, given = wide_problem(name)
    options = {"n_projections": M, **given, **oracle.OPTIONS[loss]}
    full, rounded = (loss_and_gradients(net, x, precision=precision, **options) for precision in ("full", "bf16"))
    assert not torch.equal(full[0], rounded[0]), "the products were not rounded"
    oracle.assert_close(rounded, [t.double() for t in full], 2e-2)
    with Watching():
        assert all(map(torch.equal, loss_and_gradients(net, x, precision="bf16", **options), rounded))
    assert all(g.dtype == torch.float32 for g in rounded)


@rounds
def test_bf16_products_are_for_every_caller() -> None:
    net, x, _ = wide_problem("energy")
    v = torch.ones_like(x)
    assert fastssm.explain(net, x, precision="bf16").backend == "cpu"
    for call in (
        lambda **o: fastssm.exact_loss(net, x, **o),
        lambda **o: fastssm.terms(net, x, v=v, **o).score,
        lambda **o: fastssm.SlicedScoreLoss(net, **o)(x, v=v),
        lambda **o: fastssm.sliced_loss(copy.deepcopy(net).bfloat16(), x.bfloat16(), v=v, reduction="none", **o),
    ):
        full, rounded = call(), call(precision="bf16")
        assert not torch.equal(full, rounded), "the products were not rounded"
        oracle.assert_close([rounded], [full.double()], 2e-2)
    assert "float32" in refused(net.double(), x.double(), precision="bf16")
    net, x = MLP(40, [64, 48, 64], out_features=1), torch.randn(5, 40)  # unit directions into a layer that is rounded
    full, rounded = (
        torch.autograd.grad(fastssm.exact_loss(net, x, precision=p, backend="cpu"), list(net.parameters()))
        for p in ("full", "bf16")
    )
    oracle.assert_close(rounded, [t.double() for t in full], 2e-2)


def test_a_processor_without_bf16_products_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = problem("energy", torch.float32)
    monkeypatch.setattr(compiled, "multiplies_bf16", lambda: False)
    assert "needs a processor" in refused(net, x, precision="bf16")
    with pytest.raises(fastssm.UnsupportedError, match="no backend can run this call"):
        fastssm.sliced_loss(net, x, precision="bf16")


def test_the_order_of_auto() -> None:
    engines = [*([] if cuda_library.missing() else ["cuda"]), "cpu"]  # as they are built here, device or not
    assert [backend.name for backend in choice._READY] == [*engines, "torch", "jets", "reference"]
