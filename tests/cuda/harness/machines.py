"""What the tests of kernels run them on, and how they call one kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda.harness import libraries, toolkit
from tests.cuda.harness.device import Device, aligned, copied, filled
from tests.cuda.harness.gpu import Gpu
from tests.cuda.harness.structures import Structures

KERNELS = Path(
    os.environ.get("FASTSSM_CUDA_KERNELS", libraries.CSRC / "cuda" / "kernels" / "kernels.cu")
)  # or a mutant
HEADERS = ("engine/tile.h", "cuda/kernels/params.h", "cuda/kernels/small_params.h", "cuda/kernels/gemm_params.h")
STRUCTURES = Structures(*(libraries.CSRC / name for name in HEADERS))
FLAVOUR = os.environ.get("FASTSSM_CUDA_FLAVOUR", "")  # of a run of the tests within the tests
PTX_FILES = 8  # that the kernels of one architecture are compiled in
GPU = "device"  # the flavour, and the machine, of a run on one
OTHERS = ("random", "race", "ptx-80", "ptx-100")  # PTX takes two minutes to compile
EVERY = ("emulator", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS))
MACHINES = EVERY if not FLAVOUR else (FLAVOUR,)
DTYPES = {"float": np.float32, "double": np.float64}
RTOL = {np.float32: 2.0**-23 * 64, np.float64: 1e-12}  # of the largest entry
ACCESS = 16  # bytes


@cache
def library(name: str) -> Device:
    """Return a device by the name of a machine; without nvcc skip a test that needs it, without a GPU fail."""
    if name == GPU:
        return Gpu(KERNELS)
    if not name.startswith("ptx"):
        return Device(libraries.library("kernels", [KERNELS], name))
    if toolkit.program("nvcc") is None:
        pytest.skip(toolkit.ABSENT.format("nvcc"))
    text = toolkit.ptx(KERNELS, int(name.removeprefix("ptx-")))
    return Device(libraries.translated(f"kernels-{name}", text, "plain", PTX_FILES))


class Machine:
    """A device, a schedule of threads, and whether races are looked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = library({"emulator": "plain", "random": "plain"}.get(name, name))
        self.launches = 0

    def launch(
        self, kernel: str, structure: str, blocks: Sequence[int], threads: int, shared: int = 0, **values: Any
    ) -> None:
        """Run a kernel with one parameter struct; `blocks` are of up to three dimensions."""
        x, y, z = (*blocks, 1, 1)[:3]
        self.watch()
        self.device.launch(kernel, (x, y, z), threads, filled(STRUCTURES[structure], **values), shared)
        self.judge()

    def watch(self) -> None:
        """Prepare for one launch."""
        self.launches += 1
        self.device.schedule(self.launches if self.name == "random" else None)

    def judge(self) -> None:
        """Raise if the launch raced."""
        if self.name == "race":
            assert self.device.races() == []


@cache
def machine_named(name: str) -> Machine:
    return Machine(name)


def lanes(dtype: Any) -> int:
    """Return how many numbers an access of 16 bytes has."""
    return ACCESS // np.dtype(dtype).itemsize


def parts(whole: int, size: int) -> int:
    """Return how many parts of a size it takes."""
    return (whole + size - 1) // size


def padded(width: int, dtype: Any, extra: int = 0) -> int:
    """Return a distance of rows that keeps them aligned."""
    return (parts(width, lanes(dtype)) + extra) * lanes(dtype)


class Rows:
    """Rows of a stack: numbers up to `width`, and NaN between that and `ld`."""

    def __init__(self, values: Any, dtype: Any, ld: int) -> None:
        *self.shape, self.width = values.shape
        self.ld = ld
        self.memory = aligned((int(np.prod(self.shape)), ld), dtype)
        self.memory[:, : self.width] = values.reshape(-1, self.width)

    @property
    def values(self) -> Any:
        """The numbers, in float64."""
        return self.memory[:, : self.width].reshape(*self.shape, self.width).astype(np.float64)


def exact(values: Any, dtype: Any) -> Any:
    """Return an array in a dtype as memory of its own, and as float64 what it then holds."""
    memory = copied(values, dtype)
    return memory, memory.astype(np.float64)


def close(found: Any, expected: Any, dtype: Any, what: str, factor: float = 1.0) -> None:
    """Compare with float64, relative to the largest entry."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{what}: shape {found.shape} is not {expected.shape}"
    if not expected.size:
        return
    worst, scale = np.abs(found - expected).max(), max(1e-3, np.abs(expected).max())
    assert worst <= factor * RTOL[dtype] * scale, f"{what}: off by {worst:.2e} of {scale:.2e}"
