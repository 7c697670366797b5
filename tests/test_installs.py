"""The table of installations: what its cells say, and that it has every Python, torch and way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import installs_table
from bench.harness import RESULTS, read

ROOT = Path(__file__).parents[1]
MODULE = "The compiled module fastssm._C"
LOADED = f"{MODULE} is loaded: baseline, avx2, by GNU 12.2.0, for torch 2.14.1."
CUDA = "CUDA engine: kernels by NVRTC at the first call on a device; library by GNU 12.2.0, for torch 2.10 and later"
NO_DEVICE = "cuda no: torch sees no CUDA device"
BROKEN = "cuda no: the cuda engine cannot be loaded (OSError: undefined symbol)"
OTHER = f"{MODULE} was built for torch 2.14.1, but 2.10.0 is running; run `pip install` in its source."
NONE = f"{MODULE} was not built: there is no ninja; `pip install ninja` brings it."
OLD = "fastssm: to build it takes setuptools 77 or later, and there is 65.5.0 here; run `pip install`."
CELLS = [
    (f"{NO_DEVICE} {LOADED} {CUDA}", "12 passed 3 skipped", "CPU and CUDA engines; 12 passed", None),
    (f"{BROKEN} {LOADED} {CUDA}", "2 failed 12 passed", "CPU engine; 2 failed, 12 passed", None),
    (f"{NO_DEVICE} {OTHER} {CUDA}", "9 passed", "CUDA engine (2); 9 passed", OTHER),
    (NONE, "9 passed", "pure Python (2); 9 passed", NONE),
    (OLD, "not run", "not installed (2)", OLD),
]


@pytest.mark.parametrize(("engine", "tests", "cell", "reason"), CELLS)
def test_a_cell_says_what_was_installed(engine: str, tests: str, cell: str, reason: str | None) -> None:
    for before in (["another"], ["another", reason]) if reason else (["another"],):
        reasons = list(before)
        assert installs_table.cell({"engine": engine, "tests": tests}, reasons) == cell
        assert reasons == ["another", *([reason] if reason else [])]


def test_the_table_has_every_python_torch_and_way_and_no_failure() -> None:
    rows = read(installs_table.OUT)
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    torches = re.findall(r"\{(?:OLDEST|NEWEST):-([\d.]+)\}", (ROOT / "tools/venvs.sh").read_text())
    found = {(row["python"].rpartition(".")[0], row["torch"].partition("+")[0], row["way"]) for row in rows}
    assert found == {(p, t, way) for p in pythons for t in torches for way in installs_table.WAYS}
    for row in rows:
        if row["tests"] == "not run":
            assert (row["way"], row["engine"][:30]) == ("no-isolation", "fastssm: to build it takes set"), row
        else:
            assert re.match(r"\d+ passed", row["tests"]), row
        if row["way"] == "sdist":
            assert "_C is loaded" in row["engine"], row


def test_both_engines_are_tested_beside_the_oldest_and_the_newest_torch() -> None:
    rows = read(RESULTS / "torches.csv")
    torches = re.findall(r"\{(?:OLDEST|NEWEST):-([\d.]+)\}", (ROOT / "tools/venvs.sh").read_text())
    names = {"engines", "CUDA library", "operators on the emulator"}
    assert {(row["torch"].partition("+")[0], row["tests"]) for row in rows} == {(t, n) for t in torches for n in names}
    assert [row for row in rows if not re.match(r"\d+ passed", row["result"])] == []
