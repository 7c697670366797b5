"""What jets refuse, with the operation, the module and the reason; and what a call leaves as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastssm
from fastssm.recognition import Fingerprint
from tests import oracle
from tests.jets.networks import AttentionEnergy, Counting, data, made

Function = Callable[[Tensor], Tensor]
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("Converting a tensor", "Implicit dimension")]


class Inner(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Outer(nn.Module):
    """An energy with one function in a module of its own."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 4), Inner(function), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x).tanh()))


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0].cos() * grad


@torch.no_grad()
def without_grad(x: Tensor) -> Tensor:
    return x.sin()


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy(force=True)) + x


def in_place_on_a_view(x: Tensor) -> Tensor:
    h = x.sin()
    h[:, :2].mul_(2.0)
    return h


def in_place_on_what_has_a_view(x: Tensor) -> Tensor:
    h = x.sin()
    part = h.view(-1, 2, 2)
    h += 1.0
    return h * part.flatten(1)


def into_a_plain_tensor(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape)
    out[:, 1:] = x[:, 1:].sin()
    return out


def method_on_a_plain_tensor(x: Tensor) -> Tensor:
    out = torch.ones(x.shape)
    out.add_(x)
    return out


def by_a_branch(x: Tensor) -> Tensor:
    return x.sin() if x.sum() else x


def by_its_type(x: Tensor) -> Tensor:
    return x.sin() if type(x) is Tensor else x.cos()


def images(layer: nn.Module) -> Function:
    return lambda x: layer(x.view(-1, 2, 2)).flatten(1)


def attention(**options: Any) -> Function:
    layer = nn.MultiheadAttention(4, 2, batch_first=True, **options)
    return lambda x: layer(x[:, None], x[:, None], x[:, None])[0][:, 0]


COUPLED = "couples the samples of a batch"
RULE = "jets have no rule for"
PLAIN = "cannot be written into a plain tensor; make it by torch.zeros_like(x)"
IN_PLACE = "cannot change a tensor in place that shares its memory with a view of it; use x = x + y"
CASES: dict[str, tuple[Function, str]] = {
    "no rule": (lambda x: torch.special.bessel_j0(x), f"inner (Inner): {RULE} special_bessel_j0"),
    "no rule for a method": (lambda x: (0.5 * x).erfinv(), f"inner (Inner): {RULE} Tensor.erfinv"),
    "no_grad": (without_grad, "sin is called under torch.no_grad() or in an autograd.Function"),
    "autograd.Function": (Own.apply, "sin is called under torch.no_grad() or in an autograd.Function"),
    "numpy": (through_numpy, f"{RULE} Tensor.numpy"),
    "detach": (lambda x: x.detach().sin(), "does not depend on x through operations that jets see"),
    "data": (lambda x: x.data.sin(), f"{RULE} Tensor.data"),
    "constant": (lambda x: torch.zeros(x.shape) + 1.0, "does not depend on x through operations that jets see"),
    "item": (lambda x: x * x.sum().item(), f"{RULE} Tensor.item"),
    "float": (lambda x: x * float(x[0, 0]), f"{RULE} Tensor.__float__"),
    "bool": (by_a_branch, f"{RULE} Tensor.__bool__"),
    "tolist": (lambda x: x * x[0, 0].tolist(), f"{RULE} Tensor.tolist"),
    "view in place": (in_place_on_a_view, IN_PLACE),
    "viewed in place": (in_place_on_what_has_a_view, IN_PLACE),
    "into a plain tensor": (into_a_plain_tensor, PLAIN),
    "method on a plain tensor": (method_on_a_plain_tensor, "does not depend on x"),
    "batch norm": (nn.BatchNorm1d(4), "batch normalisation in train mode couples the samples"),
    "instance norm": (images(nn.InstanceNorm1d(2, track_running_stats=True)), "jets do not update running statistics"),
    "mean": (lambda x: x - x.mean(0), COUPLED),
    "largest": (lambda x: x / x.abs().max(), COUPLED),
    "sorted": (lambda x: x.sort(0).values, COUPLED),
    "softmax of samples": (lambda x: torch.softmax(x, 0), COUPLED),
    "attention of samples": (lambda x: F.scaled_dot_product_attention(x, x, x), COUPLED),
    "another output": (by_its_type, "on jets the model's output is another one"),
    "clamp by data": (lambda x: x.clamp(x.sin() - 1.0, x.sin()), "use torch.maximum and torch.minimum"),
    "three factors": (lambda x: torch.einsum("bi,bi,bi->bi", x, x, x), "einsum of three or more operands"),
    "cross entropy": (
        lambda x: x * F.cross_entropy(x, torch.tensor([0] * len(x)), reduction="none")[:, None],
        "no rule for losses of classes; write them out by log_softmax or logsigmoid",
    ),
    "weighted loss": (
        lambda x: F.mse_loss(x, x.sin(), reduction="none", weight=torch.ones(x.shape)),
        "a loss with weight=",
    ),
    "softmax without dim": (lambda x: F.softmax(x), "softmax along a given dim only"),
    "log_softmax without dim": (lambda x: F.log_softmax(x), "log_softmax along a given dim only"),
    "norm of order 3": (lambda x: x * torch.linalg.vector_norm(x, 3, 1, True), "norms of order 1, 2 and inf, got 3"),
    "rounded division": (lambda x: torch.div(x, 2.0, rounding_mode="floor") + x, "div with rounding_mode='floor'"),
    "solve from the right": (
        lambda x: torch.linalg.solve(torch.eye(4) + x[:, :1, None], x[:, None], left=False)[:, 0],
        "linalg.solve with left=True only",
    ),
    "triangular matrix": (
        lambda x: torch.linalg.solve_triangular(torch.eye(4) + x[:, :1, None], x[..., None], upper=True)[..., 0],
        "use torch.linalg.solve",
    ),
    "bias_kv": (attention(add_bias_kv=True), "multi-head attention with bias_kv, add_zero_attn or static keys"),
    "zero_attn": (attention(add_zero_attn=True), "multi-head attention with bias_kv, add_zero_attn or static keys"),
}


