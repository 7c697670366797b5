"""A GPU as a device: kernels of an image file, started by the engine's own launcher (device_entry.cpp)."""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.harness import device, toolkit
from tests.cuda.harness.architectures import Architecture
from tests.cuda.harness.libraries import CSRC, HERE, ROOT, library

DRIVER = (HERE / "driver_memory.cpp", *sorted((CSRC / "cuda").glob("driver*.cpp")))
BUILT = ROOT / "src" / "fastssm" / "_kernels.fatbin"


def image(kernels: Path, capability: int) -> Path:
    """Return the file to load: the one of FASTSSM_CUDA_IMAGE, or what was built for the package, or what nvcc makes."""
    if given := os.environ.get("FASTSSM_CUDA_IMAGE"):
        return Path(given)
    return BUILT if BUILT.exists() else toolkit.cubin(kernels, f"sm_{capability}")


class Gpu(device.Device):
    """The first GPU; from its making on, every array of `device.aligned` lies where it reaches it.

    Raises:
        LaunchFailed: without a GPU, or where the image is not for it.
    """

    def __init__(self, kernels: Path) -> None:
        super().__init__(library("gpu", [HERE / "device_entry.cpp", *DRIVER], "plain", parts=()))
        self.library.fastssm_allocate.restype = ctypes.c_void_p
        capability, self.shared = ctypes.c_int(), ctypes.c_size_t()
        self.must(self.library.fastssm_device(ctypes.byref(capability), ctypes.byref(self.shared)))
        self.image = image(kernels, capability.value)
        self.must(self.library.fastssm_open(str(self.image).encode()))
        device.allocate = self.allocate

    def must(self, failed: int) -> None:
        if failed:
            raise device.LaunchFailed(self.error())

    def allocate(self, size: int) -> np.ndarray:
        """Return so many bytes of the host that the GPU reaches by the same address."""
        address = self.library.fastssm_allocate(ctypes.c_size_t(max(1, size)))
        self.must(address is None)
        held = (ctypes.c_uint8 * max(1, size)).from_address(address)
        weakref.finalize(held, self.library.fastssm_free, ctypes.c_void_p(address))
        return np.ctypeslib.as_array(held)[:size]

    def schedule(self, seed: int | None) -> None:
        """Do nothing: a GPU orders threads as it likes."""

    def limit(self, architecture: Architecture, multiprocessors: int = 4) -> None:
        """Skip a test that is of a larger device."""
        if architecture.shared_per_block > self.shared.value:
            pytest.skip(f"the GPU here has less shared memory than {architecture.name}")
