"""Products on the tensor cores: asymmetric data against float64 products of rounded operands."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.device import aligned, filled
from tests.cuda.harness.libraries import CSRC
from tests.cuda.harness.structures import Structures
from tests.cuda.harness.whole_net import PRECISIONS, WholeNet

ENGINE = Structures(CSRC / "cuda" / "runtime.h")
SHAPES = [(1, 1, 1), (64, 64, 32), (65, 67, 33), (5, 130, 7), (16, 8, 100), (70, 3, 64), (128, 64, 96)]


@pytest.fixture(autouse=True)
def ampere(whole_net: WholeNet) -> None:
    whole_net.limit(BY_NAME["sm_86"])


def rounded(a: np.ndarray, precision: str) -> np.ndarray:
    """Round to 10 bits of mantissa, ties away from zero, or to 7, ties to even."""
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


def view_of(a: np.ndarray) -> ctypes.Structure:
    rows, columns = a.shape
    row_stride, column_stride = (stride // 4 for stride in a.strides)
    return filled(
        ENGINE["View<float>"],
        p=a, rows=rows, columns=columns, row_stride=row_stride, column_stride=column_stride,
    )  # fmt: skip


def multiply(net: WholeNet, a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulate: bool, precision: str) -> None:
    views = [ctypes.byref(view_of(side)) for side in (a, b, c)]
    net.call("fastssm_tensor_product", *views, accumulate, PRECISIONS.index(precision))


@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_layout(whole_net: WholeNet, shape: tuple[int, int, int], precision: str) -> None:
    m, n, k = shape
    random = np.random.default_rng(m + n + k)
    left, right = random.standard_normal((m, k)) + 0.5, random.standard_normal((k, n)) - 0.3
    before = random.standard_normal((m, n)).astype(np.float32)
    product = rounded(left, precision) @ rounded(right, precision)
    for turns in itertools.product([True, False], repeat=3):
        for spare, accumulate in ((0, False), (3, True), (4, False)):
            a, b, c = (laid_out(x, turn, spare) for x, turn in zip((left, right, before), turns, strict=True))
            multiply(whole_net, a, b, c, accumulate, precision)
            expected = product + before if accumulate else product
            assert np.abs(c - expected).max() <= 2e-6 * k**0.5 * np.abs(expected).max(), f"{turns}, {spare}"


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_what_is_not_finite_stays_where_it_belongs(whole_net: WholeNet, precision: str) -> None:
    a, b, c = (aligned(shape, np.float32, 1) for shape in ((70, 35), (35, 66), (70, 66)))
    a[3, 34] = np.nan
    b[0, 65] = np.inf
    multiply(whole_net, a, b, c, False, precision)
    assert np.isnan(c[3]).all()
    assert np.isinf(np.delete(c, 3, axis=0)[:, 65]).all()
    assert np.isfinite(np.delete(c, 3, axis=0)[:, :65]).all()


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_a_device_without_such_tensor_cores_refuses(whole_net: WholeNet, precision: str) -> None:
    whole_net.limit(BY_NAME["sm_75"])
    one = aligned((1, 1), np.float32, 1)
    with pytest.raises(
        RuntimeError, match=f'precision="{precision}" needs .* 8.0 or later, and this device has 7.5: pass'
    ):
        multiply(whole_net, one, one, one, False, precision)
    assert not whole_net.launches