def refusals(model: nn.Module, x: Tensor, **options: Any) -> list[str]:
    return list(fastssm.explain(model, x, kind="energy", **options).reasons["jets"])


def test_refusals_name_operation_module_and_reason() -> None:
    x = torch.randn(5, 4)
    wrong = {}
    for name, (function, words) in CASES.items():
        found = refusals(Outer(function), x)
        if not any(words in reason for reason in found):
            wrong[name] = found
    assert wrong == {}
    with pytest.raises(fastssm.UnsupportedError, match=r"inner \(Inner\): jets have no rule for special_bessel_j0"):
        fastssm.sliced_loss(Outer(CASES["no rule"][0]), x, kind="energy", backend="jets")


def test_the_output_itself_is_checked() -> None:
    x = torch.randn(5, 4)
    whole = Inner(lambda x: torch.zeros(len(x)))
    assert "does not depend on x" in refusals(whole, x)[0]
    assert "only a module says which parameters it has" in refusals(lambda x: x.square().sum(1), x)[0]
    (reason,) = fastssm.explain(Outer(torch.sin), x, what="score", kind="energy").reasons["jets"]
    assert "plain autograd finds fastest" in reason


def test_refused_models_run_elsewhere() -> None:
    """Where `reference` is right, it gives what plain autograd does."""
    torch.manual_seed(0)
    x, v = torch.randn(5, 4), torch.randn(2, 5, 4)
    for name in ("no rule for a method", "autograd.Function", "mean", "view in place", "three factors"):
        net, (function, _) = Outer(CASES[name][0]), CASES[name]
        found = fastssm.sliced_loss(net, x, v=v, kind="energy")
        assert fastssm.explain(net, x, kind="energy").backend == "reference", name
        assert callable(function)
        expected = oracle.losses(net, x, v, "vr", energy=True).mean()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_call_changes_nothing(training: bool) -> None:
    """What a forward of the model itself changes is changed once; gradients do not gather."""
    net = made(lambda: AttentionEnergy(0.3)).train(training)
    x, v = data(net, 5, 2)
    before, state = x.clone(), {name: t.clone() for name, t in net.state_dict().items()}
    given = {"v": v, "kind": "energy", "backend": "jets"}
    for requires_grad in (False, True):
        x.requires_grad_(requires_grad)
        rng = torch.get_rng_state()
        fastssm.explain(net, x, kind="energy")
        assert torch.equal(torch.get_rng_state(), rng)
        value = fastssm.sliced_loss(net, x, **given)
        fastssm.terms(net, x, **given).projected_jacobian.sum()
        with torch.no_grad():
            quiet = fastssm.sliced_loss(net, x, **given)
        assert torch.equal(torch.get_rng_state(), rng) is not training
        assert value.requires_grad
        assert not quiet.requires_grad
        assert (x.requires_grad, x.grad) == (requires_grad, None)
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert torch.equal(x, before)
        assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
        assert net.training is training
    value.backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in net.parameters())


def test_a_buffer_is_changed_once_a_call() -> None:
    net = made(Counting).train()
    x, v = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for calls in (1, 2):
        fastssm.sliced_loss(net, x, v=v, kind="energy", backend="jets").backward()
        assert net.calls == calls
    net.eval()
    fastssm.sliced_loss(net, x, v=v, kind="energy", backend="jets")
    assert net.calls == 2


def test_models_under_inference_mode() -> None:
    net = made(AttentionEnergy)
    x, v = data(net, 5, 2)
    expected = fastssm.sliced_loss(net, x, v=v, kind="energy", backend="jets")
    with torch.inference_mode():
        torch.testing.assert_close(fastssm.sliced_loss(net, x, v=v, kind="energy", backend="jets"), expected)


def test_the_state_of_a_model_is_compared_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Outer(partial(F.layer_norm, normalized_shape=(4,))), torch.randn(5, 4)
    fastssm.sliced_loss(net, x)
    compared: list[int] = []
    holds = Fingerprint.holds
    monkeypatch.setattr(Fingerprint, "holds", lambda self: compared.append(1) or holds(self))
    fastssm.sliced_loss(net, x, backend="jets")
    assert len(compared) == 2  # by recognition and by the trial
    net.inner.function = torch.floor
    with pytest.raises(fastssm.UnsupportedError, match="cannot run this call"):
        fastssm.sliced_loss(net, x, backend="jets")
