"""Split products that end in the layer's activation: the results of two kernels, in one that does not read z back."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from fastssm.activations import TABLE
from tests import oracle
from tests.covering import each
from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.machines import FLAVOUR, Machine, Rows, close, machine_named, padded, parts
from tests.cuda.harness.whole_net import RTOL, Case, WholeNet, expected, problem
from tests.cuda.test_pointwise import THREADS, Given, layer, named
from tests.cuda.test_traffic import WIDE, Counted

TILE, SHARED = 128, 98304  # of csrc/cuda/kernels/gemm_params.h, and of gemm.cpp
SHAPES = [
    ((1, 1, 1), 1),
    ((50, 130, 1), 40),
    ((45, 33, 2), 7),
    ((14, 129, 8), 35),
    ((3, 20, 0), 16),
]  # samples, width, directions; depth
CASE = Case(widths=(9, 13, 13), dim=5, samples=50, count=1, dtype=torch.float32, precision="split", skips=(2,))


def side(rows: Rows) -> dict[str, Any]:
    return {"p": rows.memory, "stride": rows.ld, "along_depth": True}


class Layer:
    """A layer's rows and weight, and its ways up: by one kernel, and by two."""

    def __init__(self, index: int) -> None:
        shape, self.depth = SHAPES[index % len(SHAPES)]
        self.name, self.case = named(index), Given(shape, np.float32, modulated=index % 2 == 1)
        self.fresh, self.curved, self.skips = index % 3 == 1, index % 4 != 3, index % 2 == 0
        self.kinds = self.case.directions + 1 + (self.curved and not self.fresh)
        self.entering = self.rows(self.kinds, self.case.samples, self.depth)
        self.weight = self.rows(self.case.width, self.depth)
        self.entered = self.case.rows(self.case.directions + 2)

    def rows(self, *shape: int) -> Rows:
        values = self.case.random.standard_normal(shape) / self.depth**0.5
        return Rows(values, np.float32, padded(shape[-1], np.float32, extra=self.case.samples % 2))

    def up(self, machine: Machine, together: bool) -> list[Rows]:
        """Return z, what leaves the layer, and q."""
        machine.device.limit(BY_NAME["sm_86"])  # another test may have left a smaller one
        case = self.case
        z, out, q = (case.unwritten(kinds) for kinds in (case.directions + 2, case.directions + 2, 1))
        product = {"a": side(self.entering), "b": side(self.weight), "c": z.memory, "c_stride": case.ld}
        product |= {"m": self.kinds * case.samples, "n": case.width, "k": self.depth, "accumulate": False}
        walk, blocks = case.walk()
        up = {
            "shape": case.shape, "walk": walk, "layer": case.activated(self.name), "curvature": self.curved,
            "fresh": self.fresh, "entered": case.optional(self.entered.memory, self.skips), "z": z.memory,
            "out": out.memory, "narrow": None, "q": q.memory,
        }  # fmt: skip
        across, samples = parts(case.width, TILE), TILE // self.kinds
        if together:
            how = {"product": product, "up": up, "kinds": self.kinds, "samples": samples}
            machine.launch("product_up", "SplitUp", (across * parts(case.samples, samples),), 256, SHARED, **how)
        else:
            how = {"product": product, "partials": None, "depth": parts(self.depth, 16) * 16, "slices": 1}
            tiles = across * parts(product["m"], TILE)
            machine.launch("product_split", "SplitProduct", (tiles,), 256, SHARED, **how)
            machine.launch(f"up_{self.name}_float", "Up<float>", blocks, THREADS, **up)
        return [z, out, q]


