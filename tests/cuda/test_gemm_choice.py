"""Products of precision="full": split in three where that is predicted to be faster, and the caller's elsewhere."""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest
import torch

from bench.problems import GRID, Size
from tests import oracle
from tests.covering import each
from tests.cuda.harness.architectures import ARCHITECTURES, BY_NAME, Architecture
from tests.cuda.harness.device import aligned
from tests.cuda.harness.machines import FLAVOUR, machine_named
from tests.cuda.harness.whole_net import RTOL, Case, WholeNet, expected, problem
from tests.cuda.test_gemm import multiply

pytestmark = pytest.mark.skipif(FLAVOUR != "", reason="once is enough")

TILE, STEP = 128, 16  # of csrc/cuda/kernels/gemm_params.h
FAST = {"sm_80": 64, "sm_90": 128}  # multiply-adds of float32 in a cycle; sm_90 by wgmma, which the tests build


@pytest.fixture
def net() -> WholeNet:
    return WholeNet(machine_named("emulator"))


def cycles(net: WholeNet, m: int, n: int, k: int) -> tuple[int, int]:
    """Return the cycles of a split product and of one of float32, as predicted."""
    found = (ctypes.c_int64 * 2)()
    net.enter()
    net.library.fastssm_predicted(*(ctypes.c_int64(size) for size in (m, n, k)), found)
    return found[0], found[1]


def products(size: Size) -> dict[str, tuple[int, int, int]]:
    """Return m, n, k of the products of a hidden layer of an energy."""
    rows = (size.M + 2) * size.B
    return {"up and down": (rows, size.H, size.H), "weights": (size.H, size.H, rows)}


def chosen(net: WholeNet, size: Size) -> list[bool]:
    return [split < full for split, full in (cycles(net, *of) for of in products(size).values())]


@each("name", FAST)
def test_the_prediction_counts_steps_of_tiles_and_multiply_adds(net: WholeNet, name: str) -> None:
    net.limit(BY_NAME[name], 7)
    step, full = cycles(net, TILE, TILE, STEP)
    assert full == TILE * TILE * STEP // (7 * FAST[name])
    assert step < TILE * TILE * STEP // FAST[name]  # else nothing would ever be split
    for tiles, turns in ((1, 1), (7, 1), (8, 2), (15, 3)):  # each takes the blocks of its multiprocessors
        assert cycles(net, TILE * tiles, TILE, STEP)[0] == turns * step
        assert cycles(net, TILE * tiles - 5, TILE - 3, STEP)[0] == turns * step  # idle entries take as long
    assert cycles(net, 8 * TILE, TILE, 5 * STEP - 1)[0] == 2 * 5 * step
    deep, divided = 7 * 8 * STEP, 8 * step  # seven blocks share the depth of one tile, and a launch adds up
    assert divided < cycles(net, TILE, TILE, deep)[0] < 7 * divided


def test_an_a100_splits_what_fills_it(net: WholeNet) -> None:
    net.limit(BY_NAME["sm_80"], BY_NAME["sm_80"].multiprocessors)
    assert {str(size): chosen(net, size) for size in GRID} == {
        "2,64,2,128,1": [False] * 2,
        "2,128,3,512,1": [False] * 2,
        "10,256,3,1024,1": [True] * 2,
        "100,512,3,1024,1": [True] * 2,
        "784,1024,3,512,1": [True, False],  # 64 tiles leave 44 multiprocessors idle
        "100,512,3,1024,8": [True] * 2,
    }


@each("architecture", [row for row in ARCHITECTURES if row.name not in FAST])
def test_other_devices_split_nothing(net: WholeNet, architecture: Architecture) -> None:
    net.limit(architecture, 1)
    assert cycles(net, 4096, 4096, 4096) == (0, 0)
    one = aligned((TILE, TILE), np.float32, 1)
    assert not multiply(net, one, one, one.copy(), False, "full")
    assert not net.launches


def test_what_is_faster_is_chosen_for_each_product(net: WholeNet) -> None:
    net.limit(BY_NAME["sm_80"], 1)
    random = np.random.default_rng(0)
    for m, split in ((TILE, True), (TILE // 4, False)):
        a, b, c = (aligned(shape, np.float32) for shape in ((m, 48), (48, TILE), (m, TILE)))
        a[:], b[:] = random.standard_normal(a.shape), random.standard_normal(b.shape)
        assert multiply(net, a, b, c, False, "full") == split
        assert [launch.kernel for launch in net.launches] == ["product_split"] * split
        assert np.isnan(c).all() if not split else np.abs(c - a.astype(float) @ b).max() < 1e-5
        assert not multiply(net, a, b, c, False, "given")


@each("kind", ["energy", "score"])
def test_a_loss_with_both_agrees_with_autograd(net: WholeNet, kind: str) -> None:
    samples = {"energy": 42, "score": 64}[kind]  # times the rows of a sample: a tile, or nearly
    case = Case(widths=(128, 128), dim=5, samples=samples, count=1, dtype=torch.float32, kind=kind)
    p = problem(case)
    net.limit(BY_NAME["sm_80"], 1)
    found = net.run(case, p, small=False)
    kernels = Counter(launch.kernel for launch in net.launches)
    assert kernels["product_up"] == 1
    assert kernels["product_split"]
    assert kernels["product"], "narrow ones are the caller's"
    oracle.assert_close(found.tensors, expected(case, p), RTOL[case.dtype], kind)
    given = net.run(case.with_(precision="given"), p, small=False)
    kernels = Counter(launch.kernel for launch in net.launches)
    assert not any(name.startswith("product_") for name in kernels)
    oracle.assert_close(given.tensors, expected(case, p), RTOL[case.dtype], kind)
