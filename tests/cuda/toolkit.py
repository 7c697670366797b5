"""Finds nvcc and the disassembler, and calls them: from CUDA_HOME, the PATH, or the wheels of the [cuda-test] extra."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from libraries import CSRC, HERE, included, made, run

ABSENT = "there is no {} in CUDA_HOME, on the PATH, or from PyPI: pip install '.[cuda-test]'"


@cache
def program(name: str) -> Path | None:
    """Return the path of a program of the CUDA toolkit, or None."""
    homes = [os.environ.get("CUDA_HOME", ""), *wheels()]
    path = os.pathsep.join([*(f"{home}/bin" for home in homes if home), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def wheels() -> list[str]:
    """Return where NVIDIA's wheels lie in this environment."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return [str(home) for place in places for home in (place / "cu13",) if home.is_dir()]


def nvcc(source: Path, arguments: Sequence[str], suffix: str) -> Path:
    """Compile a kernel file, once, and return what came out."""
    compiler = program("nvcc")
    assert compiler is not None, ABSENT.format("nvcc")
    flags = ["-std=c++17", "--expt-relaxed-constexpr", f"-I{CSRC}", f"-I{HERE}", *arguments]
    return made(source.stem, included(source), [compiler, *flags, source], suffix)


def ptx(source: Path, capability: int) -> str:
    """Return nvcc's PTX of a kernel file for `compute_<capability>`."""
    return nvcc(source, ["-ptx", f"-arch=compute_{capability}"], ".ptx").read_text()


def cubin(source: Path, architecture: str) -> tuple[Path, str]:
    """Return nvcc's machine code of a kernel file, and what ptxas says of its resources."""
    path = nvcc(source, ["-cubin", f"-arch={architecture}"], ".cubin")
    return path, run([program("cuobjdump") or "cuobjdump", "--dump-resource-usage", path])
