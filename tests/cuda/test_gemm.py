"""Products on the tensor cores: asymmetric data against float64 products of rounded operands."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from tests.covering import each
from tests.cuda.harness.adversaries import DECADES, adversaries, error
from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.device import aligned, filled
from tests.cuda.harness.libraries import CSRC
from tests.cuda.harness.structures import Structures
from tests.cuda.harness.whole_net import PRECISIONS, WholeNet

Layouts = Iterable[tuple[bool, bool, bool]]
EVERY_LAYOUT = list(itertools.product([True, False], repeat=3))  # whether rows of A, B and C are contiguous
SOME_LAYOUTS = [each for each in EVERY_LAYOUT if sum(each) % 2]  # all pairs
ENGINE = Structures(CSRC / "cuda" / "runtime.h")
TENSOR_CORES = ("tf32", "bf16", "split")
SHAPES = [(1, 1, 1), (64, 64, 32), (65, 67, 33), (5, 130, 7), (16, 8, 100), (70, 3, 64), (128, 64, 96)]


@pytest.fixture(autouse=True)
def ampere(whole_net: WholeNet) -> None:
    whole_net.limit(BY_NAME["sm_86"])


def rounded(a: np.ndarray, precision: str) -> np.ndarray:
    """Round to 10 bits of mantissa, ties away from zero, or to 7, ties to even, or not at all."""
    if precision == "split":
        return a.astype(np.float32).astype(np.float64)
    bits = a.astype(np.float32).view(np.uint32)
    if precision == "tf32":
        bits = (bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)
    else:
        bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def laid_out(a: np.ndarray, row_major: bool, spare: int) -> np.ndarray:
    """Return a view of equal values, rows or columns contiguous and `spare` elements more apart than they are long."""
    lines = a if row_major else a.T
    held = aligned((lines.shape[0], lines.shape[1] + spare), np.float32)
    held[:, : lines.shape[1]] = lines
    view = held[:, : lines.shape[1]]
    return view if row_major else view.T


def between_lines(a: np.ndarray) -> np.ndarray:
    """Return what lies between the lines of what `laid_out` returned."""
    lines = a if a.strides[1] == a.itemsize else a.T
    whole = np.lib.stride_tricks.as_strided(lines, (lines.shape[0], lines.strides[0] // a.itemsize))
    return whole[:, lines.shape[1] :]


def view_of(a: np.ndarray) -> ctypes.Structure:
    rows, columns = a.shape
    row_stride, column_stride = (stride // 4 for stride in a.strides)
    return filled(
        ENGINE["View<float>"],
        p=a, rows=rows, columns=columns, row_stride=row_stride, column_stride=column_stride,
    )  # fmt: skip


def multiply(
    net: WholeNet, a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulate: bool, precision: str, library: bool = False
) -> bool:
    """Return whether the engine computed the product, which is the caller's otherwise."""
    views = [ctypes.byref(view_of(side)) for side in (a, b, c)]
    return net.call("fastssm_tensor_product", *views, accumulate, PRECISIONS.index(precision), library)


def check_layouts(net: WholeNet, shape: tuple[int, int, int], precision: str, library: bool, turns: Layouts) -> None:
    m, n, k = shape
    random = np.random.default_rng(m + n + k)
    left, right = random.standard_normal((m, k)) + 0.5, random.standard_normal((k, n)) - 0.3
    before = random.standard_normal((m, n)).astype(np.float32)
    product = rounded(left, precision) @ rounded(right, precision)
    for turn, (spare, accumulate) in itertools.product(turns, ((0, False), (4, True), (3, False))):
        a, b, c = (laid_out(x, way, spare) for x, way in zip((left, right, before), turn, strict=True))
        assert multiply(net, a, b, c, accumulate, precision, library)
        assert sum(launch.kernel == "gemm_ex" for launch in net.launches) == library
        expected = product + before if accumulate else product
        assert np.abs(c - expected).max() <= 2e-6 * k**0.5 * np.abs(expected).max(), f"{turn}, {spare}"
        assert np.isnan(between_lines(c)).all(), f"{turn}, {spare}: written between lines"


