"""Run `check.sh` where there is no GPU and no network: every phase must be reached, and lack nothing but a device.

    python tools/device/rehearse.py LOG [PREBUILT]

The tree is copied with the engine that PREBUILT holds (build/device, by `make device-build`), as it travels to a
machine with a GPU: nothing else may be needed there but this python. Needs Linux and the right to `unshare`.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_DEVICE = r"NVIDIA driver|no CUDA device|needs a GPU|no GPU|CUDA driver"
# What each phase must come to without a device: its status, and what its summary or its part of the log says.
EXPECTED = {
    "engine": ("ok", "the CUDA engine loads"),
    "facts": ("failed", "torch sees no CUDA device"),
    "smoke": ("ok", r"^\d+ skipped"),
    "bench": ("failed", "bench.gpu needs a GPU"),
    "products": ("failed", NO_DEVICE),
    "kernels": ("failed", r"^(\d+ skipped, )?\d+ errors? in"),  # neither passed nor failed
    "device": ("ok", r"^\d+ skipped"),
    "matrix": ("failed", "no GPU"),
    "program": ("failed", "NVIDIA driver cannot be opened"),
    "memcheck": ("failed", "NVIDIA driver cannot be opened"),
    "racecheck-whole-net": ("failed", "NVIDIA driver cannot be opened"),
    "racecheck-layers": ("failed", "NVIDIA driver cannot be opened"),
    "ncu": ("failed", NO_DEVICE),
    "nvrtc": ("failed", NO_DEVICE),
}
# In place of a tool that is not there: run the first argument that is a program, with those after it.
STUB = '#!/bin/sh\nwhile [ $# -gt 0 ] && ! { [ -f "$1" ] && [ -x "$1" ]; }; do shift; done\nexec "$@"\n'


def copied(folder: Path, prebuilt: Path) -> Path:
    """Copy what git knows or would add, and the engine, as they would travel."""
    tree = folder / "tree"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    shutil.copytree(prebuilt, tree / "build" / "device")
    return tree


def stubs(folder: Path) -> Path:
    """Write stand-ins for the profiler and the sanitizer."""
    place = folder / "bin"
    place.mkdir()
    for name in ("compute-sanitizer", "ncu"):
        (place / name).write_text(STUB)
        (place / name).chmod(0o755)
    return place


def rehearsed(folder: Path, prebuilt: Path) -> tuple[str, list[dict[str, str]]]:
    """Run the script in a copy of the tree without a network, and return what it prints and its rows."""
    tree, out = copied(folder, prebuilt), folder / "out"
    path = f"{stubs(folder)}:{Path(sys.executable).parent}:/usr/bin:/bin"
    variables = {
        "PATH": path,
        "HOME": str(folder),
        "PYTHON": sys.executable,
        "BENCH_S": "20",
        "SHOWN": "3",
        "REHEARSAL": "1",
    }
    command = ["unshare", "--map-root-user", "--net", "tools/device/check.sh", str(out)]
    done = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    with (out / "phases.csv").open() as file:
        return done.stdout + done.stderr, list(csv.DictReader(file))


def surprises(rows: list[dict[str, str]]) -> list[str]:
    """Return what came out otherwise than a missing device explains."""
    found = {row["phase"]: row for row in rows}
    wrong = [f"{name}: never reached" for name in EXPECTED if name not in found]
    for name, row in found.items():
        status, words = EXPECTED[name]
        if not row["status"].startswith(status) or not re.search(words, row["summary"]):
            wrong.append(f"{name}: {row['status']}, {row['summary']}")
    return wrong


def main() -> int:
    """Rehearse, write the log, and return 1 if anything but the device was missing."""
    log, prebuilt = Path(sys.argv[1]), Path(*sys.argv[2:] or [ROOT / "build" / "device"])
    import torch

    with tempfile.TemporaryDirectory() as folder:
        text, rows = rehearsed(Path(folder), prebuilt.resolve())
        wrong = surprises(rows)
        verdict = "\n".join(wrong) or "every phase was reached, and lacked nothing but a device"
        version = ".".join(map(str, sys.version_info[:3]))
        head = (
            f"tools/device/check.sh without a GPU and without a network: Python {version}, torch {torch.__version__}\n"
        )
        text = text.replace(folder, "").replace(os.path.dirname(os.path.dirname(sys.executable)), "")
        log.write_text(f"{head}{text}\n{verdict}\n")
    print(verdict)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
