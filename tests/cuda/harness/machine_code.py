"""What nvcc makes of the kernels for one architecture: resources by ptxas, instructions by the disassembler."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.cuda.harness import toolkit
from tests.cuda.harness.libraries import HERE, run
from tests.cuda.harness.machines import KERNELS

WGMMA = (HERE / "wgmma_alone.cu", "-DFASTSSM_WGMMA")  # for sm_90a: the source and the flag
PTXAS = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE)


class Resources(NamedTuple):
    """What ptxas gives a kernel."""

    registers: int
    spilled: int  # bytes, stores and loads
    stack: int  # bytes


@cache
def resources(architecture: str, source: Path = KERNELS, *flags: str) -> dict[str, Resources]:
    """Return the resources of every kernel on an architecture, by its name."""
    said = toolkit.cubin(source, architecture, *flags).with_suffix(".log").read_text()
    found = PTXAS.findall(said)
    return {
        name: Resources(int(registers), int(stores) + int(loads), int(stack))
        for name, stack, stores, loads, registers in found
    }


@cache
def instructions(architecture: str, source: Path = KERNELS, *flags: str) -> dict[str, Counter[str]]:
    """Return how often each instruction stands in every kernel on an architecture, by the kernel's name."""
    code = toolkit.cubin(source, architecture, *flags)
    text = run([toolkit.program("cuobjdump") or "cuobjdump", "-sass", code])
    parts = re.split(r"^\s*Function : (\w+)\s*$", text, flags=re.MULTILINE)
    return {name: Counter(INSTRUCTION.findall(body)) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def count(kernel: Counter[str], *words: str) -> int:
    """Return how many instructions of a kernel have each of these words between their dots."""
    return sum(times for name, times in kernel.items() if set(words) <= set(name.split(".")))
