"""What a backend accepts runs forward and backward; what it refuses is refused before the forward, with the reasons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends
from fastssm.backends import cuda
from fastssm.backends.entries import compiled
from fastssm.nn import MLP
from fastssm.options import OPERATORS, PRECISIONS, WHATS
from tests.covering import each

GPU = torch.cuda.is_available()
D = 5


class Unrecognised(nn.Module):
    """A network that only autograd runs."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(D, 8), nn.PReLU(), nn.Linear(8, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).square()


NETS: dict[str, Callable[[], nn.Module]] = {
    "energy": lambda: MLP(D, [8, 8]),
    "score": lambda: MLP(D, [8, 8], D),
    "unrecognised energy": lambda: Unrecognised(1),
    "unrecognised score": lambda: Unrecognised(D),
}
# what -> the functions that ask for it
CALLS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "objective": {
        "sliced_loss": fastssm.sliced_loss,
        "exact_loss": fastssm.exact_loss,
        "unreduced": lambda net, x, **options: fastssm.sliced_loss(net, x, reduction="none", **options).sum(),
    },
    "terms": {
        "terms": lambda net, x, **options: fastssm.terms(net, x, **options).projected_jacobian.sum(),
        "controlled": lambda net, x, **options: fastssm.sliced_loss(net, x, control_variate="optimal", **options),
    },
    "each": {"jacobian_diag": lambda net, x, **options: fastssm.jacobian_diag(net, x, **options).square().sum()},
    "score": {"score": lambda net, x, **options: fastssm.score(net, x, **options).square().sum()},
    "denoising": {"denoising_loss": lambda net, x, **options: fastssm.denoising_loss(net, x, sigma=0.5, **options)},
}
assert set(CALLS) == set(WHATS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("backend", backends.NAMES)
@each("precision", PRECISIONS)
def test_what_is_accepted_runs_and_what_is_refused_says_why(
    backend: str, what: Any, precision: Any, dtype: torch.dtype
) -> None:
    device = "cuda" if backend == "cuda" and GPU else "cpu"
    for (name, make), grad in product(NETS.items(), (True, False)):
        torch.manual_seed(0)
        net, x = make().to(device, dtype), torch.randn(4, D, device=device, dtype=dtype).requires_grad_(grad)
        ran: list[str] = []
        net.register_forward_hook(lambda *_: ran.append("forward"))  # noqa: B023
        with torch.set_grad_enabled(grad):
            request = backends.make_request(net, x, precision=precision)
            reasons = backends.BACKENDS[backend].unsupported(request, what)
            for call in CALLS[what].values():
                ran.clear()
                if reasons:
                    with pytest.raises(fastssm.UnsupportedError) as refused:
                        call(net, x, backend=backend, precision=precision)
                    assert [reason for reason in reasons if reason not in str(refused.value)] == [], name
                    assert ran == []
                    continue
                found = call(net, x, backend=backend, precision=precision)
                if grad:
                    leaves = [x, *net.parameters()]
                    grads = torch.autograd.grad(found, leaves, allow_unused=True)
                    assert all(g.isfinite().all() for g in grads if g is not None), name


def test_the_reference_runs_everything_in_full_precision() -> None:
    net, x = Unrecognised(1), torch.zeros(2, D)
    request = backends.make_request(net, x)
    assert all(backends.BACKENDS["reference"].unsupported(request, what) == [] for what in WHATS)


def test_a_rounded_term_for_each_direction_is_refused() -> None:
    """On a GPU, where it runs in PyTorch."""
    engine = cuda.Cuda()
    engine.unbuilt = []
    request = backends.make_request(MLP(4, [8], 4), torch.randn(3, 4), precision="bf16")
    start = "a term for each direction (jacobian_diag"
    assert any(reason.startswith(start) for reason in engine.unrounded(request, "each"))
    assert not any(reason.startswith(start) for reason in engine.unrounded(request, "terms"))
    cpu = backends.BACKENDS["cpu"]
    assert isinstance(cpu, backends.Fused)
    assert not any(start in reason for reason in cpu.unrounded(request, "each"))  # type: ignore[attr-defined]


# --- explain ---


def test_explain_answers_for_what_is_asked() -> None:
    net, x = MLP(D, [8], D), torch.randn(3, D)
    for what in WHATS:
        plan = fastssm.explain(net, x, what=what)
        assert plan.backend == backends.select(backends.make_request(net, x), what).name
    assert fastssm.explain(net, x, what="score").backend == "reference"  # as was measured
    assert fastssm.explain(net, x, what="denoising").backend == ("cpu" if compiled.DEVICES else "reference")
    if compiled.DEVICES and compiled.multiplies_bf16():
        assert fastssm.explain(net, x, precision="bf16").backend == "cpu"
        assert fastssm.explain(net, x, what="each", precision="bf16").backend == "cpu"
    with pytest.raises(ValueError, match=r"what must be one of objective, terms, .*, got 'loss'"):
        fastssm.explain(net, x, what="loss")  # type: ignore[arg-type]


def test_explain_answers_for_operators() -> None:
    net, field, x = MLP(D, [8]), MLP(D, [8], D), torch.randn(3, D)
    models = {"divergence": field, "laplacian": net, "hvp_form": net, "jacobian_diag": field}
    assert set(models) == set(OPERATORS)
    for what, model in models.items():
        request = backends.make_request(model, x, kind=OPERATORS[what][1])
        assert fastssm.explain(model, x, what=what).backend == backends.select(request, OPERATORS[what][0]).name
    one = MLP(1, [8])
    assert fastssm.explain(one, x[:, :1], what="laplacian").backend  # as the operator does, it takes an energy
    with pytest.raises(ValueError, match="divergence is of models with kind=\"score\", got kind='energy'"):
        fastssm.explain(field, x, what="divergence", kind="energy")
    with pytest.raises(ValueError, match="divergence is of a vector field"):
        fastssm.explain(net, x, what="divergence")


@pytest.mark.skipif(not compiled.DEVICES, reason="the cpu engine is not built")
def test_explain_says_what_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    field, x = MLP(D, [8], D), torch.randn(3, D)
    assert fastssm.explain(field, x, what="jacobian_diag", backend="cpu").notes == []
    engine = cuda.Cuda()
    note = "a term for each direction is computed by the sweeps in PyTorch"
    monkeypatch.setattr(backends.BACKENDS["cpu"], "by_pytorch", engine.by_pytorch)  # as on a GPU
    plan = fastssm.explain(field, x, what="jacobian_diag", backend="cpu")
    assert plan.notes == [note]
    assert str(plan).splitlines()[:2] == ["backend: cpu", f"note: {note}"]
    assert fastssm.explain(field, x, what="divergence").notes == []


def test_explain_begins_with_the_backends_of_the_device() -> None:
    net, x = MLP(D, [8]), torch.randn(3, D)
    plan = fastssm.explain(net, x)
    assert list(plan.reasons) == ["cpu", "torch", "jets", "reference", "cuda"]
    assert plan.reasons["cuda"] == ["x is on cpu, the cuda engine runs on CUDA tensors"]
    on_meta = fastssm.explain(net.to("meta"), x.to("meta"))
    assert list(on_meta.reasons)[:2] == ["torch", "jets"]


def test_a_backend_that_is_named_says_too_that_it_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = cuda.Cuda()
    engine.unbuilt = ["the cuda engine is not built: no compiler"]
    monkeypatch.setitem(backends.BACKENDS, "cuda", engine)
    with pytest.raises(fastssm.UnsupportedError, match=r"x is on cpu(?s:.)*is not built: no compiler"):
        fastssm.sliced_loss(MLP(D, [8]), torch.randn(3, D), backend="cuda")
