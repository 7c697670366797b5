"""The score alone: the engine without directions, against plain autograd in float64, value and every gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import fastssm
from bench.measure import peak_mib
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import compiled
from fastssm.directions import Directions
from fastssm.nn import MLP
from fastssm.sweeps import Needs, tiles
from tests import oracle, oracle_noise
from tests.covering import each
from tests.networks import BY_NAME, CASES, ENTRIES, RTOL, Case, over, through
from tests.test_compile import energy, score
from tests.test_native import NETS, Watching, problem
from tests.test_operators import drawn
from tests.test_sweeps import BATCH, DIM, HIDDEN, WIDTHS, Peak, Products

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
ENGINES = [entry for entry in ENTRIES if entry != "reference"]
BUILT = pytest.mark.skipif("cpu" not in compiled.DEVICES, reason="the cpu engine is not built")


def uneven(found: Tensor) -> Tensor:
    """A function of the score that no symmetry makes simple."""
    return (found.sin() * torch.linspace(1, 2, found.numel(), dtype=found.dtype).view(found.shape)).sum()


def with_gradients(found: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return [found, *oracle.gradients(uneven(found), leaves)]


# --- values and gradients ---


@pytest.mark.covering(1, alike=True)
@pytest.mark.parametrize("entry", ENTRIES)
@over(CASES)
def test_the_score_and_every_gradient(case: Case, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = through(entry, monkeypatch)
    model, x, cond, leaves = drawn(case)
    kind = "energy" if case.energy else "score"
    found = fastssm.score(model, x, cond=cond, kind=kind, backend=backend)
    expected = oracle_noise.score(model, x, energy=case.energy, cond=cond)
    assert found.shape == x.shape
    oracle.assert_close(with_gradients(found.flatten(1), leaves), with_gradients(expected, leaves), RTOL, case.name)


@pytest.mark.parametrize("entry", ENGINES)
@pytest.mark.parametrize("name", ["energy-film", "score-film"])
def test_only_the_gradients_that_are_wanted(name: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (model, x, cond, leaves) = through(entry, monkeypatch), drawn(BY_NAME[name])
    every = with_gradients(fastssm.score(model, x, cond=cond, backend=backend), leaves)
    for chosen in (slice(0, 1), slice(1 + len(cond), None)):
        for i, leaf in enumerate(leaves):
            leaf.requires_grad_(i in range(len(leaves))[chosen])
        found = with_gradients(fastssm.score(model, x, cond=cond, backend=backend), leaves[chosen])
        oracle.assert_close(found, [every[0], *every[1:][chosen]], 1e-13, name)


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_tiles_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, cond, leaves = drawn(BY_NAME[f"{kind}-film"])
    whole = with_gradients(fastssm.score(model, x, cond=cond, backend="torch"), leaves)
    monkeypatch.setattr(tiles, "TILE_ROWS", 4)  # 2 samples a tile
    oracle.assert_close(with_gradients(fastssm.score(model, x, cond=cond, backend="torch"), leaves), whole, 1e-13, kind)


@BUILT
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["energy", "score"])
@each("samples", [1, 95, 96, 97, 300])
def test_batches_around_the_tiles_of_the_cpu_engine(kind: str, threads: int, samples: int) -> None:
    torch.manual_seed(samples)
    model = MLP(5, [70, 66], 1 if kind == "energy" else 5, "tanh", residual=True).double()
    x = torch.randn(samples, 5, dtype=torch.float64, requires_grad=True)
    leaves, before = [x, *model.parameters()], torch.get_num_threads()
    expected = with_gradients(oracle_noise.score(model, x, energy=kind == "energy"), leaves)
    torch.set_num_threads(threads)
    try:
        found = with_gradients(fastssm.score(model, x, backend="cpu"), leaves)
    finally:
        torch.set_num_threads(before)
    oracle.assert_close(found, expected, RTOL, f"{samples} samples")


@pytest.mark.parametrize("entry", ENGINES)
@pytest.mark.parametrize("name", ["energy-depth-0", "energy-depth-2", "score-depth-0", "score-depth-2"])
def test_an_empty_batch(name: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (model, x, _, _) = through(entry, monkeypatch), drawn(BY_NAME[name])
    none = x.detach()[:0].requires_grad_()
    found = fastssm.score(model, none, backend=backend)
    assert found.shape == none.shape
    grads = torch.autograd.grad(found.sum(), [none, *model.parameters()])
    assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, [none, *model.parameters()], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entry", ENGINES)
@pytest.mark.parametrize("name", ["energy-depth-3", "score-concat"])
def test_narrow_dtypes(name: str, entry: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (model, x, cond, leaves) = through(entry, monkeypatch), drawn(BY_NAME[name], dtype)
    wide_model, wide = copy.deepcopy(model).double(), [t.detach().double().requires_grad_() for t in (x, *cond)]
    found = fastssm.score(model, x, cond=cond, backend=backend)
    assert found.dtype == torch.float32
    expected = oracle_noise.score(wide_model, wide[0], energy=BY_NAME[name].energy, cond=wide[1:])
    wanted = with_gradients(expected, [*wide, *wide_model.parameters()])
    grads = with_gradients(found, leaves)
    assert [g.dtype for g in grads[1:]] == [dtype] * len(leaves)
    oracle.assert_close(grads, wanted, 2.0**-23 * 128 if dtype is torch.float32 else 2.0**-7, name)
    oracle.assert_close(grads[:1], wanted[:1], 2.0**-23 * 128, "values are summed in float32")


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_no_number_shows_in_the_score_of_an_energy(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no derivative sees it: in the energy's own constant."""
    backend = through(entry, monkeypatch)
    for name in ("energy-depth-0", "energy-depth-2", "energy-activation-last"):
        model, x, _, leaves = drawn(BY_NAME[name])
        for leaf in leaves:
            with torch.no_grad():
                last = leaf.view(-1)[-1:]
                kept = last.clone()
                last.fill_(math.nan)
            broken = fastssm.score(model, x, backend=backend).isnan().any(1)
            assert broken.all() if leaf is not x else broken.tolist() == [False] * (len(x) - 1) + [True], name
            with torch.no_grad():
                last.copy_(kept)
        assert fastssm.score(model, x, backend=backend).isfinite().all()


