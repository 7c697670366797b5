"""The machine "device" rehearsed: the tests of kernels as on a GPU, by a driver that runs them on the emulator."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import pytest

from tests.cuda.harness import libraries, machines, rehearsal

TESTS = ("tops", "rows", "pointwise", "small", "gemm")
OPTIONS = ("-q", "-p", "no:cacheprovider", "-x")
PLAIN_MEMORY = """
import numpy as np
from tests.cuda.harness import machines

def plain():  # the driver takes no word that ends in the byte 0 or 1 for an address
    raw = np.zeros(512, np.uint8)
    start = -raw.ctypes.data % 256 + 16
    return raw[start : start + 16].view(np.float32)

machine = machines.machine_named("device")
machine.launch("identity_float", "Identity<float>", (1,), 64, size=2, out={out})
"""
pytestmark = pytest.mark.skipif(machines.FLAVOUR != "", reason="this is such a run")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = ":".join(filter(None, sys.path))
    environment = {**rehearsal.environment(), "PYTHONPATH": path, "FASTSSM_CUDA_FLAVOUR": machines.GPU, **environment}
    words = [sys.executable, *command]
    return subprocess.run(words, env=environment, cwd=libraries.ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_kernels_pass(name: str) -> None:
    done = run("-m", "pytest", *OPTIONS, f"tests/cuda/test_{name}.py")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(("memory", "refused"), [("machines.aligned(4, np.float32)", False), ("plain()", True)])
def test_the_rehearsal_sees_memory_that_no_gpu_would_reach(memory: str, refused: bool) -> None:
    done = run("-c", PLAIN_MEMORY.format(out=memory))
    assert bool(done.returncode) == refused, done.stderr
    assert ("failed: the device does not reach" in done.stderr) == refused, done.stderr


def test_without_a_driver_every_test_says_so() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        done = run("-m", "pytest", *OPTIONS, "tests/cuda/test_rows.py", LD_LIBRARY_PATH="")
        assert done.returncode == 1
        assert "LaunchFailed: the NVIDIA driver cannot be opened (libcuda.so.1: cannot open" in done.stdout
    else:
        pytest.skip("there is a driver")
