"""Builds the compiled module `fastssm._C`, and the CUDA engine beside it; otherwise fastssm is pure Python.

Environment: FASTSSM_BUILD=auto (the default), none (pure Python), cpu (the module alone; fail where it cannot be built)
or cuda (the CUDA engine too, with kernels by nvcc; likewise); CXX, CXXFLAGS, LDFLAGS, MAX_JOBS; NVCC, CUDA_HOME,
TORCH_CUDA_ARCH_LIST. With "auto", the CUDA engine is built for a torch with CUDA, and NVRTC compiles its kernels later.
What was built, or why nothing was, goes to `src/fastssm/_build.json`, which `src/fastssm/native/extension.py` reads.
"""

import json
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

import cuda_engine  # noqa: E402
from toolchain import NotBuilt, Toolchain  # noqa: E402

CHOICES = ("auto", "none", "cpu", "cuda")
CHOICE = os.environ.get("FASTSSM_BUILD") or "auto"


def give_up(reason: str, what: str = "the compiled module", asked_for: tuple[str, ...] = ("cpu", "cuda")) -> None:
    """Say in one sentence why something is not built; fail if it was asked for."""
    sentence = f"fastssm: {what} was not built: {reason}."
    if CHOICE in asked_for:
        sys.exit(sentence)
    print(sentence, file=sys.stderr)


def find_toolchain() -> tuple[Toolchain | None, str]:
    """Return what builds the module, or None and why nothing does."""
    if CHOICE not in CHOICES:
        sys.exit(f"FASTSSM_BUILD must be one of {', '.join(CHOICES)}, but is {CHOICE!r}.")
    if CHOICE == "none":
        return None, "FASTSSM_BUILD=none asked for pure Python"
    try:
        return Toolchain(), ""
    except NotBuilt as reason:
        give_up(str(reason))
        return None, str(reason)


TOOLCHAIN, REASON = find_toolchain()


def build_all(toolchain: Toolchain, module: Path) -> dict[str, object]:
    """Build the module, and the CUDA engine beside it if that can be; return what to remember of both."""
    engine, reason = None, "FASTSSM_BUILD=cpu asked for the CPU engine alone"
    try:
        if CHOICE != "cpu":  # first, since it may fail for want of nvcc
            engine = cuda_engine.CudaEngine(toolchain, asked_for=CHOICE == "cuda")
    except NotBuilt as why:
        reason = without_cuda(why)
    toolchain.build(module)
    try:
        if engine:
            engine.build(module.parent)
    except NotBuilt as why:
        engine, reason = None, without_cuda(why)
    return toolchain.facts() | {"cuda": engine.facts() if engine else {"reason": reason}}


def without_cuda(why: NotBuilt) -> str:
    """Go on without the CUDA engine, unless it was asked for; return the reason."""
    give_up(str(why), "the CUDA engine", ("cuda",))
    return str(why)


class Build(build):
    """Runs BuildExtension also where there is nothing to compile, for the record."""

    sub_commands = [(name, when if name != "build_ext" else None) for name, when in build.sub_commands]  # noqa: RUF012


class BuildExtension(build_ext):
    """Compiles the module, and always records what came of it."""

    def run(self) -> None:
        """Build into the source tree (editable, --inplace) or into the build folder."""
        module = Path(self.get_ext_fullpath("fastssm._C"))
        module.unlink(missing_ok=True)  # an older one must not be taken for this one
        cuda_engine.remove(module.parent)
        facts = {"reason": REASON}
        if TOOLCHAIN:
            try:
                facts = build_all(TOOLCHAIN, module)
            except NotBuilt as reason:
                give_up(str(reason))
                facts = {"reason": str(reason)}
        module.parent.mkdir(parents=True, exist_ok=True)
        (module.parent / "_build.json").write_text(json.dumps(facts, indent=2) + "\n")

    def get_outputs(self) -> list[str]:
        """List the record, and what was built."""
        module = Path(self.get_ext_fullpath("fastssm._C"))
        names = ["_build.json", *[module.name][: module.exists()], *cuda_engine.written(module.parent)]
        return [str(Path(self.build_lib, "fastssm", name)) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        """Say where in the source tree an editable install finds each output."""
        outputs = self.get_outputs() if self.inplace else []
        return {output: str(Path("src", Path(output).relative_to(self.build_lib))) for output in outputs}


setup(
    ext_modules=[Extension("fastssm._C", TOOLCHAIN.sources())] if TOOLCHAIN else [],
    cmdclass={"build": Build, "build_ext": BuildExtension},
)