@each("case", itertools.product(["tf32", "bf16"], SHAPES))
def test_every_layout(whole_net: WholeNet, case: tuple[str, tuple[int, int, int]]) -> None:
    precision, shape = case
    check_layouts(whole_net, shape, precision, False, EVERY_LAYOUT)


@each("shape", [(1, 1, 1), (5, 130, 7), (130, 133, 40)])
def test_layouts_of_split_products(whole_net: WholeNet, shape: tuple[int, int, int]) -> None:
    check_layouts(whole_net, shape, "split", False, SOME_LAYOUTS)


def test_cublas(whole_net: WholeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS rounds to TF32 itself, which its stand-in does not. In bf16 it gets operands that are narrow already."""
    monkeypatch.setitem(globals(), "rounded", lambda a, precision: a)
    for shape in ((3, 5, 7), (1, 1, 1), (8, 1, 4)):
        check_layouts(whole_net, shape, "tf32", True, EVERY_LAYOUT)


@each("multiprocessors", [1, 7])
def test_slices_of_the_depth_are_added_up(whole_net: WholeNet, multiprocessors: int) -> None:
    """With a block for each multiprocessor, of about 128 of the depth: one, or three of at most 112."""
    whole_net.limit(BY_NAME["sm_86"], multiprocessors)
    slices = min(multiprocessors, 3)
    check_layouts(whole_net, (9, 34, 300), "split", False, [(False, False, True), (True, True, True)])
    kernels = [(launch.kernel, launch.blocks[1]) for launch in whole_net.launches]
    assert kernels == [("product_split", slices), ("product_sum", 1)][:slices]
    results = [aligned((9, 34), np.float32) for _ in range(2)]
    a, b = (laid_out(np.random.default_rng(0).standard_normal(shape), True, 0) for shape in ((9, 300), (300, 34)))
    for c in results:
        multiply(whole_net, a, b, c, False, "split")
    assert np.array_equal(*results)


@each("scale", DECADES[::6])
def test_a_split_product_is_as_accurate_as_float32(whole_net: WholeNet, scale: float) -> None:
    """Error at most twice that of a product in float32, relative to sum |a| |b|; half a unit where that has none."""
    for name, (a, b) in adversaries(scale).items():
        a, b = laid_out(a, True, 0), laid_out(b, True, 0)  # in memory that a device reaches
        found = aligned((a.shape[0], b.shape[1]), np.float32)
        multiply(whole_net, a, b, found, False, "split")
        assert error(found, a, b) <= 2 * max(error(a @ b, a, b), 2.0**-24), name


@each("precision", TENSOR_CORES)
def test_what_is_not_finite_stays_where_it_belongs(whole_net: WholeNet, precision: str) -> None:
    a, b, c = (aligned(shape, np.float32, 1) for shape in ((70, 35), (35, 66), (70, 66)))
    a[3, 34] = np.nan
    b[0, 65] = np.inf
    multiply(whole_net, a, b, c, False, precision)
    assert np.isnan(c[3]).all()
    others = np.delete(c, 3, axis=0)[:, 65]
    assert (np.isnan(others) if precision == "split" else np.isinf(others)).all()  # its parts are inf and inf - inf
    assert np.isfinite(np.delete(c, 3, axis=0)[:, :65]).all()


@each("precision", TENSOR_CORES)
def test_a_device_without_such_tensor_cores_refuses(whole_net: WholeNet, precision: str) -> None:
    whole_net.limit(BY_NAME["sm_75"])
    one = aligned((1, 1), np.float32, 1)
    with pytest.raises(
        RuntimeError, match=f'precision="{precision}" needs .* 8.0 or later, and this device has 7.5: pass'
    ):
        multiply(whole_net, one, one, one, False, precision)
    assert not whole_net.launches
