"""The committed table of the static race proof has no finding."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from machines import FLAVOUR

RESULT = Path(__file__).parents[2] / "bench" / "results" / "cuda_races.csv"


@pytest.mark.skipif(FLAVOUR != "", reason="once is enough")
def test_no_kernel_was_found_to_race() -> None:
    with RESULT.open() as file:
        found = list(csv.DictReader(file))
    assert len(found) >= 30
    assert sum(row["result"] == "race_free" for row in found) >= len(found) // 2
    assert {row["result"] for row in found} <= {"race_free", "unsupported", "timeout"}
