"""A device for ctypes and NumPy: kernels started by name, on the emulator or as executed PTX (emulator/entry.cpp)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.cuda.harness.architectures import Architecture


class LaunchFailed(Exception):
    """What the launcher raised."""


class Traffic(NamedTuple):
    """What kernels asked of one memory in one direction."""

    requests: int  # of warps
    bytes: int  # that the threads asked for
    units: int  # sectors of 32 bytes, or turns of the banks of shared memory
    fetched: int  # sectors of global memory, what a block reads again counted once


class Device:
    """A library of `libraries.library`."""

    def __init__(self, path: Path) -> None:
        self.library: Any = ctypes.CDLL(str(path))
        self.library.fastssm_error.restype = ctypes.c_char_p

    def launch(self, kernel: str, blocks: tuple[int, int, int], threads: int, parameters: Any, shared: int = 0) -> None:
        """Run a kernel to its end.

        Args:
            kernel: its name.
            blocks: of the grid.
            threads: of a block.
            parameters: a structure of ctypes (`filled`).
            shared: bytes of shared memory.

        Raises:
            LaunchFailed: where the launcher refuses, or a thread breaks a rule.
        """
        size = ctypes.c_size_t(ctypes.sizeof(parameters))
        arguments = (*blocks, threads, ctypes.c_size_t(shared), ctypes.byref(parameters), size)
        if self.library.fastssm_launch(kernel.encode(), *arguments):
            raise LaunchFailed(self.error())

    def error(self) -> str:
        """Return why the last call failed."""
        return str(self.library.fastssm_error().decode())

    def entry(self, name: str) -> ctypes.c_void_p:
        """Return the address of a function of the library, for other libraries to call."""
        return ctypes.cast(getattr(self.library, f"fastssm_{name}"), ctypes.c_void_p)

    def schedule(self, seed: int | None) -> None:
        """Run threads and blocks in order (None), or at random."""
        self.library.fastssm_schedule(seed is not None, ctypes.c_uint64(seed or 0))

    def limit(self, architecture: Architecture, multiprocessors: int = 4) -> None:
        """Refuse what does not fit this architecture."""
        shared = ctypes.c_size_t(architecture.shared_per_block)
        self.library.fastssm_limits(shared, multiprocessors, architecture.capability)

    def kernels(self) -> list[str]:
        """Return the names of all kernels."""
        self.library.fastssm_kernel.restype = ctypes.c_char_p
        names, index = [], 0
        while name := self.library.fastssm_kernel(index):
            names.append(name.decode())
            index += 1
        return names

    def races(self) -> list[str]:
        """Return the races since the last call; the library must be of the flavour "race"."""
        self.library.fastssm_races.restype = ctypes.c_char_p
        return self.library.fastssm_races().decode().splitlines()

    def traffic(self) -> dict[str, Traffic]:
        """Return what moved since the last call; the library must be of the flavour "profile"."""
        numbers = (ctypes.c_uint64 * 16)()
        self.library.fastssm_traffic(numbers)
        names = ("global reads", "global writes", "shared reads", "shared writes")
        return {name: Traffic(*numbers[4 * i : 4 * i + 4]) for i, name in enumerate(names)}


def filled(structure: type[ctypes.Structure], **values: Any) -> ctypes.Structure:
    """Fill a struct: arrays stand for their addresses, dictionaries for structs inside, sequences for arrays inside."""
    made = structure()
    kinds = dict(structure._fields_)
    if unset := kinds.keys() ^ values.keys():
        raise TypeError(f"{structure.__name__} has {', '.join(kinds)}: not as given: {', '.join(sorted(unset))}")
    for name, value in values.items():
        setattr(made, name, converted(kinds[name], value))
    return made


def converted(kind: Any, value: Any) -> Any:
    """Return a value as a field of a struct takes it."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, dict):
        return filled(kind, **value)
    return kind(*(converted(kind._type_, each) for each in value)) if isinstance(value, (tuple, list)) else value


def of_the_host(size: int) -> np.ndarray:
    """Return so many bytes that everything but a GPU reaches."""
    return np.empty(size, np.uint8)


allocate: Callable[[int], np.ndarray] = of_the_host  # or what a GPU reaches, once `gpu.Gpu` is there


def aligned(shape: int | tuple[int, ...], dtype: Any, fill: Any = np.nan) -> np.ndarray:
    """Return a filled array that kernels reach; its memory begins at a multiple of 16 bytes and ends where it does."""
    count, size = int(np.prod(shape)), np.dtype(dtype).itemsize
    raw = allocate(count * size)
    assert raw.ctypes.data % 16 == 0, "NumPy aligns to 16 bytes"
    array = raw.view(dtype).reshape(shape)
    array[...] = fill
    return array


def copied(values: Any, dtype: Any) -> np.ndarray:
    """Return a copy that kernels reach."""
    return aligned(np.shape(values), dtype, values)
