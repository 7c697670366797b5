"""The tools themselves, on kernels that are right or wrong in one way each (samples.cu)."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.cuda.harness import libraries, toolkit
from tests.cuda.harness.device import Device, LaunchFailed, aligned, filled
from tests.cuda.harness.structures import Structures

SOURCE = libraries.HERE / "samples.cu"
STRUCTURES = Structures(libraries.HERE / "samples.h")
MACHINES = ("emulator", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ptx-80", "ptx-100")))


@cache
def sample_device(machine: str, flavour: str = "plain") -> Device:
    if machine == "emulator":
        return Device(libraries.library("samples", [SOURCE], flavour))
    if toolkit.program("nvcc") is None:
        pytest.skip(toolkit.ABSENT.format("nvcc"))
    text = toolkit.ptx(SOURCE, int(machine.removeprefix("ptx-")))
    return Device(libraries.translated(f"samples-{machine}", text, flavour))


def start(device: Device, kernel: str, x: Any, out: Any, *, blocks: int = 1, threads: int = 64, count: int = 0) -> Any:
    """Launch one of the kernels that take two arrays."""
    parameters = filled(STRUCTURES["SampleArrays"], **{"in": x, "out": out, "count": count})
    device.launch(f"sample_{kernel}", (blocks, 1, 1), threads, parameters, 4 * threads)
    return out


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_shuffles_and_barriers(machine: str) -> None:
    device = sample_device(machine)
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for seed in (None, 0, 1, 2):
        device.schedule(seed)
        sums = start(device, "sum", x, aligned(3, np.float32), blocks=3, threads=96, count=len(x))
        np.testing.assert_allclose(sums.astype(np.float64).sum(), x.astype(np.float64).sum(), rtol=1e-5)
        assert np.array_equal(start(device, "reverse", x, aligned(64, np.float32)), x[63::-1])
    device.schedule(None)


MISUSE = (
    ("two_barriers", 64, "__syncthreads is reached at lines"),
    ("early_exit", 64, "all threads that are left wait: 0 in __syncthreads"),
    ("sum", 80, "a shuffle at line"),
    ("reverse", 512, "512 threads, of at most 256"),
    ("unknown", 64, "there is no such kernel"),
)


def test_misuse_raises(machine: str) -> None:
    x = np.zeros(600, np.float32)
    for kernel, threads, message in MISUSE:
        with pytest.raises(LaunchFailed, match=f"kernel sample_{kernel}: .*{message}"):
            start(sample_device(machine), kernel, x, aligned(600, np.float32), threads=threads)
        after = start(sample_device(machine), "reverse", x, aligned(64, np.float32))
        assert after.sum() == 0  # the next launch is sound


def test_limits_and_parameters_are_checked(machine: str) -> None:
    device, x = sample_device(machine), np.zeros(64, np.float32)
    arrays = filled(STRUCTURES["SampleArrays"], **{"in": x, "out": x, "count": 0})
    with pytest.raises(LaunchFailed, match="200000 bytes of shared memory, of 101376"):
        device.launch("sample_reverse", (1, 1, 1), 64, arrays, 200000)
    with pytest.raises(LaunchFailed, match="0 x 1 x 1 blocks"):
        device.launch("sample_reverse", (0, 1, 1), 64, arrays, 256)
    with pytest.raises(LaunchFailed, match="32 bytes of parameters, of 24"):
        device.launch("sample_reverse", (1, 1, 1), 64, filled(STRUCTURES["SampleProduct"], a=x, b=x, c=x, d=x), 256)


def test_shared_memory_begins_as_nan(machine: str) -> None:
    x = np.zeros(64, np.float32)
    assert np.isnan(start(sample_device(machine), "unwritten", x, aligned(64, np.float32, 0))).all()


def test_random_schedules_differ_and_repeat(machine: str) -> None:
    device, x = sample_device(machine), np.zeros(64, np.float32)
    last = []
    for seed in (0, 1, 2, 3, 4, 5, 0):
        device.schedule(seed)
        last.append(float(start(device, "same_place", x, aligned(1, np.float32), blocks=40)[0]))
    device.schedule(None)
    assert len(set(last)) > 1
    assert last[0] == last[-1]
    assert start(device, "same_place", x, aligned(1, np.float32), blocks=40)[0] == 39


def tf32(x: Any) -> Any:
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def bf16(x: Any) -> Any:
    return (x.view(np.uint32) >> 16).astype(np.uint32)


def test_tensor_cores_by_asymmetric_data(machine: str) -> None:
    random = np.random.default_rng(0).standard_normal
    device = sample_device(machine)
    c, d = random((16, 8)).astype(np.float32), aligned((16, 8), np.float32)
    a, b = tf32(random((16, 8)).astype(np.float32)), tf32(random((8, 8)).astype(np.float32))
    device.launch("sample_mma_tf32", (1, 1, 1), 32, filled(STRUCTURES["SampleProduct"], a=a, b=b, c=c, d=d))
    np.testing.assert_allclose(d, a.astype(np.float64) @ b + c, rtol=2e-6, atol=1e-6)
    words = [bf16(random(shape).astype(np.float32)) for shape in ((16, 16), (8, 16))]
    pairs = [np.ascontiguousarray(w[:, ::2] | w[:, 1::2] << 16) for w in words]
    a, b = ((w << 16).view(np.float32).astype(np.float64) for w in words)
    device.launch(
        "sample_mma_bf16", (1, 1, 1), 32, filled(STRUCTURES["SampleProduct"], a=pairs[0], b=pairs[1], c=c, d=d)
    )
    np.testing.assert_allclose(d, a @ b.T + c, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "blocks", "count", "race"),
    [
        ("reverse", 2, 0, "in global memory"),  # both blocks write the same place
        ("reverse", 1, 0, ""),
        ("sum", 3, 64, ""),
        ("missing_barrier", 1, 0, "in shared memory"),
        ("warp_reverse", 1, 0, "in shared memory"),
        ("warp_reverse", 1, 1, ""),
        ("same_place", 1, 0, "in global memory"),
    ],
)
def test_races(machine: str, kernel: str, blocks: int, count: int, race: str) -> None:
    device = sample_device(machine, "race")
    x = np.zeros(64, np.float32)
    device.races()
    start(device, kernel, x, aligned(64, np.float32), blocks=blocks, threads=32, count=count)
    found = device.races()
    assert all(race in text for text in found)
    assert bool(found) == bool(race), found


@pytest.mark.parametrize(("kernel", "count", "sectors"), [("strided", 1, 4), ("strided", 8, 32), ("wide", 0, 16)])
def test_traffic(kernel: str, count: int, sectors: int) -> None:
    device, x = sample_device("ptx-80", "profile"), aligned(512, np.float32, 1)
    x = x[-(x.ctypes.data // 4 % 8) % 8 :]  # begins with a sector
    device.traffic()
    start(device, kernel, x, aligned(512, np.float32), threads=32, count=count)
    reads = device.traffic()["global reads"]
    assert (reads.requests, reads.units) == (1, sectors)
    assert reads.bytes == (512 if kernel == "wide" else 128)
    assert reads.fetched == sectors


def test_what_a_block_reads_again_is_fetched_once() -> None:
    device, x = sample_device("ptx-80", "profile"), aligned(512, np.float32, 1)
    device.traffic()
    start(device, "strided", x, aligned(512, np.float32), blocks=3, threads=64, count=0)
    traffic = device.traffic()
    assert (traffic["global reads"].units, traffic["global reads"].fetched) == (6, 3)  # one by each of two warps
    assert traffic["global writes"].units == traffic["global writes"].fetched


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["reverse", "past_shared", "past_global"])
def test_address_sanitizer_sees_what_leaves_an_array(kernel: str) -> None:
    command = [sys.executable, "-m", __name__, kernel]
    done = subprocess.run(command, cwd=libraries.ROOT, env=libraries.sanitized(), capture_output=True, text=True)
    assert (done.returncode == 0) == (kernel == "reverse"), done.stderr
    assert ("AddressSanitizer" in done.stderr) == (kernel != "reverse"), done.stderr


if __name__ == "__main__":
    start(sample_device("emulator", "address"), sys.argv[1], np.zeros(64, np.float32), aligned(64, np.float32))