@BUILT
@pytest.mark.parametrize("kind", ["energy", "score"])
def test_products_in_bfloat16(kind: str) -> None:
    if not compiled.multiplies_bf16():
        pytest.skip("this processor does not multiply bfloat16 numbers")
    torch.manual_seed(0)
    model = MLP(40, [64, 64], 1 if kind == "energy" else 40)
    x = torch.randn(50, 40, requires_grad=True)
    leaves = [x, *model.parameters()]
    full, rounded = (
        with_gradients(fastssm.score(model, x, backend="cpu", precision=p), leaves) for p in ("full", "bf16")
    )
    assert not torch.equal(full[0], rounded[0])
    oracle.assert_close(rounded, full, 0.03, kind)
    assert torch.equal(fastssm.score(model, x, precision="bf16"), rounded[0])  # "auto" finds who can


# --- how much of it ---


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(("kind", "forward", "both"), [("energy", 2, 8), ("score", 1, 4)])
def test_units_of_arithmetic(kind: str, forward: int, both: int, inputs: bool) -> None:
    """Up and the chain; then again, the curvature row, the values' adjoints, and two of them for dW."""
    model = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM)
    x = torch.randn(BATCH, DIM, requires_grad=inputs)
    with Products() as products, torch.no_grad():
        fastssm.score(model, x, backend="torch")
    for a, b in HIDDEN:
        assert products.between(a, b) == [BATCH] * forward
    with Products() as products:
        fastssm.score(model, x, backend="torch").square().sum().backward()
    for a, b in HIDDEN:
        assert products.between(a, b) == [BATCH] * both


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_memory_does_not_grow_with_the_batch(kind: str) -> None:
    dim, few, many = 4, 4096, 65_536
    model, peaks = MLP(dim, [32, 32], 1 if kind == "energy" else dim), []
    for batch in (few, many):
        x = torch.randn(batch, dim, requires_grad=True)
        with Peak() as meter:
            fastssm.score(model, x, backend="torch").sum().backward()
        peaks.append(meter.peak)
    assert (peaks[1] - peaks[0]) / (many - few) / 4 < 6 * dim  # one hidden row alone: 32


@BUILT
@pytest.mark.parametrize("kind", ["energy", "score"])
def test_memory_of_the_cpu_engine_does_not_grow_with_the_batch(kind: str) -> None:
    dim, batch = 4, 65_536
    model, x = MLP(dim, [64, 64], 1 if kind == "energy" else dim), torch.randn(batch, dim)

    def step(backend: str) -> None:
        fastssm.score(model, x, backend=backend).sum().backward()

    step("cpu")
    found, tape = peak_mib(lambda: step("cpu")), peak_mib(lambda: step("reference"))
    if found is None or tape is None:
        pytest.skip("this system does not tell the peak of memory")
    assert found < 24 * dim * batch / 2**20 < 64 * 4 * batch / 2**20 < tape  # one hidden row alone: 64 numbers


# --- the entries ---


@BUILT
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETS)
def test_both_entries_return_the_same_bits(name: str, dtype: torch.dtype) -> None:
    net, x, given = problem(name, dtype)
    x.requires_grad_()
    direct = with_gradients(fastssm.score(net, x, backend="cpu", **given), [x, *net.parameters()])
    with Watching() as mode:
        dispatched = with_gradients(fastssm.score(net, x, backend="cpu", **given), [x, *net.parameters()])
    assert any("fastssm.terms_backward" in call for call in mode.seen)
    assert all(map(torch.equal, direct, dispatched))


