"""Host code of csrc/cuda, called from Python: every kernel that it starts goes through `Host` to a machine."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.cuda.harness.architectures import BY_NAME, Architecture
from tests.cuda.harness.libraries import CSRC, HERE, library
from tests.cuda.harness.machines import Machine

WGMMA = ("-DFASTSSM_WGMMA",)  # as the emulator has it
SOURCES = (HERE / "host_entry.cpp", *sorted((CSRC / "cuda").glob("*.cpp")))
START = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, *[ctypes.c_uint] * 4, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t
)


class Started(NamedTuple):
    """A launch; of a "product", `blocks` are rows and columns of C and the depth, `threads` whether it adds to C."""

    kernel: str
    blocks: tuple[int, int, int]
    threads: int
    shared: int


class Host:
    """Host code at work on a machine.

    Attributes:
        launches: of the last call.
    """

    def __init__(self, machine: Machine, sources: Sequence[Path] = SOURCES) -> None:
        self.machine, self.device = machine, machine.device
        self.launches: list[Started] = []
        self.verdict: AssertionError | None = None
        self.library: Any = ctypes.CDLL(str(library("host", sources, "plain", WGMMA)))
        self.library.fastssm_host_error.restype = ctypes.c_char_p
        self.start = START(self._start)
        self.limit(BY_NAME["sm_86"])

    def limit(self, architecture: Architecture, multiprocessors: int = 3) -> None:
        """Take the device for one of this architecture."""
        self.device.limit(architecture, multiprocessors)
        self.limits = ctypes.c_size_t(architecture.shared_per_block), multiprocessors, architecture.capability
        self.enter()

    def enter(self) -> None:
        """Have the library, which all hosts share, start kernels and take memory here."""
        self.library.fastssm_host_memory(self.device.entry("allocate"), self.device.entry("free"))
        self.library.fastssm_host(self.start, *self.limits)

    def _start(self, kernel: bytes, x: int, y: int, z: int, threads: int, shared: int, given: Any, size: int) -> int:
        self.launches.append(Started(kernel.decode(), (x, y, z), threads, shared))
        if kernel in (b"product", b"gemm_ex"):
            return 0
        arguments = (kernel, x, y, z, threads, ctypes.c_size_t(shared), ctypes.c_void_p(given), ctypes.c_size_t(size))
        self.machine.watch()
        failed = int(self.device.library.fastssm_launch(*arguments))
        try:
            self.machine.judge()
        except AssertionError as raised:  # which ctypes would print and forget
            self.verdict = raised
        return failed

    def call(self, function: str, *arguments: Any) -> bool:
        """Call a function of host_entry.cpp, and return what it did.

        Raises:
            RuntimeError: where it raised, or a kernel failed.
        """
        self.launches.clear()
        self.enter()
        done = int(getattr(self.library, function)(*arguments))
        if self.verdict:
            raise self.verdict
        if done < 0:
            raise RuntimeError(f"{self.library.fastssm_host_error().decode()} {self.device.error()}")
        return bool(done)
