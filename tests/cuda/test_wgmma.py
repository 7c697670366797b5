"""The split product by wgmma, which only compute capability 9.0 has: on the emulator's model, and in machine code.

Nothing here executes PTX of wgmma.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from native_build import description

from fastssm.native import nvrtc
from tests.covering import each
from tests.cuda import test_gemm
from tests.cuda.harness import libraries, machines, toolkit
from tests.cuda.harness.adversaries import DECADES, adversaries, error
from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.device import Device, LaunchFailed, aligned, filled
from tests.cuda.harness.machine_code import WGMMA, count, instructions, resources
from tests.cuda.harness.structures import Structures
from tests.cuda.harness.whole_net import WholeNet

EMULATED = [machine for machine in machines.MACHINES if machine != machines.GPU and "ptx" not in str(machine)]
pytestmark = pytest.mark.skipif(not EMULATED, reason="a GPU runs no kernel that it was not built with")
SHAPES = [(1, 1, 1), (5, 130, 7), (130, 133, 40)]
KERNEL = "product_split_wgmma"
HEADER = libraries.HERE / "wgmma_samples.h"
MISTAKES = re.findall(r"^  (\w+),$", HEADER.read_text(), re.MULTILINE)


# --- the kernel ---


def emulated(machine: str) -> WholeNet:
    """Return host code on an emulated device of compute capability 9.0."""
    net = WholeNet(machines.machine_named(machine))
    net.limit(BY_NAME["sm_90"])
    return net


@pytest.fixture(params=EMULATED)
def hopper(request: pytest.FixtureRequest) -> WholeNet:
    return emulated(request.param)


def multiply(net: WholeNet, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    c = aligned((a.shape[0], b.shape[1]), np.float32)
    test_gemm.multiply(net, test_gemm.laid_out(a, True, 0), test_gemm.laid_out(b, True, 0), c, False, "split")
    assert net.launches[0].kernel == KERNEL
    return c


@each("shape", SHAPES)
def test_layouts(hopper: WholeNet, shape: tuple[int, int, int]) -> None:
    test_gemm.check_layouts(hopper, shape, "split", False, test_gemm.SOME_LAYOUTS)
    assert [launch.kernel for launch in hopper.launches] == [KERNEL]


def test_slices_of_the_depth_are_added_up_in_order(hopper: WholeNet) -> None:
    hopper.limit(BY_NAME["sm_90"], 7)
    test_gemm.check_layouts(hopper, (9, 34, 300), "split", False, [(False, False, True), (True, True, True)])
    assert [(launch.kernel, launch.blocks[1]) for launch in hopper.launches] == [(KERNEL, 3), ("product_sum", 1)]
    random = np.random.default_rng(0)
    a, b = random.standard_normal((9, 300)), random.standard_normal((300, 34))
    assert np.array_equal(multiply(hopper, a, b), multiply(hopper, a, b))


@pytest.mark.parametrize("machine", EMULATED[:1])
@each("scale", DECADES[::6])
def test_it_is_as_accurate_as_float32(machine: str, scale: float) -> None:
    """As test_gemm has it for the kernel of all architectures."""
    net = emulated(machine)
    for name, (a, b) in adversaries(scale).items():
        assert error(multiply(net, a, b), a, b) <= 2 * max(error(a @ b, a, b), 2.0**-24), name


def test_what_is_not_finite_stays_where_it_belongs() -> None:
    a, b = np.ones((70, 35), np.float32), np.ones((35, 66), np.float32)
    a[3, 34], b[0, 65] = np.nan, np.inf
    c = multiply(emulated(EMULATED[0]), a, b)
    assert np.isnan(c[3]).all()
    assert np.isnan(c[:, 65]).all()  # its parts are inf and inf - inf
    assert np.isfinite(np.delete(c, 3, axis=0)[:, :65]).all()


@pytest.mark.parametrize("architecture", ["sm_89", "sm_100"])
def test_other_devices_take_the_kernel_of_all(architecture: str) -> None:
    net = emulated(EMULATED[0])
    net.limit(BY_NAME[architecture])
    one = aligned((1, 1), np.float32, 1)
    test_gemm.multiply(net, one, one, one, False, "split")
    assert [launch.kernel for launch in net.launches] == ["product_split"]


# --- the emulator's model ---


class Layout(NamedTuple):
    """Of [64, 16] numbers of 2 bytes in shared memory: a row of the PTX ISA's table of canonical layouts.

    Attributes:
        mode: bits 62 and 63 of a descriptor.
        transposed: whether it is MN-major.
        leading: the leading dimension byte offset.
        stride: the stride dimension byte offset.
        line: its modes along M or N, as pairs of a size and a stride in numbers.
        depth: its modes along K.
        swizzle: B of Swizzle<B, 4, 3>, on bytes.
    """

    mode: int
    transposed: bool
    leading: int
    stride: int
    line: tuple[tuple[int, int], ...]
    depth: tuple[tuple[int, int], ...]
    swizzle: int

    def bytes_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return 8192 bytes that hold bfloat16 numbers [64, 16], and NaN between them."""
        held = np.full(4096, 0xFFFF, np.uint16)
        for line, depth in itertools.product(range(64), range(16)):
            at = 2 * (offset(line, self.line) + offset(depth, self.depth))
            at ^= (at >> 7 & (1 << self.swizzle) - 1) << 4
            held[at // 2] = np.float32(numbers[line, depth]).view(np.uint32) >> 16
        return held

    def descriptor(self, address: int) -> int:
        return address >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | self.mode << 62


def offset(index: int, modes: tuple[tuple[int, int], ...]) -> int:
    """Return where an index lies, as CuTe decomposes it."""
    at = 0
    for size, stride in modes:
        at += index % size * stride
        index //= size
    return at


LAYOUTS = {
    "K": Layout(0, False, 128, 256, ((8, 8), (8, 128)), ((8, 1), (2, 64)), 0),
    "K, apart": Layout(0, False, 3072, 144, ((8, 8), (8, 72)), ((8, 1), (2, 1536)), 0),
    "K, 32 bytes": Layout(3, False, 16, 256, ((8, 16), (8, 128)), ((16, 1),), 1),
    "K, 64 bytes": Layout(2, False, 16, 512, ((8, 32), (8, 256)), ((16, 1),), 2),
    "K, 128 bytes": Layout(1, False, 16, 1024, ((8, 64), (8, 512)), ((16, 1),), 3),
    "MN": Layout(0, True, 1024, 128, ((8, 1), (8, 64)), ((8, 8), (2, 512)), 0),
    "MN, 32 bytes": Layout(3, True, 512, 256, ((8, 1), (2, 8), (4, 256)), ((8, 16), (2, 128)), 1),
    "MN, 64 bytes": Layout(2, True, 512, 1024, ((8, 1), (4, 8), (2, 256)), ((8, 32), (2, 512)), 2),
    "MN, 128 bytes": Layout(1, True, 16, 1024, ((8, 1), (8, 8)), ((8, 64), (2, 512)), 3),
}
START = 1024  # of shared memory


def run(a: Layout, b: Layout, left: np.ndarray, right: np.ndarray, mistake: str = "none") -> np.ndarray:
    """Return 2 A B^T of bfloat16 numbers [64, 16] by the sample kernel."""
    device = Device(libraries.library("wgmma_samples", [libraries.HERE / "wgmma_samples.cu"], "plain"))
    memory = np.concatenate([a.bytes_of(left), b.bytes_of(right)]).view(np.float32)
    operands, d = aligned(memory.shape, np.float32), aligned((64, 64), np.float32)
    operands.view(np.uint32)[:] = memory.view(np.uint32)
    given = {"a": a.descriptor(START), "b": b.descriptor(START + 8192), "operands": operands, "count": len(memory)}
    given |= {"a_transposed": a.transposed, "b_transposed": b.transposed, "d": d, "mistake": MISTAKES.index(mistake)}
    device.launch("sample_wgmma", (1, 1, 1), 128, filled(Structures(HEADER)["SampleWgmma"], **given), memory.nbytes)
    return d


def whole_numbers() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(-9, 10, (64, 16)).astype(np.float32) for _ in range(2)]


