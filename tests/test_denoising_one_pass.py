"""Denoising losses and their gradients in one pass of the CPU engine, against plain autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends
from fastssm.backends import cpu
from fastssm.backends.entries import compiled, dispatcher, flat
from fastssm.nn import MLP
from fastssm.sweeps import Needs
from tests import oracle, oracle_noise
from tests.covering import each
from tests.networks import BY_NAME, CASES, RTOL, Case, over
from tests.test_compile import energy, score
from tests.test_native import NETS, Watching, problem
from tests.test_operators import drawn
from tests.test_score import flat_call
from tests.test_sweeps import BATCH, DIM, HIDDEN, WIDTHS, Products

pytestmark = [
    pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning"),
    pytest.mark.skipif("cpu" not in compiled.DEVICES, reason="the cpu engine is not built"),
]
KINDS = pytest.mark.parametrize("kind", ["energy", "score"])


@pytest.fixture(name="one_pass")
def _one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the score is computed alone."""

    def score(self: cpu.Cpu, request: object) -> Tensor:
        raise AssertionError("the score was computed alone")

    monkeypatch.setattr(cpu.Cpu, "score", score)


def levels(x: Tensor) -> Tensor:
    return torch.linspace(0.3, 1.5, len(x), dtype=x.dtype)


