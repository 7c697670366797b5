"""Builds the compiled module `fastssm._C`, and the CUDA engine beside it; otherwise fastssm is pure Python.

Environment: FASTSSM_BUILD=auto (the default), none (pure Python), cpu (the module alone; fail where it cannot be built)
or cuda (the CUDA engine too, with kernels by nvcc; likewise); CXX, CXXFLAGS, LDFLAGS, MAX_JOBS; NVCC, CUDA_HOME,
TORCH_CUDA_ARCH_LIST, FASTSSM_WGMMA. CMakeLists.txt says what is compiled. What was built, or why nothing was, goes to
`src/fastssm/_build.json`, which `src/fastssm/native/extension.py` reads.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

import backend  # noqa: F401  # first: it says which setuptools is needed
from native_build import CUDA_OUTPUTS, Build, NotBuilt
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CHOICES = ("auto", "none", "cpu", "cuda")
CHOICE = os.environ.get("FASTSSM_BUILD") or "auto"
RECORD = "_build.json"
DATA = Path("data")  # of the source tree, which an editable install reads
SETS = Path("fastssm", "data", "sets")  # where a wheel has it


def not_built(reason: NotBuilt) -> str:
    """Say in one sentence what is not built and why; fail if it was asked for."""
    sentence = f"fastssm: {reason.what} was not built: {reason}."
    if CHOICE == "cuda" or (CHOICE == "cpu" and reason.what != "the CUDA engine"):
        sys.exit(sentence)
    print(sentence, file=sys.stderr)
    return str(reason)


BUILD, REASON = None, "FASTSSM_BUILD=none asked for pure Python"
if CHOICE not in CHOICES:
    sys.exit(f"FASTSSM_BUILD must be one of {', '.join(CHOICES)}, but is {CHOICE!r}.")
if CHOICE != "none":
    try:
        BUILD = Build(CHOICE)
    except NotBuilt as why:
        REASON = not_built(why)


class BuildAlways(build):
    """Runs BuildExtension also where there is nothing to compile, for the record."""

    sub_commands = [(name, when if name != "build_ext" else None) for name, when in build.sub_commands]  # noqa: RUF012


class BuildPython(build_py):
    """Puts the data sets, with their licence and sources, beside the modules."""

    def run(self) -> None:
        """Copy the modules, then the data sets."""
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(DATA), str(Path(self.build_lib, SETS)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List the modules and the data sets."""
        sets = [] if self.editable_mode else [str(Path(self.build_lib, SETS, path.name)) for path in DATA.iterdir()]
        return [*super().get_outputs(include_bytecode), *sets]


class BuildExtension(build_ext):
    """Compiles the module, into the source tree (editable, --inplace) or the build folder, and always records it."""

    def run(self) -> None:
        """Build what can be built."""
        module, facts = Path(self.get_ext_fullpath("fastssm._C")), {"reason": REASON}
        for name in (module.name, *CUDA_OUTPUTS):  # an older one must not be taken for this one
            (module.parent / name).unlink(missing_ok=True)
        try:
            facts = BUILD.build(module) if BUILD else facts
        except NotBuilt as why:
            facts = {"reason": not_built(why)}
        module.parent.mkdir(parents=True, exist_ok=True)
        (module.parent / RECORD).write_text(json.dumps(facts, indent=2) + "\n")

    def get_outputs(self) -> list[str]:
        """List the record, and what was built."""
        module = Path(self.get_ext_fullpath("fastssm._C"))
        names = [name for name in (RECORD, module.name, *CUDA_OUTPUTS) if (module.parent / name).exists()]
        return [str(Path(self.build_lib, "fastssm", name)) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        """Say where in the source tree an editable install finds each output."""
        outputs = self.get_outputs() if self.inplace else []
        return {output: str(Path("src", Path(output).relative_to(self.build_lib))) for output in outputs}


cmdclass = {"build": BuildAlways, "build_ext": BuildExtension, "build_py": BuildPython}
setup(ext_modules=[Extension("fastssm._C", [])] if BUILD else [], cmdclass=cmdclass)
