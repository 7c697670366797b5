"""Calls the programs of the CUDA toolkit, from wherever the build (`cmake/nvcc.cmake`) looks for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from native_build import NotBuilt, description

from tests.cuda.harness.libraries import CSRC, HERE, included, made

ABSENT = "{} was not found: pip install '.[cuda-test]'"
described = cache(description)


@cache
def program(name: str) -> Path | None:
    """Return the path of a program of the CUDA toolkit, or None; $NVCC can name another nvcc."""
    try:
        known = described()
    except NotBuilt:  # without CMake: nothing is built here
        return None
    if name == "nvcc":
        return next(map(Path, known["nvcc"]), None)
    beside = [str(Path(nvcc).parent) for nvcc in known["nvcc"]]
    found = shutil.which(name, path=os.pathsep.join([*beside, *known["cuda_folders"]]))
    return Path(found) if found else None


def compile_kernels(source: Path, arguments: Sequence[str], suffix: str) -> Path:
    """Compile a kernel file with nvcc, once, and return what came out."""
    compiler = program("nvcc")
    assert compiler is not None, ABSENT.format("nvcc")
    command = [compiler, *described()["kernel_flags"], f"-I{CSRC}", f"-I{HERE}", *arguments, source]
    return made(source.stem, included(source), command, suffix)


def ptx(source: Path, capability: int) -> str:
    """Return nvcc's PTX of a kernel file for `compute_<capability>`."""
    return compile_kernels(source, ["-ptx", f"-arch=compute_{capability}"], ".ptx").read_text()


def cubin(source: Path, architecture: str, *flags: str) -> Path:
    """Return nvcc's machine code of a kernel file for one architecture; ptxas's remarks lie beside it, as `.log`."""
    return compile_kernels(source, ["-cubin", f"-arch={architecture}", *flags, "-Xptxas", "-v"], ".cubin")
