"""Holding everything on a processor to a lower instruction set, as if it had no higher one.

JAX cannot be held: `--xla_cpu_max_isa` binds the code that XLA generates, but not its matrix products.
"""

import os

VARIABLE = "FASTSSM_CPU_LEVEL"
LEVELS = {  # for fastssm, torch's kernels, oneDNN and MKL
    "avx2": {
        VARIABLE: "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
_FLAGS = {"avx2": ("-mavx2", "-mfma"), "": ("-march=native",)}
_BITS = {"avx2": 256}


def hold(level: str) -> None:
    """Hold this process and those that it starts to a level; an empty string leaves everything as it is."""
    os.environ.update(LEVELS.get(level, {}))


def held() -> str:
    """Return the level that this process is held to, or an empty string."""
    level = os.environ.get(VARIABLE, "")
    return level if level in LEVELS else ""


def hold_inductor() -> None:
    """Hold the code that torch.compile generates to the level too. Call it before anything is compiled."""
    if held():
        import torch._inductor.config as inductor

        inductor.cpp.simdlen = _BITS[held()]


def compiler_flags() -> tuple[str, ...]:
    """Return what has a C++ compiler use the instructions of the level."""
    return _FLAGS[held()]
