"""The arithmetic, counted: products and their rows, tiles that change nothing, memory that stays when batches grow."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm
from fastssm.nn import MLP
from fastssm.sweeps import tiles
from tests import oracle

WIDTHS, DIM, BATCH = (17, 19, 23), 5, 31  # primes: a product's shape tells which layer it belongs to
ATEN = torch.ops.aten
PRODUCTS = {ATEN.mm.default: 0, ATEN.addmm.default: 1, ATEN.addmm_.default: 1, ATEN.bmm.default: 0}


class Products(TorchDispatchMode):
    """Counts matrix products: how many belong to the map between two widths, and over how many rows in all."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        assert func in PRODUCTS or not str(func).startswith(
            ("aten.baddbmm", "aten.linear", "aten.matmul", "aten.mv")
        ), func
        if func in PRODUCTS:
            a, b = args[PRODUCTS[func] : PRODUCTS[func] + 2]
            self.calls.append((a.shape[:-1].numel(), a.shape[-1], b.shape[-1]))
        return func(*args, **(kwargs or {}))

    def between(self, a: int, b: int) -> list[int]:
        """Return the rows of every product by, or for the gradient of, an `a x b` matrix."""
        return [m * k * n // (a * b) for m, k, n in self.calls if a in (m, k, n) and b in (m, k, n)]


def count(kind: str, loss: str, m: int, *, inputs: bool) -> Products:
    torch.manual_seed(0)
    model = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM)
    x, v = torch.randn(BATCH, DIM, requires_grad=inputs), torch.randn(m, BATCH, DIM)
    with Products() as products:
        loss_of(loss)(model, x, v).backward()
    return products


def loss_of(loss: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    if loss == "exact":
        return lambda model, x, v: fastssm.exact_loss(model, x, backend="torch")
    options = oracle.OPTIONS[loss]
    return lambda model, x, v: fastssm.sliced_loss(model, x, v=v, backend="torch", **options)


HIDDEN = list(itertools.pairwise(WIDTHS))


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "loss", "units"),
    [
        ("energy", "ssm", lambda m: 3 * (m + 2)),
        ("energy", "vr", lambda m: 3 * (m + 2)),
        ("score", "ssm", lambda m: 3 * (m + 1)),
        ("score", "vr", lambda m: 3 * (m + 1)),
    ],
)
def test_units_of_arithmetic(kind: str, loss: str, units: Callable[[int], int], m: int, inputs: bool) -> None:
    products = count(kind, loss, m, inputs=inputs)
    for a, b in HIDDEN:
        assert sum(products.between(a, b)) == units(m) * BATCH


@pytest.mark.parametrize(("kind", "collapsed"), [("energy", 2), ("score", 1)])
def test_units_of_the_exact_loss(kind: str, collapsed: int) -> None:
    products = count(kind, "exact", 0, inputs=False)
    for a, b in HIDDEN:
        assert sum(products.between(a, b)) == 3 * (DIM + collapsed) * BATCH


@pytest.mark.parametrize(
    ("kind", "backend", "units"),
    [("energy", "reference", 6), ("score", "reference", 3), ("energy", "torch", 8), ("score", "torch", 4)],
)
def test_units_of_a_score_alone(kind: str, backend: str, units: int) -> None:
    model, x = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM), torch.randn(BATCH, DIM)
    with Products() as products:
        fastssm.score(model, x, backend=backend).square().sum().backward()
    for a, b in HIDDEN:
        assert sum(products.between(a, b)) == units * BATCH


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("kind", "unit"), [("energy", 6), ("score", 3)])
def test_units_of_plain_autograd(kind: str, unit: int, m: int) -> None:
    model, x, v = MLP(DIM, WIDTHS, 1 if kind == "energy" else DIM), torch.randn(BATCH, DIM), torch.randn(m, BATCH, DIM)
    with Products() as products:
        fastssm.sliced_loss(model, x, v=v, backend="reference").backward()
    for a, b in HIDDEN:
        assert sum(products.between(a, b)) == unit * (m + 1) * BATCH


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize(("kind", "loss"), [("energy", "ssm"), ("score", "ssm"), ("score", "vr")])
def test_three_stacked_products_a_layer(kind: str, loss: str, m: int) -> None:
    stack = (m + 2 if kind == "energy" else m + 1) * BATCH
    for inputs in (False, True):
        products = count(kind, loss, m, inputs=inputs)
        for a, b in HIDDEN:
            assert products.between(a, b) == [stack] * 3
        lowest = products.between(DIM, WIDTHS[0])
        assert len(lowest) == (3 if inputs else 2)
        assert lowest[:2] == [(m + 1) * BATCH] * 2  # no curvature has entered yet
    readout = products.between(WIDTHS[-1], 1 if kind == "energy" else DIM)
    assert len(readout) <= 3


