"""The lower instruction sets of the compiled CPU engine: the level is read once in a process, so each gets one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastssm.backends.entries import compiled
from fastssm.native import extension

pytestmark = [
    pytest.mark.skipif("cpu" not in compiled.DEVICES, reason=extension.status()),
    pytest.mark.skipif("FASTSSM_CPU_LEVEL" in os.environ, reason="a level is forced already"),
]
LEVELS = extension.module().capability()["levels"] if compiled.DEVICES else []
ROOT = Path(__file__).parents[1]


def run_at(level: str, *command: str, examples: int = 60) -> subprocess.CompletedProcess[str]:
    here = {"FASTSSM_CPU_LEVEL": level, "FASTSSM_FUZZ_EXAMPLES": str(examples), "PYTHONPATH": str(ROOT / "src")}
    environment = {**os.environ, **here}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_a_lower_level_agrees_with_the_oracle(level: str) -> None:
    files = ("tests/test_cpu_engine.py", "tests/test_fuzz.py")
    without = "not opcheck and not overflow and not strides and not finite"
    done = run_at(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", without)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_a_lower_level_computes_after_a_fork_and_in_threads(level: str) -> None:
    """Below AVX-512 the products are torch's, which wait for threads of their own."""
    done = run_at(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_cpu_threads.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("level", ["sse", "AVX2"])
def test_an_unknown_level_is_refused(level: str) -> None:
    done = run_at(level, "-c", "import torch, fastssm; fastssm.sliced_loss(fastssm.nn.MLP(2, [4]), torch.zeros(1, 2))")
    assert done.returncode != 0
    assert f"FASTSSM_CPU_LEVEL must be avx512, avx2 or baseline, got '{level}'" in done.stderr
