"""The committed tables of broken kernels and of the static race check belong to the kernels as they are."""

from __future__ import annotations

import csv
from pathlib import Path

import cuda_mutants
import pytest

from tests.cuda.harness.machines import FLAVOUR, machine_named

RESULTS = Path(__file__).parents[2] / "bench" / "results"
pytestmark = pytest.mark.skipif(FLAVOUR != "", reason="once is enough")


def rows(name: str) -> list[dict[str, str]]:
    with (RESULTS / name).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not (RESULTS / "cuda_mutants.csv").exists(), reason="make cuda-mutants has not been run")
def test_every_mutant_of_the_kernels_was_tried_and_caught() -> None:
    found = rows("cuda_mutants.csv")
    expected = [(*mutant[:4],) for mutant in cuda_mutants.every_mutant()]
    listed = [(row["kind"], row["file"], row["place"], row["change"]) for row in found]
    assert listed == expected, "run make cuda-mutants again"
    assert {row["caught"] for row in found} <= {"yes", "equivalent"}
    assert all(row["by_or_why_not"] for row in found)


def test_every_barrier_is_a_mutant() -> None:
    sources = [path.read_text() for path in (cuda_mutants.CSRC / "cuda" / "kernels").glob("*.cuh")]
    barriers = sum(text.count("__syncthreads()") + text.count("__syncwarp(") for text in sources)
    assert barriers == sum(mutant.kind == "barrier" for mutant in cuda_mutants.every_mutant())


def test_no_kernel_was_found_to_race() -> None:
    found = rows("cuda_races.csv")
    kernels = machine_named("emulator").device.kernels()
    assert {row["kernel"] for row in found} >= {name for name in kernels if not name.endswith("_double")}
    assert sum(row["result"] == "race_free" for row in found) >= len(found) // 2
    assert [row for row in found if "race" in row["result"] and row["result"] != "race_free"] == []
