"""Finds nvcc, and compiles the CUDA kernels into one fat binary for many architectures. It needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from toolchain import NotBuilt, call

NAMES = {"turing": "7.5", "ampere": "8.0 8.6", "ada": "8.9", "hopper": "9.0", "blackwell": "10.0 12.0"}
SYSTEM = Path("/usr/local/cuda")


class Nvcc(NamedTuple):
    """The compiler of a CUDA toolkit.

    Attributes:
        path: the program.
        version: of it, "13.0.88".
    """

    path: str
    version: str


def places() -> Iterator[str]:
    """Yield where nvcc may be: $NVCC, a toolkit, the PATH, the wheels nvidia-cuda-nvcc and its companions."""
    if "NVCC" in os.environ:
        yield from filter(None, [shutil.which(os.environ["NVCC"])])
        return
    for home in filter(None, [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]):
        yield str(Path(home, "bin", "nvcc"))
    yield from filter(None, [shutil.which("nvcc")])
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}:
        yield from map(str, sorted(Path(packages).glob("nvidia/*/bin/nvcc"), reverse=True))
    yield str(SYSTEM / "bin" / "nvcc")


def find_nvcc() -> Nvcc:
    """Return the first nvcc that runs.

    Raises:
        NotBuilt: if there is none.
    """
    for path in places():
        if os.access(path, os.X_OK):
            version = re.search(r"V(\d+\.\d+\.\d+)", call([path, "--version"], "has no version"))
            return Nvcc(path, version[1] if version else "of unknown version")
    raise NotBuilt(
        "there is no nvcc; it was looked for in CUDA_HOME, on the PATH and among Python's packages, where "
        "`pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl` puts one"
    )


def architectures(default: list[str]) -> list[str]:
    """Return what to compile for: $TORCH_CUDA_ARCH_LIST as PyTorch writes it, or the default with PTX of its newest.

    Args:
        default: compute capabilities, "75" for 7.5.

    Returns:
        Capabilities in rising order, "80" or, where PTX is wanted too, "80+PTX".

    Raises:
        NotBuilt: if the list cannot be read.
    """
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").replace(",", " ").lower().split()
    named = [word for item in listed for word in NAMES.get(item, item).split()]
    found: dict[str, bool] = {}
    for word in named:
        match = re.fullmatch(r"(\d+)\.(\d)a?(\+ptx)?", word)
        if not match:
            raise NotBuilt(f"TORCH_CUDA_ARCH_LIST holds {word!r}; write numbers like 8.0, the last one like 12.0+PTX")
        capability = match[1] + match[2]
        found[capability] = bool(match[3]) or found.get(capability, False)
    if not found:
        found = {capability: capability == default[-1] for capability in default}
    return [f"{capability}{'+PTX' * ptx}" for capability, ptx in sorted(found.items(), key=lambda item: int(item[0]))]


def targets(wanted: list[str]) -> list[str]:
    """Return nvcc's options for a list of architectures."""
    options = []
    for item in wanted:
        capability, _, ptx = item.partition("+")
        codes = [f"sm_{capability}", *[f"compute_{capability}"][: bool(ptx)]]
        options += ["-gencode", f"arch=compute_{capability},code=[{','.join(codes)}]"]
    return options


if __name__ == "__main__":
    print(find_nvcc().path)
