"""`fastssm info`, also printed by `python -m fastssm`: versions, devices, and the availability of each backend."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from typing import Any

import torch

import fastssm
from fastssm import backends
from fastssm.cli.options import add_command
from fastssm.native import cuda_library, extension

OPTIONAL = ("rich", "matplotlib", "scikit-learn", "pandas", "pyarrow")


def add(commands: Any) -> None:
    """Add the command."""
    add_command(
        commands, "info", "versions, devices and backends", "Show versions, devices and backends."
    ).set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    versions = [f"fastssm {fastssm.__version__}", f"torch {torch.__version__}", f"numpy {_version('numpy')}"]
    print(", ".join([*versions, f"Python {platform.python_version()}"]))
    print("optional: " + ", ".join(f"{name} {_version(name) or 'not installed'}" for name in OPTIONAL))
    print(f"CPU: {platform.machine()}, {torch.get_num_threads()} threads")
    print(f"CUDA: {_cuda()}")
    print("\nbackends")
    for name, reasons in backends.availability().items():
        print(f"  {name:10} {'available' if not reasons else 'no: ' + '; '.join(reasons)}")
    print(f"\n{extension.status()}")
    print(_engine(), end="")
    print(_cuda_engine(), end="")
    return 0


def _engine() -> str:
    """Return what the CPU engine uses here and was built for, or an empty string if it is not loaded."""
    module = extension.module()
    if module is None:
        return ""
    using, built = module.capability(), extension.record()
    return (
        f"  CPU engine: {using['level']} code, {torch.get_num_threads()} threads\n"
        f"  built for torch {built['torch']}, runs with torch {torch.__version__}\n"
    )


def _cuda_engine() -> str:
    """Return what the build contains of the CUDA engine, or an empty string if it contains none."""
    built = extension.record().get("cuda", {})
    return f"  CUDA engine: {cuda_library.described(built)}\n" if "compiler" in built else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no device"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
