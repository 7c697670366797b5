"""What devices can hold, by compute capability: the table of the CUDA C++ Programming Guide."""

from __future__ import annotations

from typing import NamedTuple

KILOBYTE = 1024


class Architecture(NamedTuple):
    """One compute capability, and one device that has it."""

    capability: int
    threads: int  # of a multiprocessor, at once
    blocks: int  # of a multiprocessor, at once
    shared: int  # bytes of a multiprocessor
    shared_per_block: int  # bytes, the most that a kernel may opt in to
    reserved_shared: int  # bytes that each block takes for the system
    multiprocessors: int  # of the device
    device: str

    @property
    def name(self) -> str:
        return f"sm_{self.capability}"


REGISTERS = 65536  # of a multiprocessor, and the most of a block
ARCHITECTURES = (
    Architecture(75, 1024, 16, 64 * KILOBYTE, 64 * KILOBYTE, 0, 40, "T4"),
    Architecture(80, 2048, 32, 164 * KILOBYTE, 163 * KILOBYTE, KILOBYTE, 108, "A100"),
    Architecture(86, 1536, 16, 100 * KILOBYTE, 99 * KILOBYTE, KILOBYTE, 82, "RTX 3090"),
    Architecture(89, 1536, 24, 100 * KILOBYTE, 99 * KILOBYTE, KILOBYTE, 128, "RTX 4090"),
    Architecture(90, 2048, 32, 228 * KILOBYTE, 227 * KILOBYTE, KILOBYTE, 132, "H100"),
    Architecture(100, 2048, 32, 228 * KILOBYTE, 227 * KILOBYTE, KILOBYTE, 148, "B200"),
    Architecture(120, 1536, 24, 100 * KILOBYTE, 99 * KILOBYTE, KILOBYTE, 170, "RTX 5090"),
)
BY_NAME = {row.name: row for row in ARCHITECTURES}


def occupancy(architecture: Architecture, threads: int, registers: int, shared: int) -> int:
    """Return how many blocks of a kernel a multiprocessor holds at once.

    Args:
        architecture: of the device.
        threads: of a block.
        registers: of a thread.
        shared: bytes of a block.

    Returns:
        The number of blocks, 0 where not even one fits.

    Source: cuda_occupancy.h of the CUDA toolkit, which it equals (`test_static.py` compares them).
    """
    if shared > architecture.shared_per_block or threads > 1024:
        return 0
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256  # registers are given out to warps in units of 256
    by_registers = REGISTERS // 4 // per_warp * 4 // warps if registers else architecture.blocks
    taken = (
        -(-(shared + architecture.reserved_shared) // 128) * 128
        if architecture.capability >= 80
        else -(-shared // 256) * 256
    )
    by_shared = architecture.shared // taken if taken else architecture.blocks
    return min(architecture.threads // 32 // warps, architecture.blocks, by_registers, by_shared)
