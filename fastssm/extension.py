"""The compiled module `fastssm._C`: whether it is there, and if not, why."""

from __future__ import annotations

import importlib.util

PRESENT = importlib.util.find_spec("fastssm._C") is not None


def status() -> str:
    """Say in one sentence what is compiled."""
    if PRESENT:
        return "The compiled module fastssm._C is installed."
    return "Nothing is compiled: this release is pure Python and PyTorch, without the CPU and CUDA engines."
