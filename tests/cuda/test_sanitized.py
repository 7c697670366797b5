"""The tests of kernels and of the engine once more, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.cuda.harness import libraries, machines

TESTS = ("rows", "pointwise", "tops", "small", "engine", "gemm", "gemm_up", "wgmma")
OPTIONS = ("-q", "-p", "no:cacheprovider", "--capture=sys")


@pytest.mark.slow  # minutes
@pytest.mark.skipif(machines.FLAVOUR != "", reason="this is such a run")
@pytest.mark.parametrize("name", TESTS)
def test_no_access_out_of_bounds_and_nothing_undefined(name: str) -> None:
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"tests/cuda/test_{name}.py"]
    done = subprocess.run(command, env=libraries.sanitized(), cwd=libraries.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(r"\b[1-9]\d* passed", done.stdout), done.stdout
