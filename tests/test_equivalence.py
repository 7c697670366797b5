"""Every backend against plain float64 autograd that shares no formula with it: the value and every gradient."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import directions
from tests import oracle
from tests.networks import BACKENDS, BATCH, BY_NAME, CASES, DEVICE, ENTRIES, RTOL, Case, over, through

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")


def drawn(
    projection: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> Tensor:
    return directions.draw(projection, shape, dtype=dtype, device=DEVICE, generator=generator)


def fast(model: nn.Module, x: Tensor, loss: str, case: Case, **options: object) -> Tensor:
    options["kind"] = "energy" if case.energy else "score"
    if loss == "exact":
        options = {k: a for k, a in options.items() if k not in ("v", "projection", "n_projections", "generator")}
        return fastssm.exact_loss(model, x, **options)
    return fastssm.sliced_loss(model, x, **options, **oracle.OPTIONS[loss])


def agree(
    case: Case,
    loss: str,
    drawn: Tensor,
    backend: str,
    reduction: str,
    weighted: bool,
    *,
    inputs: bool,
    **options: object,
) -> None:
    """Compare one loss and its gradients in x (if `inputs`), cond, weight and every parameter with the oracle's."""
    model, x, cond = case.problem()
    x, *cond = [t.requires_grad_(inputs) for t in (x, *cond)]
    weight = torch.linspace(0.5, 1.5, BATCH, dtype=torch.float64) if weighted else None
    leaves = [*model.parameters(), *([x, *cond] if inputs else [])]
    options = {**options, "weight": weight, "cond": tuple(cond) or None}
    found = fast(model, x, loss, case, reduction=reduction, backend=backend, **options)
    assert found.shape == ((BATCH,) if reduction == "none" else ())
    found = oracle.contracted(found) if reduction == "none" else found
    each = oracle.losses(model, x, drawn, loss, energy=case.energy, cond=cond, weight=weight)
    expected = oracle.reduced(each, weight, reduction)
    every = [torch.autograd.grad(found, leaves), oracle.gradients(expected, leaves)]  # no parameter may be left unused
    oracle.assert_close([found, *every[0]], [expected, *every[1]], RTOL, f"{loss} {reduction}")


