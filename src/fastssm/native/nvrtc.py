"""The CUDA kernels for the current device, compiled by NVRTC when first needed, and cached.

NVRTC is the compiler that comes with PyTorch's CUDA wheels: no toolkit, no host compiler. It never runs at import.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CACHE = "FASTSSM_CACHE"
PATIENCE = 600.0  # seconds to wait for somebody else's compilation before starting one's own
OPTIONS = ("--std=c++17", "--define-macro=FASTSSM_NVRTC")
WGMMA = "#define FASTSSM_WGMMA\n"  # how a source begins that was built with FASTSSM_WGMMA=1

# NVRTC has no standard library. The functions that the kernels use are built in, but not in namespace std.
_MATHS = "fabs copysign exp expm1 log log1p sqrt sin cos tanh erf erfc fma fmin fmax floor isnan isinf isfinite"
HEADERS = {
    "cmath": "#pragma once\nnamespace std {\n" + "".join(f"using ::{name};\n" for name in _MATHS.split()) + "}\n",
    "cstdint": "#pragma once\n"
    + "".join(
        f"typedef {sign}{kind} {prefix}int{bits}_t;\n"
        for bits, kind in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
        for sign, prefix in (("signed ", ""), ("unsigned ", "u"))
    )
    + "typedef unsigned long long uintptr_t;\n",
    "cstring": "#pragma once\nnamespace std {\nusing ::memcpy;\n}\n",
    "cstddef": "#pragma once\nnamespace std {\nusing ::size_t;\n}\n",
}

_log = logging.getLogger("fastssm")


class NvrtcError(RuntimeError):
    """Why NVRTC cannot compile, in a sentence."""


class Image(NamedTuple):
    """Compiled kernels.

    Attributes:
        content: what the driver loads: a cubin, or PTX for a device that is newer than NVRTC.
        architecture: what it was compiled for, "sm_80" or "compute_120".
    """

    content: bytes
    architecture: str


def candidates() -> Iterator[str]:
    """Yield the places of libnvrtc: the wheels beside torch, a toolkit, the system."""
    for site in filter(None, sys.path):
        yield from sorted(map(str, Path(site).glob("nvidia/*/lib/libnvrtc.so.*")))
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for home in filter(None, homes):
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            yield from sorted(map(str, Path(home, folder).glob("libnvrtc.so*")))
    found = ctypes.util.find_library("nvrtc")
    yield from ([found] if found else [])


class Nvrtc:
    """The compiler in one shared library.

    Args:
        path: the library, absolute or a name that the dynamic linker finds.

    Raises:
        NvrtcError: if it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        try:
            for part in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")) if os.sep in path else []:
                ctypes.CDLL(str(part))  # NVRTC loads it by name
            self._library = ctypes.CDLL(path)
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        except (OSError, AttributeError) as error:
            raise NvrtcError(f"{path} is no NVRTC that can be loaded ({error})") from error
        self.path, self.version = path, (major.value, minor.value)

    def architectures(self) -> list[int]:
        """Return the compute capabilities that it supports, 75 for 7.5, in rising order."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found), "nvrtcGetSupportedArchs")
        return sorted(found)

    def target(self, capability: int) -> str:
        """Return what to compile for: the device itself, or PTX of the newest older one, which the driver compiles."""
        older = [architecture for architecture in self.architectures() if architecture < capability]
        return f"compute_{older[-1]}" if older and capability not in self.architectures() else f"sm_{capability}"

    def compile(self, source: str, architecture: str, options: Sequence[str] = OPTIONS) -> Image:
        """Compile kernels.

        Args:
            source: of all of them, with no includes but those of HEADERS.
            architecture: "sm_80" for a cubin, "compute_80" for PTX.
            options: of the compiler, except the architecture.

        Raises:
            NvrtcError: with the compiler's words, if it cannot.
        """
        program = ctypes.c_void_p()
        names = [name.encode() for name in HEADERS]
        texts = [text.encode() for text in HEADERS.values()]
        strings = ctypes.c_char_p * len(names)
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), b"kernels.cu", len(names), strings(*texts), strings(*names)
            ),
            "nvrtcCreateProgram",
        )
        try:
            words = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
            if self._library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words)):
                log = self._text(program, "ProgramLog").decode(errors="replace")
                raise NvrtcError(f"NVRTC {_dotted(self.version)} cannot compile for {architecture}: {log.strip()}")
            return Image(self._text(program, "CUBIN" if architecture.startswith("sm_") else "PTX"), architecture)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(self._library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)), f"nvrtcGet{what}Size")
        content = ctypes.create_string_buffer(size.value)
        self._check(self._library[f"nvrtcGet{what}"](program, content), f"nvrtcGet{what}")
        return content.raw

    def _check(self, result: int, call: str) -> None:
        if result:
            words = self._library.nvrtcGetErrorString
            words.restype = ctypes.c_char_p
            raise NvrtcError(f"{call} failed: {words(result).decode()}")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@functools.cache
def nvrtc() -> Nvrtc:
    """Return the first NVRTC that can be loaded.

    Raises:
        NvrtcError: if there is none; the message says which places were searched.
    """
    for path in candidates():
        try:
            return Nvrtc(path)
        except NvrtcError:
            continue
    raise NvrtcError(
        "there is no libnvrtc. fastssm looked beside torch, in CUDA_HOME, /usr/local/cuda and on the system; "
        "install it by `pip install nvidia-cuda-nvrtc`"
    )


def cache() -> Path:
    """Return where compiled kernels are kept: FASTSSM_CACHE, or a folder in the user's cache."""
    named = os.environ.get(CACHE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastssm"


def kernels(source: str, capability: int, patience: float = PATIENCE) -> Path:
    """Return the file of kernels for a device, compiled now if the cache does not have it.

    Args:
        source: of the kernels.
        capability: of the device, 80 for 8.0.
        patience: seconds to wait for another process that compiles the same.

    Raises:
        NvrtcError: if there is no NVRTC, or it cannot compile them.
    """
    compiler = nvrtc()
    architecture = compiler.target(capability)
    if architecture == "sm_90" and source.startswith(WGMMA):
        architecture = "sm_90a"
    text = "\0".join([source, architecture, _dotted(compiler.version), *OPTIONS, *HEADERS.values()])
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    target = _writable(cache()) / f"kernels-{architecture}-{key}"
    with _lock(target.with_suffix(".lock"), patience, target.exists):
        if not target.exists():
            _log.warning("fastssm compiles its CUDA kernels for %s, once; they are kept in %s", architecture, target)
            _write(target, compiler.compile(source, architecture).content)
    return target


@functools.cache
def _writable(folder: Path) -> Path:
    """Return the folder, or a temporary one if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="fastssm-"))


def _write(target: Path, content: bytes) -> None:
    """Write a file that others see whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, target)


@contextmanager
def _lock(path: Path, patience: float, done: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock for a while; go on without it when it was not to be had in time, or what it is for is done.

    The lock belongs to the open file: if the process dies, it is released.
    """
    import fcntl  # not on every platform

    end = time.monotonic() + patience
    with open(path, "a") as file:
        while not done():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    break
                time.sleep(min(0.05, patience))
        yield
