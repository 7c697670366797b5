"""Write bench/results/examples.csv, the output of the examples: ``python -m bench.examples`` from the repository root.

Each example runs in a separate process. Each row is a line of its output. Figures are discarded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from bench.harness import RESULTS, ROOT, WHO, environment, read, write_rows
from bench.measure import Row

OUT = RESULTS / "examples.csv"
COLUMNS = (*WHO, "dtype", "threads", "example", "line", "text")
OWN_FILE = {"tempered_mixture"}  # writes tempered.csv
THREADS = 1
ABOUT_FILES = ("figure:", "figures:")


def printed(name: str) -> Iterator[str]:
    """Yield the lines that an example prints, except for paths of figures."""
    variables = {"OMP_NUM_THREADS": str(THREADS), "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
        )
    yield from (line.rstrip() for line in done.stdout.strip().splitlines() if not line.startswith(ABOUT_FILES))


def rows_of(name: str) -> list[Row]:
    """Run an example, and return one row per line."""
    shared = environment() | {"threads": THREADS, "example": name}
    return [shared | {"line": number, "text": text} for number, text in enumerate(printed(name), 1)]


def markdown(rows: Sequence[Row], name: str) -> Iterator[str]:
    """Yield the output of an example as a text block."""
    yield "```text"
    yield from (row["text"] for row in rows if row["example"] == name)
    yield "```"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the examples, and update the file after each."""
    names = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in OWN_FILE)
    options = argparse.ArgumentParser(prog="python -m bench.examples", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)} (default: all)")
    chosen = options.parse_args(argv).names or names
    for name in chosen:
        fresh = rows_of(name)
        print(f"== {name}", *(row["text"] for row in fresh), sep="\n", flush=True)
        kept = [row for row in read(OUT) if row["example"] != name]
        write_rows(sorted([*kept, *fresh], key=lambda row: row["example"]), OUT, COLUMNS)


if __name__ == "__main__":
    main()
