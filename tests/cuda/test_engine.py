"""The layer-wise engine and its kernels without torch: test_engine.cpp on the emulator, watched in several ways."""

from __future__ import annotations

from functools import cache

import libraries
import machines
import pytest
from device import Device

HOST = sorted((libraries.CSRC / "cuda").glob("*.cpp"))
KERNELS = libraries.CSRC / "cuda" / "kernels.cu"


@cache
def emulated(flavour: str) -> Device:
    sources = [KERNELS, *HOST, libraries.HERE / "test_engine.cpp"]
    return Device(libraries.library("engine", sources, flavour))


@pytest.mark.parametrize("random", [False, True], ids=["in order", "at random"])
@pytest.mark.parametrize("whole_net", [False, True], ids=["layer by layer", "whole nets"])
def test_every_value_and_gradient(random: bool, whole_net: bool, capfd: pytest.CaptureFixture[str]) -> None:
    flavour = machines.FLAVOUR or "plain"
    assert emulated(flavour).library.fastssm_test_engine(random, whole_net) == 0, capfd.readouterr().out


@pytest.mark.parametrize("whole_net", [False, True], ids=["layer by layer", "whole nets"])
def test_no_races(whole_net: bool, capfd: pytest.CaptureFixture[str]) -> None:
    device = emulated("race")
    assert device.library.fastssm_test_engine(False, whole_net) == 0, capfd.readouterr().out
    assert device.races() == []
