"""Puts the tools of tests/cuda on the path, and gives the machines that its tests run kernels on."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "ptx"), str(HERE.parents[1] / "tools")]

import machines  # noqa: E402
from whole_net import WholeNet  # noqa: E402


@pytest.fixture(params=machines.MACHINES)
def machine(request: pytest.FixtureRequest) -> machines.Machine:
    """A machine to launch kernels on, each in turn."""
    return machines.machine_named(request.param)


@pytest.fixture(params=machines.DTYPES)
def real(request: pytest.FixtureRequest) -> str:
    """The name in C++ of a floating type, each in turn."""
    return str(request.param)


@pytest.fixture
def whole_net(machine: machines.Machine) -> WholeNet:
    """The whole-net path on each of the machines."""
    return WholeNet(machine)
