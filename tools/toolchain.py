"""Compiles `fastssm._C`: setup.py calls this, which finds torch and a C++ compiler, and builds only what changed."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
LIBRARIES = ("-ltorch_python", "-ltorch_cpu", "-ltorch", "-lc10")
COMPILERS = ("c++", "g++", "clang++")

FIND_TORCH = """
import importlib.util, json, pathlib, runpy
root = pathlib.Path(importlib.util.find_spec("torch").origin).parent
version = runpy.run_path(str(root / "version.py"))
print(json.dumps([str(root), version["__version__"], version.get("cuda")]))
"""
PROGRAM = """
#include <Python.h>
#include <omp.h>
#include <concepts>
int threads() { return omp_get_max_threads(); }
"""


class NotBuilt(Exception):
    """Why the module cannot be built, as a clause of a sentence."""


def call(command: list[str], failure: str) -> str:
    """Run a program and return what it prints; where it fails, pass its errors on and raise NotBuilt with the first."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(done.stderr, file=sys.stderr, end="")
    if done.returncode:
        errors = [line.strip() for line in done.stderr.splitlines() if "error" in line]
        raise NotBuilt(f"{command[0]} {failure} ({[*errors, f'exit status {done.returncode}'][0]})")
    return done.stdout


class Torch(NamedTuple):
    """The torch to build for."""

    root: Path
    version: str
    cuda: str | None = None


def find_torch() -> Torch:
    """Return the torch beside the interpreter that builds, also from inside pip's isolated build.

    pip isolates by environment variables alone: the same interpreter without them (-E) sees what is installed.
    """
    for options in ([], ["-E"]):
        with tempfile.TemporaryDirectory() as elsewhere:
            command = [sys.executable, *options, "-c", FIND_TORCH]
            found = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere)
        if found.returncode == 0:
            root, version, cuda = json.loads(found.stdout)
            return Torch(Path(root), version, cuda)
    raise NotBuilt("the build saw no torch; install torch first, then run `pip install --no-build-isolation .`")


def find_compiler() -> list[str]:
    """Return the C++ compiler: $CXX, or the first of the usual names."""
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = named[:1] or COMPILERS
    found = [path for path in map(shutil.which, candidates) if path]
    if not found:
        raise NotBuilt(f"there is no C++ compiler; looked for {', '.join(candidates)}, and CXX can name another")
    return [found[0], *named[1:]]


def jobs_at_once() -> int:
    """Return how many compilers to run at once: $MAX_JOBS, or one a processor, with a gigabyte for each."""
    if os.environ.get("MAX_JOBS"):
        return int(os.environ["MAX_JOBS"])
    available = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    gigabytes = int(available[1]) >> 20 if available else 1
    return max(1, min(len(os.sched_getaffinity(0)), gigabytes))


class Step(NamedTuple):
    """One call of the compiler."""

    source: Path
    target: Path
    command: list[str]

    def done(self) -> bool:
        """Say whether the same command has made the target, after the last change of all that it reads."""
        recipe, depends = self.target.with_suffix(".cmd"), self.target.with_suffix(".d")
        if not all(path.exists() for path in (self.target, recipe, depends)):
            return False
        files = shlex.split(depends.read_text().partition(":")[2].replace("\\\n", " "))
        made = self.target.stat().st_mtime
        unchanged = all(os.path.exists(file) and os.path.getmtime(file) < made for file in files)
        return unchanged and recipe.read_text() == shlex.join(self.command)

    def run(self) -> None:
        """Compile, unless there is nothing to do."""
        if not self.done():
            self.target.parent.mkdir(parents=True, exist_ok=True)
            call(self.command, f"cannot compile {os.path.relpath(self.source, ROOT)}")
            self.target.with_suffix(".cmd").write_text(shlex.join(self.command))


