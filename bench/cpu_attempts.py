"""Write bench/results/cpu_attempts.csv and cpu_parts.csv: ``python -m bench.cpu_attempts`` from the root.

What limits the CPU engine: the parts of a call, and the time of a call with each way of `bench.cpu_ways`, which fastssm
does not use. The engine runs without PyTorch, on one thread, and all ways are interleaved in one process.
"""

import argparse
import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import levels
from bench.cpu_ways import Edit, ways
from bench.harness import RESULTS, ROOT, WHO, environment, read, write_rows
from bench.measure import Row, interleaved
from bench.problems import GRID, LOSSES, SMALLEST, Case, Size
from bench.table import header, line
from bench.yardsticks import ROUNDS, arithmetic, library
from fastssm.activations import TABLE

sys.path.insert(0, str(ROOT / "tools"))
from native_build import CSRC, description

OUT, PARTS_OUT = RESULTS / "cpu_attempts.csv", RESULTS / "cpu_parts.csv"
SOURCE = Path(__file__).with_name("engine.cpp")
SIZES = (*SMALLEST, *GRID)
PARTS = ("products", "weight gradients", "products of at most 4 columns", "passes up", "passes down", "packing")
REST = "rest"
BEST = ("avx512", "avx2")
COLUMNS = (*WHO, "level", "threads", *Size._fields, "loss")
ATTEMPT_COLUMNS = (*COLUMNS, "way", "min_ms_without", "min_ms_with", "time_with")
PART_COLUMNS = (*COLUMNS, "part", "min_ms", "share", "gflops", "fraction_of_peak")


class Engine:
    """The engine built from sources with edits, for one level, and a call of it."""

    def __init__(self, level: str, folder: Path, edits: Sequence[Edit] = ()) -> None:
        sources = folder / "csrc"
        shutil.copytree(CSRC, sources)
        for edit in edits:
            text = (sources / edit.file).read_text()
            if text.count(edit.old) != 1:
                raise SystemExit(f"{edit.file} must have this once: {edit.old!r}; update bench/cpu_ways.py.")
            (sources / edit.file).write_text(text.replace(edit.old, edit.new))
        self.loaded = ctypes.CDLL(str(compiled(level, folder)))
        self.loaded.make.restype = ctypes.c_void_p

    def case(self, size: Size, loss: str) -> ctypes.c_void_p:
        """Return a network with its data."""
        numbers = [ctypes.c_int64(number) for number in size]
        return ctypes.c_void_p(self.loaded.make(*numbers, ctypes.c_bool(loss == LOSSES[1])))

    def results(self, case: ctypes.c_void_p, size: Size) -> list[float]:
        """Run once; return the loss, and a sum of the gradients of each layer."""
        out = (ctypes.c_double * (size.L + 2))()
        self.loaded.run(case)
        self.loaded.results(case, out)
        return list(out)

    def parts(self, case: ctypes.c_void_p) -> list[float]:
        """Run once; return the seconds of the call, and of each part the seconds and the operations."""
        out = (ctypes.c_double * (1 + 2 * len(PARTS)))()
        self.loaded.parts(case, out)
        return list(out)


def compiled(level: str, folder: Path) -> Path:
    """Compile the engine of a folder into a library, and return its path."""
    built, sources, target = description(), folder / "csrc", folder / "engine.so"
    softplus = [row.name for row in TABLE].index("softplus")
    jobs: list[tuple[Path, Sequence[str]]] = [(SOURCE, (f"-DSOFTPLUS={softplus}",))]
    jobs += [(sources / Path(path).relative_to(CSRC), ()) for path in built["engine"]]
    kernels = sources / Path(built["kernels"][0]).relative_to(CSRC)
    jobs += [
        (kernels, (*built[f"level_{name}"], f"-DFASTSSM_LEVEL={name}", *quick(name, level))) for name in built["levels"]
    ]
    compiler = shlex.split(os.environ.get("CXX", "c++"))

    def compile_one(job: tuple[int, tuple[Path, Sequence[str]]]) -> str:
        number, (source, flags) = job
        out = f"{folder}/{number}.o"
        command = [*compiler, *built["flags"], "-w", f"-I{sources}", *flags, "-c", str(source), "-o", out]
        subprocess.run(command, check=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, enumerate(jobs)))
    subprocess.run([*compiler, "-shared", "-pthread", "-Wl,-Bsymbolic", *objects, "-o", str(target)], check=True)
    return target


def quick(name: str, level: str) -> tuple[str, ...]:
    """Return the flags that compile fast what does not run."""
    return () if name == level else ("-O0",)


def compared(engines: Mapping[str, Engine], size: Size, loss: str) -> dict[str, Any]:
    """Return a call of each engine, after they have been compared with the first."""
    calls, expected = dict[str, Any](), list[float]()
    for name, engine in engines.items():
        case = engine.case(size, loss)
        found = engine.results(case, size)
        expected = expected or found
        worst = max(abs(a - b) / (1 + abs(b)) for a, b in zip(found, expected, strict=True))
        if not worst < 1e-3:
            raise SystemExit(f"{name} at {size}, {loss}: {found} is not {expected}.")
        calls[name] = lambda engine=engine, case=case: engine.loaded.run(case)
    return calls


def attempts(engines: Mapping[str, Engine], size: Size, loss: str, budget: float) -> Iterator[Row]:
    """Yield a row for each way, with the time without it and with it."""
    times = interleaved(compared(engines, size, loss), budget)
    before, *others = (timing.min_ms for timing in times.values())
    for way, after in zip([*engines][1:], others, strict=True):
        yield {"way": way, "min_ms_without": before, "min_ms_with": after, "time_with": after / before}


