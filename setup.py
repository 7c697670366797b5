"""Builds the compiled module `fastssm._C` where a C++ compiler and torch are there; otherwise fastssm is pure Python.

Environment: FASTSSM_BUILD=auto (the default), cpu (fail where it cannot be built) or none (pure Python); CXX, CXXFLAGS,
LDFLAGS, MAX_JOBS.
What was built, or why nothing was, goes to `fastssm/_build.json`, which `fastssm/extension.py` reads.
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

from toolchain import NotBuilt, Toolchain  # noqa: E402

CHOICES = ("auto", "cpu", "none")
CHOICE = os.environ.get("FASTSSM_BUILD") or "auto"


def give_up(reason: str) -> None:
    """Say in one sentence why the module is not built; fail if it was asked for."""
    sentence = f"fastssm: the compiled module was not built: {reason}."
    if CHOICE == "cpu":
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


class Build(build):
    """Runs BuildExtension also where there is nothing to compile, for the record."""

    sub_commands = [(name, when if name != "build_ext" else None) for name, when in build.sub_commands]  # noqa: RUF012


class BuildExtension(build_ext):
    """Compiles the module, and always records what came of it."""

    def run(self) -> None:
        """Build into the source tree (editable, --inplace) or into the build folder."""
        module = Path(self.get_ext_fullpath("fastssm._C"))
        module.unlink(missing_ok=True)  # an older one must not be taken for this one
        facts = {"reason": REASON}
        if TOOLCHAIN:
            try:
                TOOLCHAIN.build(module)
                facts = TOOLCHAIN.facts()
            except NotBuilt as reason:
                give_up(str(reason))
                facts = {"reason": str(reason)}
        module.parent.mkdir(parents=True, exist_ok=True)
        (module.parent / "_build.json").write_text(json.dumps(facts, indent=2) + "\n")

    def get_outputs(self) -> list[str]:
        """List the record, and the module if there is one."""
        module = self.get_ext_filename("fastssm._C")
        built = Path(self.get_ext_fullpath("fastssm._C")).exists()
        return [str(Path(self.build_lib, name)) for name in ["fastssm/_build.json", *[module][:built]]]

    def get_output_mapping(self) -> dict[str, str]:
        """Say where in the source tree an editable install finds each output."""
        outputs = self.get_outputs() if self.inplace else []
        return {output: str(Path(output).relative_to(self.build_lib)) for output in outputs}


setup(
    ext_modules=[Extension("fastssm._C", TOOLCHAIN.sources())] if TOOLCHAIN else [],
    cmdclass={"build": Build, "build_ext": BuildExtension},
)
