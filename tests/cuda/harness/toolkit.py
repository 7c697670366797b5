"""Calls the programs of the CUDA toolkit, from wherever `tools/nvcc.py` looks for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nvcc import find_nvcc, places
from toolchain import NotBuilt

from tests.cuda.harness.libraries import CSRC, HERE, included, made

ABSENT = "{} was not found: pip install '.[cuda-test]'"
ROWS = [line.split() for line in (CSRC / "sources.txt").read_text().splitlines() if line]
FLAGS = next(words for key, *words in ROWS if key == "kernelflags")


@cache
def program(name: str) -> Path | None:
    """Return the path of a program of the CUDA toolkit, or None."""
    if name == "nvcc":
        try:
            return Path(find_nvcc().path)
        except NotBuilt:
            return None
    folders = [str(Path(place).parent) for place in places()]
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    return Path(found) if found else None


def compile_kernels(source: Path, arguments: Sequence[str], suffix: str) -> Path:
    """Compile a kernel file with nvcc, once, and return what came out."""
    compiler = program("nvcc")
    assert compiler is not None, ABSENT.format("nvcc")
    command = [compiler, *FLAGS, f"-I{CSRC}", f"-I{HERE}", *arguments, source]
    return made(source.stem, included(source), command, suffix)


def ptx(source: Path, capability: int) -> str:
    """Return nvcc's PTX of a kernel file for `compute_<capability>`."""
    return compile_kernels(source, ["-ptx", f"-arch=compute_{capability}"], ".ptx").read_text()


def cubin(source: Path, architecture: str) -> Path:
    """Return nvcc's machine code of a kernel file for one architecture; ptxas's remarks lie beside it, as `.log`."""
    return compile_kernels(source, ["-cubin", f"-arch={architecture}", "-Xptxas", "-v"], ".cubin")
