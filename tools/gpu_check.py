"""Everything that needs a GPU, in one command: tests on the device, compute-sanitizer, timings against autograd.

`make gpu-check` builds the CUDA engine and runs this. Nobody has run it on a GPU yet: please send what it prints, and
the CSV file that it writes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = 3  # exit status: nothing is wrong, but nothing could be checked
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


class Step(NamedTuple):
    """One command, and what it is for."""

    title: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}  # noqa: RUF012  # of a NamedTuple, never changed


def obstacle() -> str:
    """Return in a sentence why nothing can be checked here; empty if it can."""
    import torch

    from fastssm import backends

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install one with CUDA from https://pytorch.org"
    if reasons := backends.availability()["cuda"]:
        return "; ".join(reasons)
    return ""


def steps(quick: bool) -> Iterator[Step]:
    """Yield what there is to do."""
    on_device = {"FASTSSM_DEVICE": "cuda"}
    yield Step("what is here", (sys.executable, "-m", "fastssm"))
    yield Step("tests on the device", (*PYTEST, "tests/cuda/test_device.py"))
    yield Step("the whole matrix on the device", (*PYTEST, "tests/test_equivalence.py", "-k", "ops"), on_device)
    if sanitizer := shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck", "synccheck"):
            watched = (sanitizer, "--tool", tool, "--error-exitcode", "9", *PYTEST, "tests/cuda/test_device.py")
            yield Step(f"compute-sanitizer {tool}", (*watched, "-k", "every_kernel"))
    sizes = ("--sizes", "2,64,2,128,1", "--budget", "0.5") if quick else ()
    yield Step("timings", (sys.executable, "-m", "bench.gpu", *sizes))


def run(step: Step) -> bool:
    """Run a step, and say whether it went well."""
    print(f"\n== {step.title}\n{shlex.join(step.command)}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **step.environment}
    return subprocess.run(step.command, cwd=ROOT, env=environment).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run every step, and return 1 if one failed, 3 where there is no GPU to check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="time one small network only")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    chosen = parser.parse_args(arguments)
    if not shutil.which("compute-sanitizer"):
        print("compute-sanitizer is not on the PATH (it comes with the CUDA toolkit), so its checks are left out.")
    if chosen.dry_run:
        for step in steps(chosen.quick):
            print(shlex.join([*(f"{k}={a}" for k, a in step.environment.items()), *step.command]))
        return 0
    sys.path.insert(0, str(ROOT))
    if why := obstacle():
        print(f"gpu-check has no GPU to check: {why}.")
        return NO_GPU
    failed = [step.title for step in steps(chosen.quick) if not run(step)]
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'all went well'}; please report it, with the CSV file.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