def test_values_alone_cost_the_way_up() -> None:
    torch.manual_seed(0)
    model, x, v = MLP(DIM, WIDTHS), torch.randn(BATCH, DIM), torch.randn(2, BATCH, DIM)
    for loss, rows in (("ssm", [4]), ("vr", [3, 1])):
        with torch.no_grad(), Products() as products:
            loss_of(loss)(model, x, v)
        for a, b in HIDDEN:
            assert products.between(a, b) == [n * BATCH for n in rows]


def test_products_go_with_the_number_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count("energy", "ssm", 2, inputs=False)
    monkeypatch.setattr(tiles, "TILE_ROWS", 4 * 8)  # 8 samples a tile: 31 samples are 4 tiles
    parts = count("energy", "ssm", 2, inputs=False)
    for a, b in HIDDEN:
        assert len(parts.between(a, b)) == 4 * len(whole.between(a, b)) == 12
        assert sum(parts.between(a, b)) == sum(whole.between(a, b))


@pytest.mark.parametrize("loss", oracle.LOSSES)
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_tiles_and_chunks_change_nothing(
    kind: str, loss: str, conditioning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MLP(
        DIM, [8, 8], 1 if kind == "energy" else DIM, residual=True, cond_dim=2, conditioning=conditioning
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    x, cond, weight = torch.randn(23, DIM).double(), torch.randn(23, 2).double(), torch.rand(23).double()
    leaves = [x.requires_grad_(), cond.requires_grad_(), *model.parameters()]

    def run(reduction: str) -> list[Tensor]:
        options: dict[str, Any] = {"cond": cond, "weight": weight, "reduction": reduction, "backend": "torch"}
        if loss == "exact":
            value = fastssm.exact_loss(model, x, **options)
        else:  # the directions are regenerated tile by tile
            options |= {"n_projections": 7, "generator": torch.Generator().manual_seed(1), **oracle.OPTIONS[loss]}
            value = fastssm.sliced_loss(model, x, **options)
        value = oracle.contracted(value) if reduction == "none" else value
        return [value, *torch.autograd.grad(value, leaves)]

    expected = {reduction: run(reduction) for reduction in ("mean", "none")}
    for rows, directions in ((1, 7), (13, 2), (40, 1), (50, 3), (10_000, 4)):
        monkeypatch.setattr(tiles, "TILE_ROWS", rows)
        monkeypatch.setattr(tiles, "MAX_DIRECTIONS", directions)
        for reduction in expected:
            oracle.assert_close(run(reduction), expected[reduction], 1e-12, f"{rows} rows, {directions} directions")


class Peak(TorchDispatchMode):
    """The largest number of bytes in tensors made under it and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                if id(storage) not in self.alive:
                    self.alive[id(storage)] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, id(storage), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


def test_the_meter_sees_what_lives_and_what_has_died() -> None:
    with Peak() as meter:
        kept = torch.zeros(1000)
        for _ in range(10):
            _ = (kept + 1).exp()
    assert 8000 <= meter.peak <= 16_000
    with Peak() as meter:
        leaf = torch.zeros(1000, requires_grad=True)
        (leaf.exp().exp().exp()).sum().backward()
    assert meter.peak >= 16_000  # what autograd has saved is alive


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", oracle.LOSSES)
@pytest.mark.parametrize("kind", ["energy", "score"])
def test_memory_does_not_grow_with_the_batch(kind: str, loss: str, reduction: str) -> None:
    dim, few, many = 4, 4096, 65_536
    model = MLP(dim, [32, 32], 1 if kind == "energy" else dim)
    peaks = []
    for batch in (few, many):
        x = torch.randn(batch, dim, requires_grad=True)
        options: dict[str, Any] = {"reduction": reduction, "backend": "torch", **oracle.OPTIONS.get(loss, {})}
        with Peak() as meter:
            value = (
                fastssm.exact_loss(model, x, **options) if loss == "exact" else fastssm.sliced_loss(model, x, **options)
            )
            value.sum().backward()
        peaks.append(meter.peak)
    per_sample = (peaks[1] - peaks[0]) / (many - few) / 4
    assert (
        per_sample < 2 * dim + 2 * dim * (loss == "exact" and reduction == "none") + 24
    )  # one hidden row alone: 32 each
