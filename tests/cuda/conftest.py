"""Gives the machines that the tests of tests/cuda run kernels on."""

import pytest

from tests.cuda.harness import machines
from tests.cuda.harness.whole_net import WholeNet


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
