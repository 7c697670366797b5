"""The engine and its kernels without torch: test_engine.cpp, on everything that runs kernels here."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pytest

from tests.cuda.harness import libraries, machines

ENGINE = [path for path in sorted((libraries.CSRC / "cuda").glob("*.cpp")) if not path.name.startswith("driver")]
SEEDS = {"random": 1}
pytestmark = pytest.mark.skipif(machines.FLAVOUR == machines.GPU, reason="device_program.cpp does it on a GPU")


class Entries(ctypes.Structure):
    """The struct Device of test_engine.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("launch", "schedule", "error")]


@cache
def program() -> Any:
    sources = [*ENGINE, libraries.HERE.parent / "test_engine.cpp"]
    return ctypes.CDLL(str(libraries.library("engine", sources, machines.FLAVOUR or "plain")))


def entries(machine: machines.Machine) -> Entries:
    return Entries(*(machine.device.entry(name) for name, _ in Entries._fields_))


@pytest.mark.parametrize(
    "whole_net", [pytest.param(False, id="layer by layer"), pytest.param(True, id="whole nets", marks=pytest.mark.slow)]
)  # test_dispatcher.py runs whole nets
@pytest.mark.parametrize("name", machines.MACHINES)
def test_every_value_and_gradient(name: str, whole_net: bool, capfd: pytest.CaptureFixture[str]) -> None:
    machine = machines.machine_named(name)
    seed = ctypes.c_uint64(SEEDS.get(name, 0))
    assert program().fastssm_test_engine(entries(machine), seed, whole_net) == 0, capfd.readouterr().out
    machine.judge()


@pytest.mark.parametrize("name", machines.MACHINES)
def test_operands_in_bfloat16(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Products get the bits that they would round operands of float32 to: in every sweep, tile and chunk."""
    machine = machines.machine_named(name)
    assert program().fastssm_test_narrow(entries(machine), ctypes.c_uint64(SEEDS.get(name, 0))) == 0, capfd.readouterr()
    machine.judge()


def test_tiles_determinism_and_launches(capfd: pytest.CaptureFixture[str]) -> None:
    machine = machines.machine_named(machines.FLAVOUR or "emulator")
    assert program().fastssm_test_launches(entries(machine)) == 0, capfd.readouterr().out
