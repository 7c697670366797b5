"""The table of results/installs.csv, which `make installs` writes, as Markdown."""

import re
from collections.abc import Iterator, Sequence

from bench.harness import RESULTS
from bench.measure import Row

OUT = RESULTS / "installs.csv"
WAYS = {  # as tools/installs.sh calls them
    "sdist": "`pip install .`",
    "no-isolation": "`pip install --no-build-isolation .`",
    "wheel": "a wheel for the newest torch, no compiler",
}
LOADED = {  # by engine: what `python -m fastssm` says if it is loaded
    "CPU": r"module fastssm\._C is loaded",
    "CUDA": r"cuda (available|no: torch sees no CUDA device)",
}


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a row for each Python and way of installing: what came of it beside each torch."""
    torches = sorted({row["torch"] for row in rows}, key=lambda torch: [int(n) for n in re.findall(r"\d+", torch)])
    yield f"| Python, its pip | way | {' | '.join(f'torch {torch}' for torch in torches)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in torches)} |"
    found = {(row["python"], row["pip"], row["way"], row["torch"]): cell(row) for row in rows}
    for python, pip in dict.fromkeys((row["python"], row["pip"]) for row in rows):
        for way, words in WAYS.items():
            cells = [found.get((python, pip, way, torch), "–") for torch in torches]
            yield f"| {python}, {pip} | {words} | {' | '.join(cells)} |"


def cell(row: Row) -> str:
    """Say which engines there are or what is lacking, and how many tests passed and failed."""
    says, counts = row["engine"], re.findall(r"\d+ (?:passed|failed|error)", row["tests"])
    if not counts:
        return f"not installed. {says}"
    engines = [name for name, sign in LOADED.items() if re.search(sign, says)]
    what = f"{' and '.join(engines)} engine{'s' * (len(engines) > 1)}" if engines else "pure Python"
    if why := re.search(r"module fastssm\._C (was (?:not )?built.*?)(?:; run|\.( |$))", says):
        what += f" (the CPU engine {why[1]})"
    return f"{what}; {', '.join(counts)}"
