"""The CUDA engine's operators for CPU tensors: the real launch code and glue, with kernels emulated or executed as PTX.

Loaded into a process where nothing else is compiled (FASTSSM_NO_NATIVE=1), they are what `torch.ops.fastssm` runs:

    FASTSSM_NO_NATIVE=1 FASTSSM_OPERATORS="$(python tests/cuda/operators.py)" pytest tests/test_equivalence.py -k ops

and with `python tests/cuda/operators.py 80`, the same on nvcc's PTX for compute capability 8.0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE / "ptx")) if path not in sys.path]

from libraries import CSRC, library, translated  # noqa: E402

TORCH = Path(torch.__file__).parent
ROWS = {
    key: words
    for key, *words in (line.split("#")[0].split() or [""] for line in (CSRC / "sources.txt").read_text().splitlines())
}
FLAGS = (*ROWS["cudatorchflags"], "-DFASTSSM_EMULATED", f"-isystem{TORCH}/include", "-DNDEBUG")
LIBRARIES = (f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH}/lib")
KERNELS = CSRC / ROWS["kernels"][0]


def host_code() -> list[Path]:
    """Return the engine and its glue: all but the driver, in whose place the emulator is."""
    patterns = (*ROWS["cuda"], *ROWS["cudatorch"])
    found = sorted(path for pattern in patterns for path in CSRC.glob(pattern) if not path.name.startswith("driver"))
    return [*found, HERE / "emulator" / "devices.cpp"]


def operators(capability: int | None = None, flavour: str = "plain", flags: Sequence[str] = ()) -> Path:
    """Return a library of the operators, for `torch.ops.load_library`.

    Args:
        capability: 80 for kernels that are nvcc's PTX for 8.0; None for the same source on the emulator.
        flavour: as of `libraries.library`.
        flags: more of the compiler.

    Returns:
        The path of the library.
    """
    more = (*FLAGS, *flags)
    if capability is None:
        return library("operators", [KERNELS, *host_code()], flavour, more, LIBRARIES)
    from toolkit import ptx

    return translated(f"operators{capability}", ptx(KERNELS, capability), flavour, 8, host_code(), more, LIBRARIES)


if __name__ == "__main__":
    print(operators(int(sys.argv[1]) if len(sys.argv) > 1 else None))
