"""The CUDA engine's operators for CPU tensors: the real launch code and glue, with kernels emulated or executed as PTX.

Loaded into a process where nothing else is compiled (FASTSSM_NO_NATIVE=1), they are what `torch.ops.fastssm` runs:

    library=$(python -m tests.cuda.harness.operators)
    FASTSSM_NO_NATIVE=1 FASTSSM_OPERATORS=$library pytest tests/test_equivalence.py -k ops

and with `python -m tests.cuda.harness.operators 80`, the same on nvcc's PTX for compute capability 8.0.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests.cuda.harness import toolkit
from tests.cuda.harness.libraries import COMPILER, HERE, compiled, library, made, translated

TORCH = Path(torch.__file__).parent
BUILT = toolkit.described()
FLAGS = (*BUILT["stable_flags"], "-O1", "-DFASTSSM_EMULATED", f"-isystem{TORCH}/include")
LIBRARIES = (f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH}/lib")
(KERNELS,) = map(Path, BUILT["cuda_kernels"])
PTX_FILES = 8  # that the kernels of one architecture are compiled in


def host_code() -> list[Path]:
    """Return the engine and its glue: all but the driver, in whose place the emulator is."""
    found = map(Path, [*BUILT["cuda"], *BUILT["stable"]])
    return [*(path for path in found if not path.name.startswith("driver")), HERE / "emulator" / "devices.cpp"]


def operators(capability: int | None = None) -> Path:
    """Return a library of the operators, for `torch.ops.load_library`.

    Args:
        capability: 80 for kernels that are nvcc's PTX for 8.0; None for the same source on the emulator.

    Returns:
        The path of the library.
    """
    if capability is None:
        kernels = library("kernels", [KERNELS], "plain")
    else:
        kernels = translated(f"kernels-ptx-{capability}", toolkit.ptx(KERNELS, capability), "plain", PTX_FILES)
    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(lambda source: compiled(source, FLAGS, f"{source.stem}-operators"), host_code()))
    link = [*COMPILER, "-shared", *objects, kernels, *LIBRARIES]
    return made(f"operators-{capability or 'emulator'}", [*objects, kernels], link, ".so")


if __name__ == "__main__":
    print(operators(int(sys.argv[1]) if len(sys.argv) > 1 else None))
