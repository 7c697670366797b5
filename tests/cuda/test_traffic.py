"""What the passes of a layer move: rows once, no derivatives, and operands of products in bfloat16 where those are."""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests.covering import each
from tests.cuda.harness import machines
from tests.cuda.harness.device import aligned
from tests.cuda.harness.machines import STRUCTURES, Machine
from tests.cuda.harness.whole_net import Case, WholeNet, problem
from tests.cuda.test_gemm import rounded

D, H, L, B, M = 8, 16, 3, 5, 2  # rows end at multiples of 16 bytes in either format, so none has padding
WIDE, NARROW = 4, 2  # bytes
CASE = Case(widths=(H,) * L, samples=B, dim=D, count=M, dtype=torch.float32, of_inputs=False)
PRODUCTS = ("product", "gemm_ex")


class Counted(WholeNet):
    """The host code on the emulator, which counts the bytes that the threads of each kernel ask for."""

    def run_counted(self, case: Case) -> tuple[list[str], Counter[str]]:
        """Return the launches of a case, in order, and the bytes by kernel; for products the sizes of operands."""
        self.moved, self.written = Counter[str](), Counter[str]()
        self.device.traffic()
        assert self.run(case, problem(case), small=False).done
        return [PRODUCTS[0] if launch.kernel in PRODUCTS else launch.kernel for launch in self.launches], self.moved

    def _start(self, kernel: bytes, x: int, y: int, z: int, threads: int, shared: int, given: Any, size: int) -> int:
        failed = super()._start(kernel, x, y, z, threads, shared, given, size)
        if kernel.decode() in PRODUCTS:  # `shared` is here the size of an operand's numbers
            self.moved[PRODUCTS[0]] += shared * (x * z + z * y)
        else:
            traffic = self.device.traffic()
            self.written[kernel.decode()] += traffic["global writes"].bytes
            self.moved[kernel.decode()] += sum(traffic[f"global {way}"].bytes for way in ("reads", "writes"))
        return failed


def saved(kind: str, variance_reduced: bool) -> dict[str, int]:
    """Return the numbers that each kernel writes in bfloat16 alone, less those that it also writes in float32."""
    merged = kind == "energy" and variance_reduced
    row, entrance = B * H, B * D
    kinds = M + 2 if kind == "energy" and not merged else M + 1
    numbers = {"up_softplus": (L - 1) * kinds * row - kinds * row}  # what the top reads stays in float32
    numbers |= {"enter": -entrance, "rademacher": -M * entrance}
    if kind == "score":
        numbers |= {"down_score": L * kinds * row, "score_seed": M * row}
    else:
        numbers["down"] = L * kinds * row - (0 if merged else row)  # no curvature enters the first layer
    if merged:
        numbers |= {"chain": L * row, "curve": (L - 1) * row - row}
    if variance_reduced:
        numbers["terms_top"] = -entrance
    return numbers


@pytest.mark.skipif(machines.FLAVOUR != "", reason="once is enough")
@each("call", itertools.product(["energy", "score"], [False, True]))
@pytest.mark.slow  # kernels are compiled to be watched
def test_no_pass_of_its_own_narrows_a_stack(call: tuple[str, bool]) -> None:
    """One launch more than with products in float32, for all weights; and two bytes for four wherever products read."""
    kind, variance_reduced = call
    case, counted = CASE.with_(kind=kind, variance_reduced=variance_reduced), Counted(Machine("profile"))
    launches, wide = counted.run_counted(case)
    narrow_launches, narrow = counted.run_counted(case.with_(precision="bf16", library=True))
    assert narrow_launches == ["narrow_weights", *launches]
    weights = H * D + (L - 1) * H * H + (H * D if kind == "score" else 0)
    assert narrow.pop("narrow_weights") == (WIDE + NARROW) * weights
    assert NARROW * wide.pop("product") == WIDE * narrow.pop("product")
    numbers = saved(kind, variance_reduced)
    # a number in bfloat16 alone saves two bytes, and one that is written twice takes two more
    expected = {name: wide[name] - NARROW * numbers.get(name.removesuffix("_float"), 0) for name in wide}
    assert dict(narrow) == expected


@pytest.mark.skipif(machines.FLAVOUR != "", reason="once is enough")
def test_no_derivative_is_stored() -> None:
    """A pass writes the rows that a product reads, and nothing else but sums: not even f' where z was."""
    counted, row = Counted(Machine("profile")), WIDE * B * H
    sums = L * WIDE * H  # over samples, for the biases
    for merged, kinds in ((False, M + 2), (True, M + 1)):
        counted.run_counted(CASE.with_(variance_reduced=merged))
        squares = L * row if merged else 0  # q, which the chain and the curvature want
        assert counted.written["up_softplus_float"] == L * kinds * row + squares
        first = 0 if merged else row  # no curvature enters the first layer
        assert counted.written["down_float"] == L * kinds * row - first + sums
    assert counted.written["chain_float"] == L * (row + WIDE * B)  # and e2
    assert counted.written["curve_float"] == L * row


def test_weights_are_rounded_and_padded(machine: Machine) -> None:
    """Ties to even, zeros up to whole packs, and nothing beyond: of lines that are aligned or not."""
    shapes = [(1, 1), (3, 8), (5, 12), (2, 130), (7, 9), (33, 16)]
    random = np.random.default_rng(0)
    given, found, structs = [], [], []
    for lines, length in shapes:
        padded = machines.parts(length, 8) * 8
        weight, out = aligned((lines, length), np.float32), aligned((lines, padded), np.uint16, 77)
        weight[...] = random.standard_normal((lines, length))
        weight.view(np.uint32)[0, 0] = 0x3F808000 + 0x10000 * (lines % 2)  # a tie
        structs.append({"from": weight, "to": out, "lines": lines, "length": length, "padded": padded})
        given.append(weight)
        found.append(out)
    nothing = {"from": None, "to": None, "lines": 0, "length": 0, "padded": 0}
    weights = structs + [nothing] * (STRUCTURES.constants["kNarrowed"] - len(structs))
    machine.launch("narrow_weights", "NarrowedWeights", (3, len(shapes)), 64, weights=weights)
    for weight, out in zip(given, found, strict=True):
        numbers = (out.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(numbers[:, : weight.shape[1]], rounded(weight, "bf16"))
        assert not out[:, weight.shape[1] :].any()
    assert ctypes.sizeof(STRUCTURES["NarrowedWeights"]) <= 4096  # parameters of a kernel
