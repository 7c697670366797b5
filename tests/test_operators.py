"""Divergence, Jacobian's diagonal, Laplacian and Hessian's form, against nested autograd in float64: all gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends, directions
from fastssm.backends.entries import compiled
from fastssm.nn import MLP, Sin
from tests import oracle
from tests.networks import BACKENDS, BATCH, BY_NAME, CASES, ENTRIES, RTOL, Case, over, through
from tests.test_compile import energy, flat_call, score
from tests.test_sweeps import BATCH as COUNTED
from tests.test_sweeps import DIM, HIDDEN, WIDTHS, Products

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
ENERGIES = [case for case in CASES if case.energy]
SOME = ("depth-0", "depth-2", "residual", "concat", "film-time", "image", "weight-norm", "settings", "activation-last")
FIELDS = [case for case in CASES if not case.energy]
GPU = not backends.availability()["cuda"]


def basis(x: Tensor) -> Tensor:
    dim = x[0].numel()
    return torch.eye(dim, dtype=x.dtype)[:, None].expand(dim, len(x), dim)


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], leaves: Sequence[Tensor], what: str) -> None:
    """Compare some results, and the gradients of one uneven sum of them all in every leaf."""
    oracle.assert_close(found, expected, RTOL, what)
    sums = [  # the zero connects what is constant
        0.0 * sum(leaf.sum() for leaf in leaves)
        + sum((t.sin() * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in ts)
        for ts in (found, expected)
    ]
    grads = [torch.autograd.grad(s, leaves, retain_graph=True, allow_unused=True, materialize_grads=True) for s in sums]
    oracle.assert_close(*grads, RTOL, f"{what}, gradients")


def drawn(case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, tuple[Tensor, ...], list[Tensor]]:
    model, x, cond = case.problem(dtype)
    return model, x, cond, [x.requires_grad_(), *(c.requires_grad_() for c in cond), *model.parameters()]


@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("entry", ENTRIES)
@over(CASES)
def test_jacobian_diag(case: Case, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = through(entry, monkeypatch)
    model, x, cond, leaves = drawn(case)
    kind = "energy" if case.energy else "score"
    found = fastssm.jacobian_diag(model, x, cond=cond, kind=kind, backend=backend)
    along = oracle.terms(model, x, basis(x), energy=case.energy, cond=cond).along
    agree([found], [along.t().reshape(x.shape)], leaves, case.name)


@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", SOME)
def test_hvp_form(name: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs from `jacobian_diag` is the directions."""
    case = BY_NAME[f"energy-{name}"]
    backend, (model, x, cond, leaves) = through(entry, monkeypatch), drawn(case)
    v = torch.randn(3, *x.shape, dtype=torch.float64)
    along = oracle.terms(model, x, v, energy=True, cond=cond).along
    found = fastssm.hvp_form(model, x, v, cond=cond, backend=backend)
    agree([found], [-along], leaves, case.name)
    agree([fastssm.hvp_form(model, x, v[0], cond=cond, backend=backend)], [-along[0]], leaves, case.name)