class Toolchain:
    """The compiler and the torch that build the module.

    Raises:
        NotBuilt: where one of them is missing, or the compiler cannot build the smallest module.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise NotBuilt(f"it is built on Linux alone, and this is {sys.platform}")
        self.torch, self.compiler = find_torch(), find_compiler()
        self.objects = ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{self.torch.version}"
        self.python = [f"-I{sysconfig.get_path(kind)}" for kind in ("include", "platinclude")]
        self.rows: dict[str, list[list[str]]] = {}
        for line in (CSRC / "sources.txt").read_text().splitlines():
            key, *words = line.split("#")[0].split() or [""]
            self.rows.setdefault(key, []).append(words)
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch, "program.cpp")
            program.write_text(PROGRAM)
            flags = [*self.rows["torchflags"][0], *self.python, "-fPIC", "-shared"]
            call([*self.compiler, *flags, str(program), "-o", f"{scratch}/program.so"], "cannot compile a small module")
        self.name = call([*self.compiler, "--version"], "has no version").partition("\n")[0]

    @property
    def levels(self) -> list[list[str]]:
        """The instruction sets, each as its name and its flags."""
        return self.rows["level"] if platform.machine() == "x86_64" else self.rows["level"][:1]

    @property
    def headers(self) -> list[str]:
        """The option that finds torch's headers."""
        return [f"-isystem{self.torch.root}/include"]

    def facts(self) -> dict[str, object]:
        """Return what to remember of a module built by this."""
        python = ".".join(platform.python_version_tuple()[:2])
        levels = [name for name, *_ in self.levels]
        return {"torch": self.torch.version, "python": python, "compiler": self.name, "levels": levels}

    def build(self, target: Path) -> None:
        """Compile what changed, several files at a time, and link."""
        self.link(self.compiled(list(self.steps())), target, LIBRARIES)

    def compiled(self, steps: list[Step]) -> list[str]:
        """Run steps, several at a time, and return what they made."""
        jobs = jobs_at_once()
        print(f"fastssm: {len(steps)} objects by {self.name} for torch {self.torch.version}, {jobs} at a time")
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(Step.run, steps))
        return [str(step.target) for step in steps]

    def steps(self) -> Iterator[Step]:
        """Yield one step for each object, the slowest first."""
        headers = [*self.headers, f"-isystem{self.torch.root}/include/torch/csrc/api/include"]
        torch, plain = self.rows["torchflags"][0], self.rows["plainflags"][0]
        levelled = self.files("levelled")
        for source in self.files("torch"):
            yield self.step(source, [*torch, *headers, *self.python])
        for source in levelled:
            for level, *flags in self.levels:
                yield self.step(source, [*plain, *flags, f"-DFASTSSM_LEVEL={level}"], f".{level}")
        for source in self.files("plain"):
            if source not in levelled:
                yield self.step(source, plain)

    def sources(self) -> list[str]:
        """Return all that is compiled, relative to the repository."""
        return sorted({str(step.source.relative_to(ROOT)) for step in self.steps()})

    def files(self, key: str) -> list[Path]:
        """Return the sources that the patterns of a row stand for."""
        return sorted(path for row in self.rows[key] for pattern in row for path in CSRC.glob(pattern))

    def step(self, source: Path, flags: list[str], level: str = "") -> Step:
        """Return the step that compiles one source; the user's CXXFLAGS have the last word."""
        target = self.objects / source.relative_to(CSRC).with_suffix(f"{level}.o")
        flags = [*self.rows["flags"][0], *flags, f"-I{CSRC}", *shlex.split(os.environ.get("CXXFLAGS", ""))]
        return Step(source, target, [*self.compiler, *flags, "-MMD", "-c", str(source), "-o", str(target)])

    def link(self, objects: list[str], target: Path, libraries: Sequence[str]) -> None:
        """Link a module to torch, which is loaded before it (so no path to it), and to no OpenMP beside torch's own.

        What GCC calls of OpenMP is left undefined, and found in the library that torch brings, under whatever name.
        Clang calls a library of its own.
        """
        openmp = ["-fopenmp"] if "clang" in self.name else []
        options = [f"-L{self.torch.root}/lib", *libraries, *openmp, *shlex.split(os.environ.get("LDFLAGS", ""))]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a running process may still use the old one
        call([*self.compiler, "-shared", *objects, *options, "-o", str(target)], "cannot link the module")