@pytest.mark.parametrize("entry", ENTRIES)
@over(CASES)
def test_every_architecture(case: Case, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = through(entry, monkeypatch)
    v = drawn("gaussian", (3, BATCH, torch.Size(case.shape).numel()))
    for loss, reduction in itertools.product(oracle.LOSSES, ("mean", "none")):
        agree(case, loss, v, backend, reduction, reduction == "mean", inputs=True, v=v.reshape(3, BATCH, *case.shape))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("projection", directions.PROJECTIONS)
@pytest.mark.parametrize("name", ["energy-two-conds", "score-concat", "energy-activation-last"])
def test_every_option(name: str, projection: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, case = through(entry, monkeypatch), BY_NAME[name]
    for m, loss in itertools.product((1, 4), oracle.LOSSES):
        generators = [torch.Generator(DEVICE).manual_seed(m) for _ in range(2)]
        v = drawn(projection, (m, BATCH, 3), generator=generators[0])
        for reduction, weighted, inputs in itertools.product(("mean", "sum", "none"), (True, False), (True, False)):
            options = {"projection": projection, "n_projections": m, "generator": generators[1].manual_seed(m)}
            agree(case, loss, v, backend, reduction, weighted, inputs=inputs, **options)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", ["energy-residual", "score-film", "energy-concat", "score-image"])
def test_terms_under_any_algebra(name: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME[name]
    model, x, cond = case.problem()
    leaves = [x.requires_grad_(), *(c.requires_grad_() for c in cond), *model.parameters()]
    v = torch.randn(3, *x.shape, dtype=torch.float64)
    found = fastssm.terms(model, x, v=v, cond=cond, backend=through(entry, monkeypatch))
    projected, along, score = oracle.terms(model, x, v, energy=case.energy, cond=cond)
    expected = [projected, along.mean(0), score.square().sum(1), score.reshape(x.shape)]
    oracle.assert_close(list(found), expected, RTOL, "terms")
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in (1, 2, 4)):
        values = [
            sum((t[i].sin() * torch.arange(1.0, t[i].numel() + 1).view_as(t[i])).sum() for i in chosen)
            for t in (found, expected)
        ]
        grads = [
            torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
            for value in values
        ]
        oracle.assert_close(grads[0], grads[1], RTOL, f"terms {chosen}")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_the_weight(backend: str, reduction: str) -> None:
    case = BY_NAME["energy-depth-2"]
    model, x, _ = case.problem()
    weight, v = (
        torch.rand(BATCH, dtype=torch.float64, requires_grad=True),
        torch.randn(2, BATCH, 3, dtype=torch.float64),
    )
    found = fast(model, x, "vr", case, v=v, weight=weight, reduction=reduction, backend=backend)
    found = oracle.contracted(found) if reduction == "none" else found
    expected = oracle.reduced(oracle.losses(model, x, v, "vr", energy=True), weight, reduction)
    leaves = [weight, *model.parameters()]
    oracle.assert_close(torch.autograd.grad(found, leaves), oracle.gradients(expected, leaves), RTOL)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", oracle.LOSSES)
def test_values_without_grad_and_the_terms_of_a_loss(loss: str, backend: str) -> None:
    case = BY_NAME["energy-concat"]
    model, x, cond = case.problem()
    v = torch.randn(2, BATCH, 3, dtype=torch.float64)
    expected = oracle.losses(model, x, v, loss, energy=True, cond=cond)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            value, parts = fast(model, x, loss, case, v=v, cond=cond, backend=backend, return_terms=True)
        oracle.assert_close([value, parts.projected_jacobian + parts.square], [expected.mean(), expected], RTOL)
        assert not parts.projected_jacobian.requires_grad
        assert not parts.square.requires_grad
        assert value.requires_grad == (mode is torch.enable_grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", oracle.LOSSES)
def test_frozen_parameters_get_none(loss: str, backend: str) -> None:
    case = BY_NAME["energy-depth-2"]
    model, x, _ = case.problem()
    frozen = model.hidden[0].weight.requires_grad_(False)
    fast(model, x, loss, case, v=torch.randn(2, BATCH, 3, dtype=torch.float64), backend=backend).backward()
    assert frozen.grad is None
    assert all(p.grad is not None for p in model.parameters() if p is not frozen)
    assert x.grad is None


# Half precision is stored narrow and computed in float32, so gradients are right to a rounding; what runs the
# model itself stays narrow.
NARROW = ("reference", "jets")
PRECISIONS = [
    *((torch.float32, entry, 2.0**-23 * 128) for entry in ENTRIES),
    *((torch.bfloat16, entry, 2.0**-8) for entry in ENTRIES if entry not in NARROW),
    *((torch.float16, entry, 2.0**-10) for entry in ENTRIES if entry not in NARROW),
    *((torch.bfloat16, entry, 2.0**-8 * 16) for entry in NARROW),
]


@pytest.mark.parametrize(("dtype", "entry", "rtol"), PRECISIONS, ids=lambda a: str(a).removeprefix("torch."))
@pytest.mark.parametrize("name", ["energy-depth-3", "score-depth-3", "energy-gelu", "score-concat", "energy-settings"])
def test_narrow_dtypes(name: str, dtype: torch.dtype, entry: str, rtol: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case, backend = BY_NAME[name], through(entry, monkeypatch)
    model, x, cond = case.problem(dtype)
    wide, (wide_x, *wide_cond) = copy.deepcopy(model).double(), [t.double().requires_grad_() for t in (x, *cond)]
    v = drawn("rademacher", (3, BATCH, 3), dtype)
    x.requires_grad_()
    for loss in ("ssm", "vr", "exact"):
        found = fast(model, x, loss, case, v=v, cond=cond, backend=backend)
        assert found.dtype == torch.float32
        grads = torch.autograd.grad(found, [x, *model.parameters()])
        assert [g.dtype for g in grads] == [dtype] * len(grads)
        expected = oracle.losses(wide, wide_x, v.double(), loss, energy=case.energy, cond=wide_cond).mean()
        every = oracle.gradients(expected, [wide_x, *wide.parameters()])
        oracle.assert_close([found, *grads], [expected, *every], rtol, f"{loss} {dtype}")