def everything(found: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [found, *oracle.gradients(found, leaves)]


@pytest.mark.usefixtures("one_pass")
@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
@over(CASES)
def test_the_loss_and_every_gradient(case: Case, weighted: bool, reduction: Any) -> None:
    model, x, cond, leaves = drawn(case)
    sigma, noise = levels(x), torch.randn_like(x)
    weight = torch.rand(len(x), dtype=x.dtype) if weighted else None
    kind = "energy" if case.energy else "score"
    options = {"sigma": sigma, "noise": noise, "weight": weight, "reduction": reduction, "kind": kind, "cond": cond}
    found = fastssm.denoising_loss(model, x, backend="cpu", **options)
    each = oracle_noise.denoising(model, x, noise, sigma, energy=case.energy, cond=cond)
    expected = oracle.reduced(each, weight, reduction)
    oracle.assert_close(everything(found, leaves), everything(expected, leaves), RTOL, case.name)


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize("threads", [1, 3])
@KINDS
@each("samples", [1, 95, 96, 97, 300])
def test_batches_around_the_tiles(kind: str, threads: int, samples: int) -> None:
    torch.manual_seed(samples)
    net = MLP(3, [40, 40], 1 if kind == "energy" else 3, "tanh").double()
    x, noise = torch.randn(samples, 3, dtype=torch.float64), torch.randn(samples, 3, dtype=torch.float64)
    leaves, before = [x.requires_grad_(), *net.parameters()], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = everything(fastssm.denoising_loss(net, x, sigma=levels(x), noise=noise, backend="cpu"), leaves)
    finally:
        torch.set_num_threads(before)
    each = oracle_noise.denoising(net, x, noise, levels(x), energy=kind == "energy")
    oracle.assert_close(found, everything(each.mean(), leaves), RTOL)


@pytest.mark.parametrize("trained", ["weight", "noise", "sigma", "nothing"])
@KINDS
def test_other_losses_are_made_of_the_score(kind: str, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of samples, and those with gradients that one pass does not give."""
    model, x, _, leaves = drawn(BY_NAME[f"{kind}-depth-2"])
    given = {"weight": torch.rand(len(x), dtype=x.dtype), "noise": torch.randn_like(x), "sigma": levels(x)}
    if trained != "nothing":
        leaves = [*leaves, given[trained].requires_grad_()]
    monkeypatch.setattr(cpu.Cpu, "denoising", None)
    reduction = "none" if trained == "nothing" else "mean"
    found = fastssm.denoising_loss(model, x, backend="cpu", reduction=reduction, **given)  # type: ignore[arg-type]
    each = oracle_noise.denoising(model, x, given["noise"], given["sigma"], energy=kind == "energy")
    expected = oracle.reduced(each, given["weight"], "mean")
    found = found.mean() if reduction == "none" else found
    oracle.assert_close(everything(found, leaves), everything(expected, leaves), RTOL, trained)


@KINDS
def test_units_of_arithmetic(kind: str) -> None:
    """Of the operator in PyTorch, for an energy: up, the chain, the curvature row, the adjoints, and two for dW."""
    model, x = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM), torch.randn(BATCH, DIM)
    *inputs, tensors, name, activations, constants, flags, _, _ = flat_call(model, x)
    structure = (name, activations, constants, flags)
    with Products() as products:
        static = dispatcher._static(*structure, 0, "full")  # type: ignore[arg-type]
        flat.run_objective(
            flat.Inputs(*inputs), None, tensors, static, flat.Form(True, True), Needs(True, True), torch.zeros_like(x)
        )  # type: ignore[arg-type]
    for a, b in HIDDEN:
        assert products.between(a, b) == [BATCH] * (6 if kind == "energy" else 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [energy, score])
def test_the_operator_passes_opcheck(make: Any, dtype: torch.dtype) -> None:
    x = torch.randn(6, 3, dtype=torch.float64).to(dtype).requires_grad_()
    arguments = flat_call(make().to(dtype), x)
    target, weight = torch.randn(6, 3).to(dtype), torch.rand(6).to(dtype)
    for mean, given in ((True, weight), (False, None)):
        call = (*arguments[:5], target, given, *arguments[5:], mean, True, True)
        torch.library.opcheck(torch.ops.fastssm.denoising.default, call)
    wrong = (*arguments[:5], target[:5], None, *arguments[5:], True, False, False)
    with pytest.raises(RuntimeError, match=r"target must have 18 elements, got \[5, 3\]"):
        torch.ops.fastssm.denoising(*wrong)
    along = (*arguments[:5], target, None, *arguments[5:-2], 3, "full", True, False, False)
    with pytest.raises(RuntimeError, match="a denoising objective has no directions"):
        torch.ops.fastssm.denoising(*along)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETS)
def test_both_entries_return_the_same_bits(name: str, dtype: torch.dtype) -> None:
    net, x, given = problem(name, dtype)
    noise = torch.randn_like(x)
    leaves = [x.requires_grad_(), *net.parameters()]

    def run() -> list[Tensor]:
        return everything(fastssm.denoising_loss(net, x, sigma=0.5, noise=noise, backend="cpu", **given), leaves)

    direct = run()
    with Watching() as mode:
        dispatched = run()
    assert any("fastssm.denoising" in call for call in mode.seen)
    assert all(map(torch.equal, direct, dispatched))


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("make", [energy, score])
def test_compiled_without_graph_break(make: Any) -> None:
    net = make()

    def run(x: Tensor, noise: Tensor) -> Tensor:
        return fastssm.denoising_loss(net, x, sigma=0.5, noise=noise, backend="cpu")

    together = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for samples in (6, 9):
        x, noise = torch.randn(samples, 3, dtype=torch.float64), torch.randn(samples, 3, dtype=torch.float64)
        pair = [everything(call(x, noise), [*net.parameters()]) for call in (together, run)]
        oracle.assert_close(*pair, RTOL)


@KINDS
def test_a_second_backward_is_refused(kind: str) -> None:
    model, x, _, _ = drawn(BY_NAME[f"{kind}-depth-2"])
    (gradient,) = torch.autograd.grad(fastssm.denoising_loss(model, x, sigma=0.5, backend="cpu"), x, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.autograd.grad(gradient.sum(), x)


@pytest.mark.usefixtures("one_pass")
@KINDS
def test_no_samples_and_no_gradients(kind: str) -> None:
    model, x, _, leaves = drawn(BY_NAME[f"{kind}-depth-2"])
    empty = fastssm.denoising_loss(model, x[:0], sigma=0.5, reduction="sum", backend="cpu")
    assert all(not t.any() for t in everything(empty, leaves))
    noise = torch.randn_like(x)
    with torch.no_grad():
        found = fastssm.denoising_loss(model, x, sigma=0.5, noise=noise, backend="cpu")
    expected = oracle_noise.denoising(model, x, noise, 0.5, energy=kind == "energy").mean()
    assert not found.requires_grad
    oracle.assert_close([found], [expected], RTOL)


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@KINDS
def test_what_is_not_finite_shows(kind: str, value: float) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1 if kind == "energy" else 3)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    for parameter in net.parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] = value
        assert fastssm.denoising_loss(net, x, sigma=0.5, backend="cpu").isfinite().logical_not()
        with torch.no_grad():
            parameter.copy_(before)
    assert fastssm.denoising_loss(net, x, sigma=0.5, backend="cpu").isfinite()


@pytest.mark.skipif(not compiled.DEVICES or not compiled.multiplies_bf16(), reason="no products of bfloat16 here")
@KINDS
def test_rounded_products(kind: str) -> None:
    torch.manual_seed(0)
    net, x, noise = MLP(40, [64, 64], 1 if kind == "energy" else 40), torch.randn(16, 40), torch.randn(16, 40)
    full, rounded = (
        everything(
            fastssm.denoising_loss(net, x, sigma=0.5, noise=noise, backend="cpu", precision=precision),
            [*net.parameters()],
        )
        for precision in ("full", "bf16")
    )
    assert not torch.equal(full[0], rounded[0])
    oracle.assert_close(rounded, full, 0.03, kind)


@KINDS
def test_auto_takes_it_for_a_loss_that_is_a_number(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _, _ = drawn(BY_NAME[f"{kind}-depth-2"])
    ran: list[str] = []
    for name in ("denoising", "score"):
        method = getattr(cpu.Cpu, name)

        def noted(*given: Any, name: str = name, method: Any = method) -> Tensor:
            ran.append(name)
            return method(*given)

        monkeypatch.setattr(cpu.Cpu, name, noted)
    fastssm.denoising_loss(model, x, sigma=0.5)
    fastssm.denoising_loss(model, x, sigma=0.5, reduction="none")
    assert ran == (["denoising", "score"] if kind == "energy" else ["denoising"])


def test_only_the_cpu_engine_does_it() -> None:
    """The others compute the score, and its gradient in backward."""
    assert [name for name in backends.NAMES if isinstance(backends.BACKENDS[name], backends.Denoiser)] == ["cpu"]
