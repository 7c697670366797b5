"""Builds device_program.cpp: `python -m tests.cuda.harness.device_program [--out PATH]` prints where it is."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tests.cuda.harness.libraries import COMPILER, CSRC, FLAGS, HERE, included, made

SOURCES = (HERE / "device_program.cpp", HERE / "driver_memory.cpp", *sorted((CSRC / "cuda").glob("*.cpp")))
PORTABLE = ("-O2", "-static-libstdc++", "-static-libgcc")  # so that it runs beside another compiler's libraries


def program() -> Path:
    """Return the program, which needs nothing but libc and, when it runs, the driver."""
    files = frozenset.union(*map(included, SOURCES))
    return made("device-program", files, [*COMPILER, *FLAGS, *PORTABLE, *SOURCES, "-ldl"], "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to copy it to")
    out = parser.parse_args().out
    print(shutil.copy(program(), out) if out else program())


if __name__ == "__main__":
    main()
