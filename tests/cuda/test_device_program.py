"""The engine on a GPU without torch (device_program.cpp): every case there, and here a few on the fake driver."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.cuda.harness import device_program, machines, rehearsal

ON_GPU = machines.FLAVOUR == machines.GPU
pytestmark = [
    pytest.mark.skipif(machines.FLAVOUR not in ("", machines.GPU), reason="once is enough"),
    *([] if ON_GPU else [pytest.mark.slow]),  # a minute
]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [device_program.program(), *options]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("option", ["--layers", "--whole-net"])
def test_every_value_and_gradient(option: str) -> None:
    if ON_GPU:
        done = run(option, str(machines.library(machines.GPU).image))
    else:
        done = run(option, "--quick", **rehearsal.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" kernels, 0 failures\n"), done.stdout


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
def test_without_a_driver_it_says_so() -> None:
    done = run(LD_LIBRARY_PATH="")
    if "cannot be opened" not in done.stdout:
        pytest.skip("there is a driver")
    assert done.returncode == 2
    assert done.stdout.startswith("the NVIDIA driver cannot be opened (libcuda.so.1: cannot open shared object file")


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
def test_an_image_that_is_not_there() -> None:
    done = run("no such file", **rehearsal.environment())
    assert (done.returncode, done.stdout) == (2, "there is no file no such file\n")