@each("index", range(len(TABLE)))
def test_z_and_what_leaves_the_layer_agree_with_float64(machine: Machine, index: int) -> None:
    own = Layer(index)
    z, out, q = own.up(machine, together=True)
    product = own.entering.values @ own.weight.values.T
    close(z.values[: own.kinds], product, np.float32, "z")
    full = np.zeros_like(out.values)
    full[: own.kinds] = product
    tangents = full[1 : own.case.directions + 1]
    curve = full[-1] * (own.kinds > own.case.directions + 1)
    inputs = {"z": full[0] + own.case.wide_bias, "tangents": tangents, "curve": curve, **own.case.modulation}
    wanted = layer(own.name, inputs)
    left = wanted.up.detach().numpy() + own.entered.values * own.skips
    left[-1] -= own.entered.values[-1] * (own.skips and own.fresh)
    written = len(left) - (not own.curved)
    close(out.values[:written], left[:written], np.float32, f"{own.name} out")
    close(q.values[0], wanted.squares.detach(), np.float32, f"{own.name} q")


@pytest.mark.skipif(FLAVOUR != "", reason="once is enough")
@each("index", range(len(SHAPES)))
def test_one_kernel_gives_the_bits_of_two(index: int) -> None:
    """On the emulator; nvcc may contract a product and a sum in one and not in the other."""
    own, machine = Layer(index), machine_named("emulator")
    for one, two in zip(own.up(machine, together=True), own.up(machine, together=False), strict=True):
        assert np.array_equal(one.values, two.values, equal_nan=True)


@each("call", itertools.product(["energy", "score"], [False, True], [1, 3]))
def test_every_sweep_agrees_with_autograd(whole_net: WholeNet, call: tuple[str, bool, int]) -> None:
    kind, variance_reduced, count = call
    case = CASE.with_(kind=kind, variance_reduced=variance_reduced, count=count)
    p = problem(case)
    found = whole_net.run(case, p, small=False)
    kernels = Counter(launch.kernel for launch in whole_net.launches)
    assert kernels["product_up"] == len(case.widths)
    assert not any(kernel.startswith("up_") for kernel in kernels)
    oracle.assert_close(found.tensors, expected(case, p), RTOL[case.dtype], str(case))


NOT = {
    "idle rows": ({"count": 11}, 3, 1),  # 13 kinds of 9 samples leave 11 rows idle; not so the first layer's 12
    "a divided depth": ({"widths": (129, 40), "dim": 5, "skips": ()}, 9, 1),  # blocks would be left without a product
    "other formats": ({"precision": "tf32"}, 3, 0),
}


@pytest.mark.skipif(FLAVOUR != "", reason="once is enough")
@each("reason", NOT)
def test_two_kernels_where_one_would_be_slower(reason: str) -> None:
    changes, multiprocessors, layers = NOT[reason]
    net, case = WholeNet(machine_named("emulator")), CASE.with_(**changes)
    net.limit(BY_NAME["sm_86"], multiprocessors)
    assert net.run(case, problem(case), small=False).done
    kernels = Counter(launch.kernel for launch in net.launches)
    assert kernels["product_up"] == layers
    assert kernels["up_softplus_float"] == len(case.widths) - layers


@pytest.mark.skipif(FLAVOUR != "", reason="once is enough")
def test_what_was_summed_is_not_read_back() -> None:
    """Operands and biases are read, z and what leaves the layer are written; and a launch less for each layer."""
    d, width, samples, count, layers = 8, 16, 5, 2, 3
    case = CASE.with_(widths=(width,) * layers, dim=d, samples=samples, count=count, skips=(), of_inputs=False)
    counted, row = Counted(machine_named("profile")), WIDE * samples
    launches, moved = counted.run_counted(case)
    assert launches.count("product_up") == layers
    first, others = (count + 1) * row, (layers - 1) * (count + 2) * row
    products, left = first + others, layers * (count + 2) * row
    assert counted.written["product_up"] == width * (products + left)
    weights, biases = WIDE * width * (d + (layers - 1) * width), layers * WIDE * width * 8  # of each warp
    assert moved["product_up"] - counted.written["product_up"] == d * first + width * others + weights + biases
