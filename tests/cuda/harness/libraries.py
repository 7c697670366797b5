"""Compiles the libraries that tests/cuda loads, each once: build/cuda-tests names them by the hash of what went in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.cuda.harness.ptx.translate import files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda-tests"
COMPILER = shlex.split(os.environ.get("CXX", "g++"))
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-w", f"-I{CSRC}", f"-I{HERE}")
EMULATED = ("-x", "c++", f'-DFASTSSM_EMULATOR="{HERE}/emulator/emulator.h"', "-DFASTSSM_WGMMA")
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined")
ADDRESS += ("--param=asan-instrumentation-with-call-threshold=150",)  # then checks are calls, which compile faster
INSTRUMENTED = ("-fsanitize=thread", "-fno-threadsafe-statics")  # calls of observers/hooks.h; its library is not linked
PTX = ("-fno-strict-aliasing",)  # registers and memory have no types

MACHINE = ("fiber", "machine", "warp", "mma", "wgmma", "copies", "launcher", "entry")
FLAVOURS = {"plain": (), "address": ADDRESS, "race": INSTRUMENTED, "profile": INSTRUMENTED}


def run(command: Sequence[str | Path]) -> str:
    """Run a compiler and return what it said, or raise with that where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@cache
def included(path: Path) -> frozenset[Path]:
    """Return a file and all that it includes of this repository."""
    found, waiting = {path}, [path]
    while waiting:
        file = waiting.pop()
        for name in re.findall(r'^\s*#include "([^"]+)"', file.read_text(), re.MULTILINE):
            candidates = (base / name for base in (file.parent, CSRC, HERE))
            new = {other.resolve() for other in candidates if other.exists()} - found
            found |= new
            waiting += new
    return frozenset(found)


def digest(files: Iterable[Path], words: Iterable[object]) -> str:
    """Return the hash of files' contents and of words."""
    state = hashlib.sha256(repr([str(word) for word in words]).encode())
    for file in sorted(files):
        state.update(file.read_bytes())
    return state.hexdigest()[:16]


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make a target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(name: str, files: Iterable[Path], command: Sequence[str | Path], suffix: str) -> Path:
    """Return the output of `command ... -o output`, run unless the same command has made it of the same files."""
    target = CACHE / f"{name}-{digest(files, [*command, version(str(command[0]))])}{suffix}"
    with locked(target):
        if not target.exists():
            partial = target.with_suffix(".partial")
            target.with_suffix(".log").write_text(run([*command, "-o", partial]))
            partial.rename(target)
    return target


@cache
def version(program: str) -> str:
    return run([program, "--version"])


def compiled(source: Path, flags: Sequence[str], name: str) -> Path:
    """Compile one C++ or CUDA file for the host."""
    emulated = EMULATED if source.suffix == ".cu" else ()
    return made(name, included(source) | emulator_headers(), [*COMPILER, *FLAGS, *flags, *emulated, "-c", source], ".o")


@cache
def emulator_headers() -> frozenset[Path]:
    return included(HERE / "emulator" / "emulator.h")


def library(
    name: str, sources: Iterable[Path], flavour: str, flags: Sequence[str] = (), parts: Sequence[str] = MACHINE
) -> Path:
    """Link kernels, the emulator, and what watches it, into a library.

    Args:
        name: of the library.
        sources: kernels, as `.cu` for the emulator or as C++ translated from PTX.
        flavour: "plain", "address" (AddressSanitizer and UBSan), "race" or "profile".
        flags: more of the compiler for `sources`.
        parts: of the emulator.

    Returns:
        The path of the library.
    """
    own = FLAVOURS[flavour]
    machine = own if flavour == "address" else ()  # the emulator itself is no part of a kernel
    jobs = [(source, (*own, *flags)) for source in sources]
    jobs += [(HERE / "emulator" / f"{part}.cpp", machine) for part in parts]
    jobs += [(HERE / "observers" / f"{flavour}.cpp", ())] if flavour in ("race", "profile") else []
    observed = "observed" if own == INSTRUMENTED else flavour  # which flavours of an observer have in common
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: compiled(*job, f"{job[0].stem}-{observed}"), jobs))
    link = [*COMPILER, "-shared", *machine, *objects, "-ldl"]
    return made(f"{name}-{flavour}", objects, link, ".so")


def translated(name: str, text: str, flavour: str, count: int = 1) -> Path:
    """Return a library of kernels that are PTX, translated and executed.

    Args:
        name: of the library.
        text: the PTX.
        flavour: as of `library`.
        count: of the files to compile it in.

    Returns:
        The path of the library.
    """
    folder = CACHE / f"{name}-{digest(sorted((HERE / 'ptx').glob('*.py')), [text, count])}"
    with locked(folder):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            for index, body in enumerate(files(text, count)):
                (partial / f"{name}-{index}.cpp").write_text(body)
            partial.rename(folder)
    return library(name, sorted(folder.iterdir()), flavour, PTX)


def sanitized() -> dict[str, str]:
    """Return an environment in which libraries of the flavour "address" load, and find what is imported here."""
    names = ("libasan.so", "libstdc++.so")
    preload = " ".join(run([*COMPILER, f"-print-file-name={name}"]).strip() for name in names)
    options = {
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "FASTSSM_CUDA_FLAVOUR": "address",
    }
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, **options, "LD_PRELOAD": preload, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