@each("names", [*((name, name) for name in LAYOUTS), ("K, 32 bytes", "MN"), ("MN, 64 bytes", "K")])
def test_the_model_reads_the_layouts_of_the_ptx_isa(names: tuple[str, str]) -> None:
    left, right = whole_numbers()
    a, b = (LAYOUTS[name] for name in names)
    assert np.array_equal(run(a, b, left, right), 2 * left @ right.T)


def test_the_model_truncates_to_two_bits_more_than_float32() -> None:
    left, right = np.zeros((64, 16), np.float32), np.ones((64, 16), np.float32)
    left[:, 0] = 1
    left[0, 8:12], left[1, 8:16] = 2.0**-25, 2.0**-26
    d = run(LAYOUTS["K"], LAYOUTS["K"], left, right)
    assert np.array_equal(d[:2, 0], [2 + 2.0**-22, 2])


WRONG = {
    "no_async_fence": "no fence.proxy.async",
    "no_fence": "without wgmma.fence",
    "no_second_fence": "without wgmma.fence",
    "overwritten_operand": "an operand of wgmma in flight was overwritten",
    "early_write": "accumulators of wgmma in flight were written",
    "different_warps": "the threads of a warpgroup issue different products",
}


@each("mistake", WRONG)
def test_the_model_refuses_misuse(mistake: str) -> None:
    with pytest.raises(LaunchFailed, match=WRONG[mistake]):
        run(LAYOUTS["K"], LAYOUTS["K"], *whole_numbers(), mistake)


