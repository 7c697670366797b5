"""A driver without a GPU (fake_driver.cpp), on which all that is written for a GPU runs on the emulator."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tests.cuda.harness.libraries import CACHE, CSRC, HERE, library, locked

PARTS = ("fiber", "machine", "warp", "mma", "wgmma", "copies", "launcher")


@cache
def driver() -> Path:
    """Return a folder with a libcuda.so.1."""
    made = library(
        "fake-driver", [CSRC / "cuda" / "kernels" / "kernels.cu", HERE / "fake_driver.cpp"], "plain", parts=PARTS
    )
    folder = CACHE / made.stem
    with locked(folder):
        folder.mkdir(exist_ok=True)
        if not (folder / "libcuda.so.1").exists():
            (folder / "libcuda.so.1").symlink_to(made)
    return folder


def environment() -> dict[str, str]:
    """Return an environment in which the first GPU is the emulator, and any image file is that of its kernels."""
    return {**os.environ, "LD_LIBRARY_PATH": str(driver()), "FASTSSM_CUDA_IMAGE": __file__}