@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("entry", ENTRIES)
@over(ENERGIES)
def test_laplacian(case: Case, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = through(entry, monkeypatch)
    model, x, cond, leaves = drawn(case)
    options = {"cond": cond, "backend": backend, "return_gradient": True}
    v = torch.randn(2, *x.shape, dtype=torch.float64)
    for given, chosen in ((basis(x), {}), (v, {"v": v})):
        lap, gradient = fastssm.laplacian(model, x, **chosen, **options)
        wanted = oracle.terms(model, x, given, energy=True, cond=cond)
        scale = len(given) if chosen else 1
        agree([lap, gradient.flatten(1)], [-wanted.along.sum(0) / scale, -wanted.score], leaves, case.name)


@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("entry", ENTRIES)
@over(FIELDS)
def test_divergence(case: Case, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = through(entry, monkeypatch)
    model, x, cond, leaves = drawn(case)
    options = {"cond": cond, "backend": backend, "return_value": True}
    v = torch.randn(2, *x.shape, dtype=torch.float64)
    for given, chosen in ((basis(x), {"exact": True}), (basis(x), {}), (v, {"v": v})):
        value, div = fastssm.divergence(model, x, **chosen, **options)
        wanted = oracle.terms(model, x, given, energy=False, cond=cond)
        scale = len(given) if "v" in chosen else 1
        assert value.shape == x.shape
        agree([div, value.flatten(1)], [wanted.along.sum(0) / scale, wanted.score], leaves, case.name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("projection", directions.PROJECTIONS)
def test_random_directions_are_those_of_the_generator(projection: str, backend: str) -> None:
    field, function = BY_NAME["score-concat"], BY_NAME["energy-concat"]
    v = directions.draw(projection, (4, BATCH, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    options = {"projection": projection, "n_projections": 4, "backend": backend}
    for case, operator, extra in ((field, fastssm.divergence, {}), (function, fastssm.laplacian, {"exact": False})):
        model, x, cond = case.problem()
        found = operator(model, x, cond=cond, generator=torch.Generator().manual_seed(3), **options, **extra)
        sign = -1 if case.energy else 1
        along = oracle.terms(model, x, v, energy=case.energy, cond=cond).along
        oracle.assert_close([found], [sign * along.mean(0)], RTOL, projection)


@pytest.mark.parametrize("name", ["divergence", "laplacian"])
def test_exact_unless_directions_are_asked_for(name: str) -> None:
    model, x, cond = BY_NAME["score-concat" if name == "divergence" else "energy-concat"].problem()

    def run(**options: object) -> Tensor:
        torch.manual_seed(0)
        return getattr(fastssm, name)(model, x, cond=cond, **options)

    assert torch.equal(run(), run(exact=True))
    assert torch.equal(run(exact=False), run(n_projections=1))
    assert torch.equal(run(exact=False, n_projections=2), run(n_projections=2))
    assert not torch.allclose(run(), run(exact=False))
    for asked in ({"n_projections": 2}, {"v": x}):
        with pytest.raises(ValueError, match="exact=True takes every coordinate"):
            run(exact=True, **asked)


# --- signs, on paper ---


class Bowl(nn.Module):
    """`f = sum_i a_i x_i^2 / 2`: Laplacian `sum a`, Hessian `diag a`, as an energy a score of slope `-a`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x * x).sum(1) / 2


def test_signs() -> None:
    bowl, x = Bowl(), torch.randn(5, 3, dtype=torch.float64)
    v, one = torch.randn_like(x), torch.ones(5, dtype=torch.float64)
    lap, gradient = fastssm.laplacian(bowl, x, return_gradient=True)
    torch.testing.assert_close(lap, 3.0 * one)
    torch.testing.assert_close(gradient, bowl.a * x)
    torch.testing.assert_close(fastssm.hvp_form(bowl, x, v), (bowl.a * v * v).sum(1))
    torch.testing.assert_close(fastssm.jacobian_diag(bowl, x), -bowl.a.expand(5, 3))
    linear = nn.Linear(3, 3).double()
    value, div = fastssm.divergence(linear, x, exact=True, return_value=True)
    torch.testing.assert_close(value, linear(x))
    torch.testing.assert_close(div, linear.weight.trace() * one)
    torch.testing.assert_close(fastssm.jacobian_diag(linear, x), linear.weight.diagonal().expand(5, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_waves(backend: str) -> None:
    """`f = sum_j w_j sin(k_j . x + p_j)` has the Laplacian `-sum_j w_j |k_j|^2 sin(k_j . x + p_j)`."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 7), Sin(), nn.Linear(7, 1)).double().requires_grad_(False)
    x = torch.randn(20, 3, dtype=torch.float64)
    k, p, w = net[0].weight, net[0].bias, net[2].weight[0]
    waves = (x @ k.t() + p).sin() * w
    torch.testing.assert_close(fastssm.laplacian(net, x, backend=backend), -waves @ k.square().sum(1))
    torch.testing.assert_close(fastssm.jacobian_diag(net, x, backend=backend), waves @ k.square())


# --- what is not asked for is not computed ---


@pytest.mark.parametrize(
    ("kind", "operator", "up", "down"),
    [
        ("score", lambda net, x, v: fastssm.divergence(net, x, v=v, backend="torch"), 3, 3),
        ("energy", lambda net, x, v: fastssm.laplacian(net, x, exact=False, v=v, backend="torch"), 4, 4),
        ("energy", lambda net, x, v: fastssm.hvp_form(net, x, v, backend="torch"), 4, 4),
    ],
)
def test_products_go_with_the_gradients_that_are_wanted(
    kind: str, operator: Callable[..., Tensor], up: int, down: int
) -> None:
    """Rows in units of the batch, M = 2: up for the value; for gradients up again, then down, and once more for dW."""
    torch.manual_seed(0)
    net = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM)
    v = torch.randn(2, COUNTED, DIM)
    for inputs, tensors in ((False, False), (True, False), (False, True)):
        net.requires_grad_(tensors)
        x = torch.randn(COUNTED, DIM, requires_grad=inputs)
        with Products() as products:
            out = operator(net, x, v)
            if inputs or tensors:
                out.sum().backward()
        units = up + (inputs or tensors) * (up + down) + tensors * down
        for a, b in HIDDEN:
            assert sum(products.between(a, b)) == units * COUNTED
        assert out.requires_grad == (inputs or tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_grad(backend: str) -> None:
    model, x, _ = BY_NAME["score-depth-2"].problem()
    expected = oracle.terms(model, x, basis(x), energy=False)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value, div = fastssm.divergence(model, x, exact=True, return_value=True, backend=backend)
            diagonal = fastssm.jacobian_diag(model, x, backend=backend)
        oracle.assert_close([div, value, diagonal], [expected.along.sum(0), expected.score, expected.along.t()], RTOL)
        assert not div.requires_grad
        assert not diagonal.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch(backend: str) -> None:
    (field, x, _), (function, _, _) = BY_NAME["score-depth-2"].problem(), BY_NAME["energy-depth-2"].problem()
    none = x[:0]
    assert fastssm.divergence(field, none, backend=backend).shape == (0,)
    assert fastssm.laplacian(function, none, backend=backend).shape == (0,)
    assert fastssm.jacobian_diag(field, none, backend=backend).shape == none.shape
    assert fastssm.hvp_form(function, none, none.expand(2, 0, 3), backend=backend).shape == (2, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["energy", "score"])
def test_more_directions_than_a_chunk_holds(kind: str, backend: str) -> None:
    torch.manual_seed(0)
    net = MLP(300, [6], 1 if kind == "energy" else 300, "tanh").double()
    x = torch.randn(3, 300, dtype=torch.float64, requires_grad=True)
    along = oracle.terms(net, x, basis(x), energy=kind == "energy").along
    found = fastssm.jacobian_diag(net, x, backend=backend)
    agree([found], [along.t()], [x, *net.parameters()], kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("name", ["energy-depth-3", "score-concat"])
def test_narrow_dtypes(name: str, backend: str, dtype: torch.dtype) -> None:
    model, x, cond, leaves = drawn(BY_NAME[name], dtype)
    wide, (wide_x, *wide_cond) = copy.deepcopy(model).double(), [t.detach().double() for t in (x, *cond)]
    found = fastssm.jacobian_diag(model, x, cond=cond, backend=backend)
    assert found.dtype == torch.float32
    grads = torch.autograd.grad(found.square().sum(), [leaves[0], *model.parameters()])
    wide_x.requires_grad_()
    along = oracle.terms(wide, wide_x, basis(wide_x), energy=BY_NAME[name].energy, cond=wide_cond).along
    wanted = oracle.gradients(along.square().sum(), [wide_x, *wide.parameters()])
    rtol = 2.0**-23 * 128 if dtype is torch.float32 else 2.0**-8
    oracle.assert_close([found, *grads], [along.t(), *wanted], rtol, name)


ROUNDED = {
    "divergence": (40, fastssm.divergence, {"exact": True}),
    "jacobian_diag": (40, fastssm.jacobian_diag, {}),
    "laplacian": (1, fastssm.laplacian, {}),
    "hvp_form": (1, lambda net, x, **options: fastssm.hvp_form(net, x, torch.ones_like(x), **options), {}),
}


@pytest.mark.skipif(not compiled.DEVICES or not compiled.multiplies_bf16(), reason="no products of bfloat16 here")
@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_products(name: str) -> None:
    """`precision="bf16"` rounds operands of products: near the exact operator, and not it."""
    out, operator, options = ROUNDED[name]
    torch.manual_seed(0)
    net, x = MLP(40, [64, 64], out), torch.randn(16, 40)
    exact = operator(net.double(), x.double(), **options)
    of_exact = torch.autograd.grad(exact.square().sum(), net.parameters())
    rounded = operator(net.float(), x, backend="cpu", precision="bf16", **options)
    assert rounded.dtype == torch.float32
    of_rounded = torch.autograd.grad(rounded.square().sum(), net.parameters())
    for found, wanted in zip((rounded, *of_rounded), (exact, *of_exact), strict=True):
        off = (found.detach() - wanted.detach()).norm() / wanted.detach().norm().clamp(min=1e-9)
        assert off < 16 * 2.0**-8
    assert float((rounded - exact).detach().norm() / exact.detach().norm()) > 1e-6


# --- under torch.compile, and as operators ---


def both(net: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return fastssm.divergence(net, x, v=v, return_value=True)


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor, Tensor], Tensor]]] = {
    "divergence": (score, lambda net, x, v: torch.stack([*map(torch.sum, both(net, x, v))]).prod()),
    "exact divergence": (score, lambda net, x, v: fastssm.divergence(net, x, exact=True).square().sum()),
    "jacobian_diag": (energy, lambda net, x, v: fastssm.jacobian_diag(net, x).square().sum()),
    "laplacian": (energy, lambda net, x, v: fastssm.laplacian(net, x).square().sum()),
    "hvp_form": (energy, lambda net, x, v: fastssm.hvp_form(net, x, v).square().sum()),
    "reference": (score, lambda net, x, v: fastssm.jacobian_diag(net, x, backend="reference").square().sum()),
}


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_operator_has_no_graph_break(name: str) -> None:
    make, call = CALLS[name]
    net, x = make(), torch.randn(6, 3, dtype=torch.float64)
    v = torch.randn(2, 6, 3, dtype=torch.float64)

    def run(x: Tensor, v: Tensor) -> Tensor:
        return call(net, x, v)

    values = [run(x, v), torch.compile(run, fullgraph=True, backend="eager")(x, v)]
    grads = [oracle.gradients(value, net.parameters()) for value in values]
    oracle.assert_close([values[1], *grads[1]], [values[0], *grads[0]], RTOL, name)


@pytest.mark.parametrize("make", [energy, score])
def test_the_operators_pass_opcheck(make: Callable[[], nn.Module]) -> None:
    x, v = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 6, 3, dtype=torch.float64)
    _, arguments = flat_call(make(), x, v)
    torch.library.opcheck(torch.ops.fastssm.terms_each.default, arguments)
    given = tuple(torch.randn_like(t) for t in torch.ops.fastssm.terms_each(*arguments))
    detached = [t.detach() if isinstance(t, Tensor) else t for t in arguments[:4]]
    weights = [t.detach() for t in arguments[4]]  # type: ignore[attr-defined]
    backward = (*given, *detached, weights, *arguments[5:], True, True)
    torch.library.opcheck(torch.ops.fastssm.terms_each_backward.default, backward)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_second_backward_is_refused(backend: str) -> None:
    model, x, _ = BY_NAME["energy-depth-2"].problem()
    x.requires_grad_()
    diagonal = fastssm.jacobian_diag(model, x, backend=backend)
    (gradient,) = torch.autograd.grad(diagonal.square().sum(), x, create_graph=True)
    if backend == "reference":
        assert torch.autograd.grad(gradient.sum(), x)[0].shape == x.shape
        return
    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.autograd.grad(gradient.sum(), x)
