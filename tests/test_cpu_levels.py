"""The lower instruction sets of the compiled CPU engine, each as a processor without the higher ones runs it.

The level is read once in a process, so each gets one. There torch, oneDNN and MKL, which compute what the engine is
compared with, get along without the higher instructions too.
"""

from __future__ import annotations

import ast
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
LIBRARIES = {  # what keeps the instructions above a level from torch's kernels, oneDNN and MKL
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def run_at(level: str, *command: str, examples: int = 60) -> subprocess.CompletedProcess[str]:
    here = {"FASTSSM_CPU_LEVEL": level, "FASTSSM_FUZZ_EXAMPLES": str(examples), "PYTHONPATH": str(ROOT / "src")}
    environment = {**os.environ, **here, **LIBRARIES.get(level, {})}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment)


KNOWN = """
import torch
from fastssm.native import extension
print(extension.module().capability(), torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize(("level", "aten"), [("baseline", "DEFAULT"), ("avx2", "AVX2")])
def test_a_level_is_that_of_a_processor_without_the_others(level: str, aten: str) -> None:
    if level not in LEVELS[:-1]:
        pytest.skip("every test here runs on such a processor")
    done = run_at(level, "-c", KNOWN)
    assert done.returncode == 0, done.stderr
    known, kernels = done.stdout.strip().rsplit(" ", 1)
    assert ast.literal_eval(known) == {"level": level, "bf16": False, "levels": LEVELS}
    assert kernels == aten


# Words of tests that are the same on any level:
ELSEWHERE = ("opcheck", "overflow", "strides", "finite", "more_directions", "in_turns")
ELSEWHERE += ("exhausted", "openmp", "during", "spawn")


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_a_lower_level_agrees_with_the_oracle_in_threads_and_after_a_fork(level: str) -> None:
    files = [f"tests/{name}.py" for name in ("test_cpu_engine", "test_fuzz", "test_cpu_threads")]
    chosen = " and ".join(f"not {word}" for word in ELSEWHERE)
    done = run_at(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("level", [pytest.param("sse", marks=pytest.mark.slow), "AVX2"])
def test_an_unknown_level_is_refused(level: str) -> None:
    done = run_at(level, "-c", "import torch, fastssm; fastssm.sliced_loss(fastssm.nn.MLP(2, [4]), torch.zeros(1, 2))")
    assert done.returncode != 0
    assert f"FASTSSM_CPU_LEVEL must be avx512, avx2 or baseline, got '{level}'" in done.stderr