@each("mistake", ["early_use", "no_commit"])
def test_accumulators_are_nan_until_the_wait(mistake: str) -> None:
    d = run(LAYOUTS["K"], LAYOUTS["K"], *whole_numbers(), mistake)
    assert np.isnan(d.reshape(4, 16, 64)[:, :8, :8:2]).all()  # entry 0 of every thread


def test_the_model_refuses_descriptors_that_are_none() -> None:
    good, numbers = LAYOUTS["K"], whole_numbers()
    for wrong, why in (({"stride": 1 << 16}, "beyond shared memory"), ({"leading": 1 << 19}, "beside its fields")):
        with pytest.raises(LaunchFailed, match=why):
            run(good._replace(**wrong), good, *numbers)


# --- the build flag ---


@pytest.mark.slow
@pytest.mark.skipif(toolkit.program("cuobjdump") is None, reason=toolkit.ABSENT.format("cuobjdump"))
def test_nvcc_makes_wgmma_of_it_and_spills_nothing() -> None:
    code, taken = instructions("sm_90a", *WGMMA)[KERNEL], resources("sm_90a", *WGMMA)[KERNEL]
    layouts = 4
    assert count(code, "HGMMA", "64x128x16", "BF16") == 6 * layouts  # products of parts
    assert count(code, "FENCE", "ASYNC") == count(code, "BAR", "SYNC") == 2 * layouts
    assert count(code, "LDGSTS", "128") >= 4 * layouts
    assert count(code, "STS", "64") == count(code, "STS") > 0
    assert (taken.spilled, taken.stack) == (0, 0)
    said = toolkit.cubin(WGMMA[0], "sm_90a", *WGMMA[1:]).with_suffix(".log").read_text()
    assert "serialized" not in said  # which ptxas does where registers are touched in flight


@pytest.mark.parametrize("asked", [False, True])
def test_the_flag_adds_it_for_sm_90a(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    monkeypatch.setenv("FASTSSM_WGMMA", "1" if asked else "0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    built = description()
    assert ("-DFASTSSM_WGMMA" in built["kernel_flags"]) == asked
    hopper = ["arch=compute_90a,code=[sm_90a]", "arch=compute_90,code=[compute_90]"]
    options = hopper if asked else ["arch=compute_90,code=[sm_90,compute_90]"]
    assert built["targets"][1::2] == ["arch=compute_80,code=[sm_80]", *options]


@pytest.mark.parametrize("asked", [False, True])
def test_nvrtc_compiles_for_sm_90a_where_the_source_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: bool
) -> None:
    try:
        nvrtc.nvrtc()
    except nvrtc.NvrtcError as why:
        pytest.skip(str(why))
    monkeypatch.setenv(nvrtc.CACHE, str(tmp_path / "cache"))
    flags = ["-DFASTSSM_WGMMA"] if asked else []
    source = tmp_path / "kernels.cu"
    tool, kernel = libraries.ROOT / "tools" / "amalgamate.py", libraries.CSRC / "cuda" / "kernels" / "gemm_wgmma.cuh"
    libraries.run([sys.executable, tool, kernel, libraries.ROOT, source, *flags])
    image = nvrtc.kernels(source.read_text(), 90)
    assert image.name.startswith("kernels-sm_90a-" if asked else "kernels-sm_90-")
    assert (KERNEL.encode() in image.read_bytes()) == asked
