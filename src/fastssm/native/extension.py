"""The compiled module `fastssm._C`: loads it once, when it is first asked for, or says why it cannot."""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fastssm.errors import FastSSMWarning

OFF = "FASTSSM_NO_NATIVE"
RECORD = Path(__file__).parents[1] / "_build.json"  # setup.py writes there what it built, or why nothing
SOURCES = Path(__file__).parents[3] / "csrc"  # there in an editable install alone
DEVICE = re.compile(r"\+(cpu|cu\d+|rocm[\d.]+|xpu)$")  # of a torch for a device, whose part for the CPU is the same
AGAIN = "run `pip install --force-reinstall --no-deps .` in its source"


def module() -> ModuleType | None:
    """Return `fastssm._C`; None where it is not built, was built for another torch or Python, or is switched off."""
    return _load()[0]


def status() -> str:
    """Say in one sentence what is compiled, or why nothing is."""
    return _load()[1]


def switched_off() -> str:
    """Return by what setting everything compiled is switched off; empty if it is not."""
    setting = os.environ.get(OFF, "")
    return "" if setting in ("", "0") else f"{OFF}={setting}"


def record() -> dict[str, Any]:
    """Return what the build left: torch, python, compiler and levels, or the reason why there is no module."""
    if not RECORD.exists():
        return {"reason": f"this copy of fastssm was never installed; {AGAIN}"}
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def newer_source(built: Path) -> Path | None:
    """Return a C++ source that has changed since a file was built; None if none has, or where there are no sources."""
    files = (file for folder in SOURCES.glob("*/") if folder.name != "tests" for file in folder.rglob("*.*"))
    return next((file for file in files if file.stat().st_mtime > built.stat().st_mtime), None)


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    if off := switched_off():
        return None, f"The compiled module fastssm._C is switched off by {off}."
    try:
        return _open(record())
    except Exception as error:  # fastssm works without it
        return None, f"The compiled module fastssm._C cannot be loaded ({type(error).__name__}: {error}); {AGAIN}."


def _open(built: dict[str, Any]) -> tuple[ModuleType | None, str]:
    if "reason" in built:
        return None, f"The compiled module fastssm._C was not built: {built['reason']}."
    running = {"torch": str(torch.__version__), "python": ".".join(platform.python_version_tuple()[:2])}
    unfit = [
        f"{name} {built[name]}, but {ours} is running"
        for name, ours in running.items()
        if DEVICE.sub("", built[name]) != DEVICE.sub("", ours)
    ]
    if unfit:  # loading it would fail with an undefined symbol, or crash
        return None, f"The compiled module fastssm._C was built for {' and '.join(unfit)}; {AGAIN}."
    loaded = importlib.import_module("fastssm._C")
    if newer := newer_source(Path(loaded.__file__ or "")):
        warnings.warn(
            f"The compiled module fastssm._C is older than {newer.relative_to(SOURCES.parent)}; run "
            f"`pip install --no-deps --editable {SOURCES.parent}` to compile what changed.",
            FastSSMWarning,
            stacklevel=2,
        )
    what = f"{', '.join(built['levels'])}, by {built['compiler']}, for torch {built['torch']}"
    return loaded, f"The compiled module fastssm._C is loaded: {what}."
