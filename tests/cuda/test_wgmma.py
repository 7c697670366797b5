"""The split product by wgmma, which only compute capability 9.0 has: on the emulator's model of it, and in machine code."""

from __future__ import annotations

import numpy as np
import pytest

from tests.covering import each
from tests.cuda import test_gemm
from tests.cuda.harness import machines
from tests.cuda.harness.adversaries import DECADES, adversaries, error
from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.device import aligned
from tests.cuda.harness.whole_net import WholeNet

EMULATED = [name for name in machines.MACHINES if name in ("emulator", "random", "race", "address")]
SHAPES = [(1, 1, 1), (5, 130, 7), (130, 133, 40)]


@pytest.fixture(params=EMULATED)
def hopper(request: pytest.FixtureRequest) -> WholeNet:
    """Host code on an emulated device of compute capability 9.0."""
    net = WholeNet(machines.machine_named(request.param))
    net.limit(BY_NAME["sm_90"])
    return net


def multiply(net: WholeNet, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    test_gemm.multiply(net, a, b, c, False, "split")
    assert net.launches[0].kernel == "product_split_wgmma"


@each("shape", SHAPES)
def test_layouts(hopper: WholeNet, shape: tuple[int, int, int]) -> None:
    test_gemm.check_layouts(hopper, shape, "split", False, test_gemm.SOME_LAYOUTS)
    assert {launch.kernel for launch in hopper.launches} <= {"product_split_wgmma", "product_sum"}