def flat_call(net: nn.Module, x: Tensor) -> tuple[object, ...]:
    """Return the arguments of the operator `terms` without directions."""
    inputs, tensors, static = fused.flat(backends.make_request(net, x), Directions(0))
    kind, *lists = static.structure
    return (*inputs, tensors, kind, *map(list, lists), static.n_projections, static.precision)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [energy, score])
def test_the_operators_pass_opcheck(make, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(6, 3, dtype=torch.float64).to(dtype).requires_grad_()
    arguments = flat_call(make().to(dtype), x)
    torch.library.opcheck(torch.ops.fastssm.terms.default, arguments)
    found = torch.ops.fastssm.terms(*arguments)
    assert [t.shape for t in found] == [(0, 6), (6,), (6, 3)]
    assert not found[1].any()
    detached = [t.detach() if isinstance(t, Tensor) else t for t in arguments[:4]]
    weights = [t.detach() for t in arguments[4]]  # type: ignore[attr-defined]
    backward = (*map(torch.randn_like, found), *detached, weights, *arguments[5:], True, True)
    torch.library.opcheck(torch.ops.fastssm.terms_backward.default, backward)


@pytest.mark.parametrize("count", [0, -1])
def test_an_objective_needs_a_direction(count: int) -> None:
    x = torch.randn(6, 3, dtype=torch.float64)
    *given, _, precision = flat_call(energy(), x)
    given.insert(5, None)  # no weight
    with pytest.raises(RuntimeError, match=f"direction.*{count}|{count} directions"):
        torch.ops.fastssm.objective(*given, count, precision, True, True, *Needs(True, True))


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("make", [energy, score])
@pytest.mark.parametrize("entry", ENGINES)
def test_compiled_without_graph_break(make, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    backend, net = through(entry, monkeypatch), make()

    def run(x: Tensor) -> Tensor:
        return uneven(fastssm.score(net, x, backend=backend))

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 9):
        x = torch.randn(batch, 3, dtype=torch.float64)
        pair = [[value, *oracle.gradients(value, net.parameters())] for value in (compiled(x), run(x))]
        oracle.assert_close(*pair, RTOL, entry)


def test_gradients_of_samples_by_torch_func() -> None:
    net, x = energy(), torch.randn(4, 3, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(net, parameters):
            return uneven(fastssm.score(net, x, backend="torch"))

    whole = torch.func.grad(loss)(parameters, x)
    expected = oracle.gradients(uneven(oracle_noise.score(net, x, energy=True)), net.parameters())
    oracle.assert_close(list(whole.values()), expected, RTOL)
    each = torch.func.vmap(torch.func.grad(lambda p, x: loss(p, x[None])), (None, 0))(parameters, x)
    for i, row in enumerate(x):
        expected = oracle.gradients(uneven(oracle_noise.score(net, row[None], energy=True)), net.parameters())
        oracle.assert_close([g[i] for g in each.values()], expected, RTOL, f"sample {i}")


@pytest.mark.parametrize("entry", ENGINES)
def test_a_second_backward_is_refused(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (model, x, _, _) = through(entry, monkeypatch), drawn(BY_NAME["energy-depth-2"])
    found = fastssm.score(model, x, backend=backend)
    (gradient,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.autograd.grad(gradient.sum(), x)


# --- who computes it ---


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_auto_takes_the_engine_where_it_was_the_fastest(kind: str) -> None:
    model, x, _, _ = drawn(BY_NAME[f"{kind}-depth-2"])
    call, engine = backends.make_request(model, x), "cpu" if "cpu" in compiled.DEVICES else "reference"
    assert backends.select(call, "score").name == (engine if kind == "energy" else "reference")
    with torch.no_grad():
        assert backends.select(call, "score").name == engine
    for name in ("torch", "reference"):
        assert backends.select(call, "score", name).name == name
        with fastssm.backend(name):
            assert backends.select(call, "score").name == name
    unknown = backends.make_request(nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 3)).double(), x)
    with torch.no_grad():
        assert backends.select(unknown, "score").name == "reference"
        on_no_device = backends.make_request(model.to("meta"), x.detach().to("meta"))
        assert backends.select(on_no_device, "score").name == "reference"


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_autograd_can_be_differentiated_again(kind: str) -> None:
    model, x, _, _ = drawn(BY_NAME[f"{kind}-depth-2"])
    for backend in ("reference", "auto") if kind == "score" else ("reference",):
        found = fastssm.score(model, x, backend=backend)
        (once,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
        assert torch.autograd.grad(once.square().sum(), x)[0].isfinite().all()
