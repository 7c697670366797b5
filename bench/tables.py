"""Write bench/results/tables.csv: ``python -m bench.tables`` from the root of the repository.

Reads files of 300,000 rows and 12 columns, each in a process of its own, by `fastssm.data.read_table`, with and without
pyarrow, and by pandas. Packages are imported before time and memory are measured.
"""

import argparse
import gzip
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.harness import RESULTS, WHO, environment, write_rows
from bench.measure import Row

OUT = RESULTS / "tables.csv"
ROWS, NAMES = 300_000, "abcdefghijkl"
REPEATS = 3
COLUMNS = (*WHO, "file", "file_MiB", "table_MiB", "reader", "min_s", "median_s", "repeats", "peak_MiB", "status")
OWN = "from fastssm.data import read_table\ndef read(path):\n    return read_table(path, missing='drop')"
WITHOUT = "fastssm without pyarrow"
READERS = {
    "fastssm": "import pyarrow.csv\n" + OWN,
    WITHOUT: "import sys\nsys.modules['pyarrow'] = None\n" + OWN,
    "pandas": "import pandas\ndef read(path):\n    return pandas.{function}(path{options})",
}
PROGRAM = """
import sys, time
{reader}
def memory(what):  # in KiB
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
read(sys.argv[1])
before, began = memory("VmRSS"), time.perf_counter()
values = read(sys.argv[2])
seconds = time.perf_counter() - began
print(seconds, (memory("VmHWM") - before) / 1024)
"""


def files(folder: Path, rows: int) -> Iterator[tuple[str, Path, str, str]]:
    """Write each file, and yield what it is, its path, and how pandas reads it."""
    values = np.random.default_rng(0).normal(size=(rows, len(NAMES)))
    lines = [",".join(NAMES), *(",".join(map(repr, row)) for row in values.tolist())]
    text = "\n".join(lines) + "\n"
    contents = {
        "numbers.csv": ("plain numbers", text, ""),
        "hole.csv": ("one missing value in the middle", _with_hole(lines), ""),
        "euro.csv": (
            "semicolons and decimal commas",
            text.replace(",", ";").replace(".", ","),
            ", sep=';', decimal=','",
        ),
    }
    for name, (about, content, options) in contents.items():
        (folder / name).write_text(content)
        yield about, folder / name, "read_csv", options
    (folder / "numbers.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    yield "gzip", folder / "numbers.csv.gz", "read_csv", ""
    import pandas

    pandas.DataFrame(values, columns=list(NAMES)).to_parquet(folder / "numbers.parquet")
    yield "Parquet", folder / "numbers.parquet", "read_parquet", ""


def _with_hole(lines: list[str]) -> str:
    middle = len(lines) // 2
    changed = [*lines[:middle], "," + lines[middle].partition(",")[2], *lines[middle + 1 :]]
    return "\n".join(changed) + "\n"


def measure(reader: str, small: Path, path: Path) -> tuple[list[float], float, str]:
    """Return the seconds of each repetition, the largest peak in MiB, and "ok" or what went wrong."""
    seconds, peaks = [], []
    for _ in range(REPEATS):
        command = [sys.executable, "-c", PROGRAM.format(reader=reader), str(small), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return [float("nan")], float("nan"), done.stderr.strip().splitlines()[-1]
        found = done.stdout.split()
        seconds.append(float(found[0]))
        peaks.append(float(found[1]))
    return seconds, max(peaks), "ok"


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table with the median seconds and the peak memory of each reader."""
    yield f"| file | {' | '.join(READERS)} |"
    yield "|---" * (len(READERS) + 1) + "|"
    for about in dict.fromkeys(row["file"] for row in rows):
        found = {row["reader"]: row for row in rows if row["file"] == about and row["status"] == "ok"}
        cells = (
            f"{float(found[name]['median_s']):.2g} s, {float(found[name]['peak_MiB']):.0f} MiB" if name in found else ""
            for name in READERS
        )
        yield f"| {about} | {' | '.join(cells)} |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--out", type=Path, default=OUT)
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        small.mkdir()
        large.mkdir()
        warm = {about: path for about, path, _, _ in files(small, 2000)}
        for about, path, function, told in files(large, args.rows):
            for reader, code in READERS.items():
                if reader == WITHOUT and about == "Parquet":
                    continue
                code = code.replace("{function}", function).replace("{options}", told)
                seconds, peak, status = measure(code, warm[about], path)
                row = {
                    **environment(), "file": about, "file_MiB": path.stat().st_size / 2**20, "reader": reader,
                    "table_MiB": args.rows * len(NAMES) * 8 / 2**20, "min_s": min(seconds), "peak_MiB": peak,
                    "median_s": statistics.median(seconds), "repeats": len(seconds), "status": status,
                }  # fmt: skip
                rows.append(row)
                print({key: row[key] for key in COLUMNS[len(WHO) :]}, flush=True)
    write_rows(rows, args.out, COLUMNS)


if __name__ == "__main__":
    main()
