"""Runs CMake: for setup.py, and for what else builds a part of fastssm or asks how it is compiled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
CUDA_OUTPUTS = ("_cuda.so", "_kernels.cu", "_kernels.fatbin")


class NotBuilt(Exception):
    """Why something cannot be built, as a clause of a sentence; `what` is the subject of that sentence."""

    def __init__(self, reason: str, what: str = "the compiled module") -> None:
        super().__init__(reason)
        self.what = what


def program(name: str) -> str:
    """Return the path of cmake or ninja: beside this Python, or on the PATH."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if not found:
        raise NotBuilt(f"there is no {name}; `pip install cmake ninja pybind11` brings it")
    return found


def run(*command: str) -> None:
    """Run a program and pass on what it prints; raise NotBuilt with its first error where it fails."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr)
            lines.append(line)
    if process.returncode:
        raise NotBuilt(first_error("".join(lines)) or f"{command[0]} failed with exit status {process.returncode}")


def first_error(output: str) -> str:
    """Return the first error of CMake, as a clause in one line, or of a compiler; empty if there is none."""
    if found := re.search(r"CMake Error.*:\n+((?:.|\n)+?)(?=\n\n\n|Call Stack|\Z)", output):
        clause = re.split(r"\.\s|\.$", " ".join(found[1].split()))[0]
        return clause if clause[1:2].isupper() else clause[:1].lower() + clause[1:]
    return next((line.strip() for line in output.splitlines() if "error" in line), "")


def jobs_at_once() -> int:
    """Return how many compilers to run at once: $MAX_JOBS, or one a processor, with a gigabyte for each."""
    if os.environ.get("MAX_JOBS"):
        return int(os.environ["MAX_JOBS"])
    if sys.platform == "darwin":
        processors, gigabytes = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    else:
        available = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
        processors, gigabytes = len(os.sched_getaffinity(0)), int(available[1]) >> 20 if available else 1
    return max(1, min(processors, gigabytes))


def description() -> dict[str, list[str]]:
    """Return the flags and files that cmake/flags.cmake names, and what TORCH_CUDA_ARCH_LIST asks for."""
    command = [program("cmake"), f"-DPYTHON={sys.executable}", "-P", str(ROOT / "cmake" / "describe.cmake")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotBuilt(first_error(done.stderr))
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


class Build:
    """A folder that CMake builds in, one process at a time.

    Args:
        choice: "auto", "cpu" or "cuda", as FASTSSM_BUILD.
        folder: the build folder; by default one for each environment and compiler, which later builds go on with.
        variables: more variables for CMake.

    Raises:
        NotBuilt: where a tool, torch or a working compiler is missing, or the CUDA engine was asked for and cannot be.
    """

    def __init__(self, choice: str, folder: Path | None = None, **variables: str) -> None:
        if sys.platform not in ("linux", "darwin"):
            raise NotBuilt(f"it is built on Linux and macOS, and this is {sys.platform}")
        import fcntl  # Windows has none

        key = zlib.crc32(repr((str(ROOT), sys.prefix, os.environ.get("CXX"))).encode())
        default = ROOT / "build" / f"{sys.implementation.cache_tag}-{key:08x}"
        self.choice, self.folder = choice, folder or default
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = (self.folder / "lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # until this object or the process ends
        options = {"CMAKE_MAKE_PROGRAM": program("ninja"), "FASTSSM_PYTHON": sys.executable, "FASTSSM_BUILD": choice}
        defined = [f"-D{name}={value}" for name, value in {**options, **variables}.items()]
        try:
            run(program("cmake"), "-G", "Ninja", "-S", str(ROOT), "-B", str(self.folder), *defined)
        except NotBuilt:
            (self.folder / "CMakeCache.txt").unlink(missing_ok=True)  # it remembers a compiler that does not work
            raise
        self.facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        if choice == "cuda" and "reason" in self.facts["cuda"]:
            raise NotBuilt(self.facts["cuda"]["reason"], "the CUDA engine")

    def build(self, module: Path) -> dict[str, Any]:
        """Build the module, and the CUDA engine beside it if that can be; return what to remember of both."""
        self.make("_C")
        self.copy(module.name, module)
        try:
            if "reason" not in self.facts["cuda"]:
                self.build_cuda(module.parent)
        except NotBuilt as why:
            if self.choice == "cuda":
                raise
            self.facts["cuda"] = {"reason": str(why)}
        return self.facts

    def build_cuda(self, folder: Path) -> list[str]:
        """Build the CUDA engine into a folder, and return the names of its files."""
        self.make("cuda")
        names = list(CUDA_OUTPUTS if "nvcc" in self.facts["cuda"] else CUDA_OUTPUTS[:2])
        for name in names:
            self.copy(name, folder / name)
        return names

    def make(self, target: str) -> None:
        """Compile what changed of "_C" or "cuda", several files at a time."""
        jobs = str(jobs_at_once())
        print(f"fastssm: {target} by {self.facts['compiler']} for torch {self.facts['torch']}, {jobs} files at a time")
        run(program("cmake"), "--build", str(self.folder), "--target", target, "--parallel", jobs)

    def copy(self, name: str, target: Path) -> None:
        """Copy what was built."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a running process may still use the old one
        shutil.copyfile(self.folder / "package" / name, target)