def parts(engine: Engine, size: Size, loss: str, peak: float, budget: float) -> Iterator[Row]:
    """Yield a row for the whole call and for each part of it, from the fastest of many calls."""
    case, best, ends = engine.case(size, loss), [float("inf")], time.perf_counter() + budget
    while time.perf_counter() < ends or best[0] == float("inf"):
        best = min(best, engine.parts(case))
    whole, seconds, operations = best[0], best[1::2], best[2::2]
    rows = [("whole call", whole, arithmetic(Case(size), loss)), *zip(PARTS, seconds, operations, strict=True)]
    for name, taken, count in [*rows, (REST, whole - sum(seconds), 0.0)]:
        row: Row = {"part": name, "min_ms": 1e3 * taken, "share": taken / whole}
        if count and taken:
            row |= {"gflops": count / taken / 1e9, "fraction_of_peak": count / taken / peak}
        yield row


def peak_rate() -> float:
    """Return how many operations a second this processor does on one thread, at most."""
    rates = []
    for _ in range(20):
        began = time.perf_counter()
        operations = library().peak_float32(1, ROUNDS)
        rates.append(operations / (time.perf_counter() - began))
    return max(rates)


def markdown(which: str, level: str = "", loss: str = "") -> Iterator[str]:
    """Yield the lines of the table of parts, of ways or of operations."""
    if which == "operations":
        return operations_table()
    if which == "parts":
        return parts_table(read(PARTS_OUT), level, loss)
    return attempts_table(read(OUT), level, loss)


def parts_table(rows: Sequence[Row], level: str, loss: str) -> Iterator[str]:
    """Yield one line for each part of a call, one column per size: share of the time (GFLOP/s over the peak)."""
    mine = [row for row in rows if row["level"] == level and row["loss"] == loss]
    sizes = list(dict.fromkeys(size_of(row) for row in mine))
    yield from header(["part", *sizes])
    for part in dict.fromkeys(row["part"] for row in mine):
        cells = {size_of(row): row for row in mine if row["part"] == part}
        yield line([part, *(part_cell(cells[size]) for size in sizes)])


def part_cell(row: Row) -> str:
    rate = f" ({float(row['fraction_of_peak']):.2f})" if row["fraction_of_peak"] else ""
    return f"{100 * float(row['share']):.0f} %{rate}" if float(row["min_ms"]) else ""


def attempts_table(rows: Sequence[Row], level: str, loss: str) -> Iterator[str]:
    """Yield one line for each way, one column per size: time with the way over time without it."""
    mine = [row for row in rows if row["level"] == level and row["loss"] == loss]
    sizes = list(dict.fromkeys(size_of(row) for row in mine))
    yield from header(["way", *sizes])
    for way in dict.fromkeys(row["way"] for row in mine):
        cells = {size_of(row): f"{float(row['time_with']):.3f}" for row in mine if row["way"] == way}
        yield line([way, *(cells[size] for size in sizes)])


def operations_table() -> Iterator[str]:
    """Yield how many times the operations of SSM one call of SSM-VR takes, one column per size."""
    yield from header(["operations of", *map(str, SIZES)])
    ratios = (arithmetic(Case(size), LOSSES[1]) / arithmetic(Case(size), LOSSES[0]) for size in SIZES)
    yield line([f"{LOSSES[1]} / {LOSSES[0]}", *(f"{ratio:.3f}" for ratio in ratios)])


def size_of(row: Row) -> str:
    return ",".join(str(row[name]) for name in Size._fields)


def main() -> None:
    """Build every way, measure, and write both files; rows of other levels and sizes stay."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_attempts", description=__doc__.split("\n")[0])
    parser.add_argument("--level", choices=BEST, default=BEST[0], help="instruction set (default: avx512)")
    parser.add_argument("--sizes", type=Size.parse, nargs="*", default=SIZES, metavar="d,H,L,B,M")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each size and loss")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of both files")
    chosen = parser.parse_args()
    os.environ[levels.VARIABLE] = chosen.level
    shared = environment() | {"level": chosen.level, "threads": 1}
    found: dict[str, list[Row]] = {OUT.name: [], PARTS_OUT.name: []}
    with tempfile.TemporaryDirectory() as scratch:
        edits = {"as it is": (), **ways(chosen.level)}
        engines = {name: Engine(chosen.level, Path(scratch) / str(i), edits[name]) for i, name in enumerate(edits)}
        peak = peak_rate()
        for size in chosen.sizes:
            for loss in LOSSES:
                where = shared | size._asdict() | {"loss": loss}
                found[OUT.name] += [where | row for row in attempts(engines, size, loss, chosen.budget)]
                rows = parts(engines["as it is"], size, loss, peak, chosen.budget / 2)
                found[PARTS_OUT.name] += [where | row for row in rows]
                print(f"{size} {loss}", flush=True)
    for name, columns in ((OUT.name, ATTEMPT_COLUMNS), (PARTS_OUT.name, PART_COLUMNS)):
        rows = [*kept(chosen.out / name, chosen.level, chosen.sizes), *found[name]]
        write_rows(sorted(rows, key=order), chosen.out / name, columns)


def kept(path: Path, level: str, sizes: Sequence[Size]) -> list[Row]:
    """Return the rows of a file that are of another level or size."""
    return [row for row in read(path) if row["level"] != level or size_of(row) not in map(str, sizes)]


def order(row: Row) -> tuple[int, int]:
    """Return where a row belongs: rows of one level and size keep their order."""
    return BEST.index(row["level"]), [*map(str, SIZES), size_of(row)].index(size_of(row))


if __name__ == "__main__":
    main()
