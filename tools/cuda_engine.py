"""Builds the CUDA engine: its library by the C++ compiler alone, its kernels by nvcc, or as source for NVRTC."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from amalgamate import amalgamate
from nvcc import architectures, find_nvcc, targets
from toolchain import CSRC, NotBuilt, Step, Toolchain, jobs_at_once

OLDEST_TORCH = (2, 10)  # whose stable interface the library uses; as fastssm.cuda has it
# Beside a torch without CUDA the linker needs nothing of libtorch.so, and would drop it; but beside one with CUDA it is
# what leads to libtorch_cuda.so and the products there.
LIBRARIES = ("-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed", "-ltorch_cpu", "-lc10", "-ldl")


class CudaEngine:
    """What is built beside the compiled module: `_cuda.so`, and `_kernels.fatbin` or `_kernels.cu`.

    Args:
        toolchain: the compiler and the torch.
        asked_for: compile for a torch without CUDA too, and the kernels for every architecture.

    Raises:
        NotBuilt: where it cannot be built, or is of no use.
    """

    def __init__(self, toolchain: Toolchain, asked_for: bool) -> None:
        self.toolchain, self.asked_for = toolchain, asked_for
        found = toolchain.torch.version
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST_TORCH:
            raise NotBuilt(f"torch {found} cannot have it; it takes torch {'.'.join(map(str, OLDEST_TORCH))} or later")
        if not asked_for and toolchain.torch.cuda is None:
            raise NotBuilt(f"torch {found} is built without CUDA; FASTSSM_BUILD=cuda builds it all the same")
        self.nvcc = find_nvcc() if asked_for else None
        self.architectures = architectures(toolchain.rows["architectures"][0]) if asked_for else []

    def build(self, folder: Path) -> None:
        """Compile what changed, into a folder."""
        objects = self.toolchain.compiled(list(self.steps()))
        self.toolchain.link(objects, folder / "_cuda.so", LIBRARIES)
        source = self.toolchain.files("kernels")[0]
        (folder / "_kernels.cu").write_text(amalgamate(source, CSRC.parent))
        if self.nvcc:
            step = self.kernels(source)
            print(f"fastssm: kernels by nvcc {self.nvcc.version} for {', '.join(self.architectures)}", file=sys.stderr)
            step.run()
            (folder / "_kernels.fatbin").write_bytes(step.target.read_bytes())

    def facts(self) -> dict[str, object]:
        """Return what to remember of it."""
        oldest = ".".join(map(str, OLDEST_TORCH))
        built: dict[str, object] = {"torch": oldest, "compiler": self.toolchain.name}
        return built | ({"nvcc": self.nvcc.version, "architectures": self.architectures} if self.nvcc else {})

    def steps(self) -> list[Step]:
        """Return one step for each object of the library."""
        rows, files, step = self.toolchain.rows, self.toolchain.files, self.toolchain.step
        flags = [*rows["cudatorchflags"][0], *self.toolchain.headers]
        steps = [step(source, flags) for source in files("cudatorch")]
        return steps + [step(source, rows["plainflags"][0]) for source in files("cuda")]

    def kernels(self, source: Path) -> Step:
        """Return the step that compiles the kernels, several architectures at a time."""
        assert self.nvcc
        target = self.toolchain.objects / "kernels.fatbin"
        flags = [*self.toolchain.rows["kernelflags"][0], *targets(self.architectures), f"--threads={jobs_at_once()}"]
        depends = ["-MD", "-MF", str(target.with_suffix(".d"))]
        return Step(source, target, [self.nvcc.path, "-fatbin", *flags, *depends, str(source), "-o", str(target)])


OUTPUTS = ("_cuda.so", "_kernels.cu", "_kernels.fatbin")


def remove(folder: Path) -> None:
    """Remove what an earlier build left, so that it is not taken for this one's."""
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)


def written(folder: Path) -> list[str]:
    """Return the names of what was built."""
    return [name for name in OUTPUTS if (folder / name).exists()]
