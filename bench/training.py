"""Time whole training commands from start to exit, including data, steps, evaluations and figure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.ours import require
from bench.problems import Case, Size

WINE, DEMO = "train white-wine", "demo"
COMMANDS = {WINE: Case(Size(11, 128, 3, 256, 1)), DEMO: Case(Size(2, 128, 3, 256, 1), "silu")}
BACKENDS = {"autograd": "reference", "fastssm torch": "torch", "fastssm cpu": "cpu"}


def timed(command: str, contender: str, folder: Path) -> dict[str, Any]:
    """Run ``fastssm COMMAND`` with the backend of a contender, and compare its test losses with autograd.

    Args:
        command: a key of ``COMMANDS``.
        contender: a key of ``BACKENDS``.
        folder: output folder; if it contains the files of autograd, the losses are compared.

    Returns:
        The milliseconds, and the maximum relative difference of a test loss.
    """
    require(BACKENDS[contender])
    out = folder / f"{command} {contender}"
    words = [sys.executable, "-m", "fastssm", *command.split(), "--out", str(out)]
    environment = os.environ | {"FASTSSM_BACKEND": BACKENDS[contender]}
    before = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    milliseconds = 1e3 * (time.perf_counter() - before)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")
    return {"min_ms": milliseconds, "median_ms": milliseconds, "repeats": 1} | compared(
        test_losses(out), test_losses(folder / f"{command} autograd")
    )


def test_losses(out: Path) -> dict[str, float]:
    """Return the test loss of every run in a folder."""
    files = sorted(out.rglob("result.json"))
    return {str(file.parent.relative_to(out)): json.loads(file.read_text())["test_loss"] for file in files}


def compared(losses: dict[str, float], expected: dict[str, float]) -> dict[str, float]:
    if not losses or losses.keys() != expected.keys():
        return {}
    return {"max_rel_error": max(abs(losses[name] - expected[name]) / abs(expected[name]) for name in losses)}
