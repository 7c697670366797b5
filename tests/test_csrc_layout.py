"""The folders of csrc include one another one way."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the sources")

# Which folders the files of a folder may include, besides their own.
ALLOWED = {
    "maths": set(),
    "engine": {"maths"},
    "cpu": {"maths", "engine"},
    "cuda": {"maths", "engine"},
    "torch": {"maths", "engine", "cpu"},
    "cuda_torch": {"maths", "engine", "cuda"},
    "tests": {"maths", "engine", "cpu", "cuda"},
}
KERNELS = ("cpu/kernels", "cuda/kernels")  # compiled for each instruction set, and for devices
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"', re.MULTILINE)
FILES = sorted(path.relative_to(CSRC) for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def included(path: Path) -> set[Path]:
    """Return the files of csrc that one of its files includes, relative to csrc."""
    found = {((CSRC / path).parent / name).resolve() for name in INCLUDE.findall((CSRC / path).read_text())}
    missing = sorted(str(file) for file in found if not file.exists())
    assert not missing, f"{path} includes {missing}; write includes relative to the file"
    return {file.relative_to(CSRC) for file in found}


def test_includes_run_one_way():
    folders = {path.parts[0] for path in FILES}
    assert folders == set(ALLOWED), "give each folder of csrc its row in this file"
    arrows = [(path.parts[0], other.parts[0], str(path)) for path in FILES for other in included(path)]
    assert [arrow for arrow in arrows if arrow[1] not in ALLOWED[arrow[0]] | {arrow[0]}] == []


@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels_include_no_host_code(kernels):
    files = [path for path in FILES if path.parent == Path(kernels)]
    others = {other for path in files for other in included(path)} - set(files)
    assert {other for other in others if other.parts[0] != "maths"} <= {Path("engine/tile.h")}


def test_the_reader_of_includes_sees_every_form():
    text = '#include "a.h"\n  #  include "../b.h"  // why\n#include <vector>\n// #include "c.h"\n'
    assert INCLUDE.findall(text) == ["a.h", "../b.h"]
