"""Writes the benchmark tables of the README and the documentation from bench/results/torch_path.csv.

Run `python tools/fill_tables.py`. A table stands between two comments; the first says which, and with names after the
last bar, which contenders:

    <!-- table: forward+backward | SSM-VR | 1 -->              mode, loss, threads
    <!-- table: forward+backward | SSM | 2 | autograd, fastssm torch -->
    <!-- table: memory -->
    <!-- end -->
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.table import memory_table, timing_table  # noqa: E402
from bench.torch_path import OUT, Row, read  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
TABLE = re.compile(r"(?P<start><!-- table: (?P<which>[^>]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return a page with every marked table made anew from the rows of the CSV file."""
    return TABLE.sub(lambda m: f"{m['start']}\n{render(m['which'], rows)}\n\n{m['end']}", text)


def render(which: str, rows: Sequence[Row]) -> str:
    """Return the Markdown of one table."""
    mode, *choice = [part.strip() for part in which.split("|")]
    mine = [row for row in rows if row["mode"] == mode]
    if mode == "memory":
        return "\n".join(memory_table(mine))
    loss, threads, *names = choice
    mine = [row for row in mine if row["loss"] == loss and row["threads"] == threads]
    if names:
        wanted = [name.strip() for name in names[0].split(",")]
        mine = [row for row in mine if row["contender"] in wanted]
    return "\n".join(timing_table(mine))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(), read(OUT)))
