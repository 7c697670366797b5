"""The table of results/installs.csv, which `make installs` writes, as Markdown."""

import re
from collections.abc import Iterator, Sequence

from bench.harness import RESULTS
from bench.measure import Row

OUT = RESULTS / "installs.csv"
WAYS = {  # as tools/installs.sh calls them
    "sdist": "`pip install .`",
    "no-isolation": "`pip install --no-build-isolation .`",
    "wheel": "a wheel for the newer torch, no compiler",
}
LOADED = {  # by engine: what `python -m fastssm` says if it is loaded
    "CPU": r"module fastssm\._C is loaded",
    "CUDA": r"cuda (available|no: torch sees no CUDA device)",
}


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a row for each Python and way of installing, with what came of it beside each torch; then the reasons."""
    torches = sorted({row["torch"] for row in rows}, key=lambda torch: [int(n) for n in re.findall(r"\d+", torch)])
    yield f"| Python, its pip | way | {' | '.join(f'torch {torch}' for torch in torches)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in torches)} |"
    reasons: list[str] = []
    found = {(row["python"], row["pip"], row["way"], row["torch"]): cell(row, reasons) for row in rows}
    for python, pip in dict.fromkeys((row["python"], row["pip"]) for row in rows):
        for way, words in WAYS.items():
            cells = [found.get((python, pip, way, torch), "–") for torch in torches]
            yield f"| {python}, {pip} | {words} | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons, 1))


def cell(row: Row, reasons: list[str]) -> str:
    """Say which engines there are, with the number of the reason for what is lacking, and how many tests passed.

    Args:
        row: of the file.
        reasons: those that have a number so far; a new one is added.
    """
    says, counts = row["engine"], re.findall(r"\d+ (?:passed|failed|error)", row["tests"])
    engines = [name for name, sign in LOADED.items() if re.search(sign, says)] if counts else []
    what = f"{' and '.join(engines)} engine{'s' * (len(engines) > 1)}" if engines else "pure Python"
    why = re.search(r"(The compiled module fastssm\._C was (?:not )?built.*?\.)(?: CUDA engine|$)", says)
    if counts and not why:
        return f"{what}; {', '.join(counts)}"
    reason = why[1] if counts and why else says
    if reason not in reasons:
        reasons.append(reason)
    number = reasons.index(reason) + 1
    return f"{what} ({number}); {', '.join(counts)}" if counts else f"not installed ({number})"
