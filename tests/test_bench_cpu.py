"""What measures the limits of the CPU engine: its edits of csrc/, and its tables."""

import sys

from bench import cpu_attempts
from bench.cpu_ways import ways
from bench.harness import ROOT
from bench.problems import Size

sys.path.insert(0, str(ROOT / "tools"))
from native_build import CSRC

SIZE = Size(2, 24, 3, 9, 2)


def test_every_way_edits_what_the_sources_say() -> None:
    for level in cpu_attempts.BEST:
        for name, edits in ways(level).items():
            for edit in edits:
                assert (CSRC / edit.file).read_text().count(edit.old) == 1, (name, edit.file)
                assert edit.new != edit.old


def test_the_tables_of_limits() -> None:
    where = {name: str(value) for name, value in SIZE._asdict().items()} | {"level": "avx2", "loss": "SSM"}
    ways_rows = [where | {"way": "tiles of 96 rows", "time_with": "1.25"}]
    assert list(cpu_attempts.attempts_table([*ways_rows, ways_rows[0] | {"level": "avx512"}], "avx2", "SSM")) == [
        "| way | 2,24,3,9,2 |",
        "| --- | ---: |",
        "| tiles of 96 rows | 1.250 |",
    ]
    parts = [
        where | {"part": "products", "min_ms": "0.5", "share": "0.625", "fraction_of_peak": "0.9512"},
        where | {"part": "passes up", "min_ms": "0.1", "share": "0.125", "fraction_of_peak": ""},
        where | {"part": "packing", "min_ms": "0", "share": "0", "fraction_of_peak": ""},
    ]
    assert list(cpu_attempts.parts_table(parts, "avx2", "SSM"))[2:] == [
        "| products | 62 % (0.95) |",
        "| passes up | 12 % |",
        "| packing |  |",
    ]
