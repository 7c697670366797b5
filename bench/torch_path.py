"""Write bench/results/torch_path.csv: ``python -m bench.torch_path`` from the root of the repository."""

import argparse
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from bench.contenders import CONTENDERS, EMPTY, REFERENCES
from bench.problems import GRID, LOSSES, Size
from bench.worker import MODES, Job, Row

OUT = Path(__file__).parent / "results" / "torch_path.csv"
COLUMNS = (
    *("commit", "date", "machine", "torch", "threads", "dtype", *Size._fields, "loss", "mode", "contender"),
    *("min_ms", "median_ms", "repeats", "ratio_to_autograd", "ratio_to_fastssm", "peak_MiB", "max_rel_error", "status"),
)
KEY = ("threads", *Size._fields, "loss", "mode", "contender")
MEMORY_SIZE, MEMORY_BATCHES, MEMORY_CONTENDERS = GRID[3], (4096, 16384, 65536), ("autograd", "Taylor", "fastssm torch")
TIME_LIMIT_S = 900
ORDER = {tuple(size): place for place, size in enumerate(GRID)}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.torch_path", description=__doc__)
    parser.add_argument("--sizes", type=Size.parse, nargs="*", default=GRID, metavar="d,H,L,B,M")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--contenders", nargs="+", default=tuple(CONTENDERS), choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of interleaved rounds per loss and mode")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of large batches")
    parser.add_argument("--update", action="store_true", help="keep the rows of --out that are not measured again")
    parser.add_argument("--quick", action="store_true", help="smoke run: two small sizes, one thread, few repeats")
    parser.add_argument("--out", type=Path, help=f"CSV file (default: {OUT.name}; with --quick: none)")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.sizes, chosen.threads, chosen.budget, chosen.no_memory = GRID[:2], (1,), 0.5, True
    elif chosen.out is None:
        chosen.out = OUT
    return chosen


def jobs(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Yield, for a problem, a process of eager contenders and one of compiled ones; then memory and overhead."""
    eager = tuple(n for n, c in CONTENDERS.items() if n in (*chosen.contenders, *REFERENCES) and not c.compiled)
    compiled = tuple(n for n, c in CONTENDERS.items() if n in chosen.contenders and c.compiled)
    for size in chosen.sizes:
        for threads in chosen.threads:
            yield Job(size, threads, eager, chosen.budget, folder)
            if compiled:
                yield Job(size, threads, (REFERENCES[1], *compiled), chosen.budget / 2, folder)
    for batch in () if chosen.no_memory else MEMORY_BATCHES:
        for name in (n for n in MEMORY_CONTENDERS if n in chosen.contenders):
            yield Job(MEMORY_SIZE._replace(B=batch), 1, (name,), 0, folder, "memory")
    if REFERENCES[1] in chosen.contenders:
        yield Job(GRID[0], 1, REFERENCES[1:], chosen.budget / 2, folder, "overhead")


def run(job: Job) -> list[Row]:
    """Run a job in a process of its own; contenders that it took down are tried once more, each alone."""
    rows, death = run_once(job)
    done = {(row["loss"], row["mode"], row["contender"]) for row in rows}
    modes = MODES if job.task == "time" else (job.task,)
    for name in job.contenders:
        missing = [(loss, mode) for loss in LOSSES for mode in modes if (loss, mode, name) not in done]
        if missing and len(job.contenders) > 2:
            alone = Job(job.size, job.threads, tuple({REFERENCES[1]: 0, name: 0}), job.budget_s, job.folder)
            rows += [row for row in run(alone) if row["contender"] == name and (row["loss"], row["mode"]) in missing]
        else:
            rows += [{"loss": loss, "mode": mode, "contender": name, "status": death} for loss, mode in missing]
    return rows


def run_once(job: Job) -> tuple[list[Row], str]:
    """Return the rows a process managed to print, and what became of it."""
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "bench.worker", job.to_json()]
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(command, stdout=output, env=os.environ | threads, timeout=TIME_LIMIT_S).returncode
            death = f"crashed: {signal.Signals(-code).name}" if code < 0 else f"crashed: exit code {code}"
        except subprocess.TimeoutExpired:
            death = f"timed out after {TIME_LIMIT_S} s"
        output.seek(0)
        return [json.loads(line) for line in output if line.startswith("{") and line.endswith("}\n")], death


def environment() -> Row:
    """Return what is the same in every row of a run."""
    return {
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "dtype": "float32",
    }


def commit() -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=OUT.parents[1])
    return git.stdout.strip() or "unknown"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def chain(rows: Iterable[Row]) -> None:
    """Fill in ``ratio_to_autograd`` where autograd ran in another process, as a product of two same-process ratios."""
    bridge = {place(row): row.get("ratio_to_autograd") for row in rows if row["contender"] == REFERENCES[1]}
    for row in rows:
        link = bridge.get(place(row))
        if link and row.get("ratio_to_fastssm") and row.get("ratio_to_autograd") is None:
            row["ratio_to_autograd"] = row["ratio_to_fastssm"] * link


def place(row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in KEY[:-1])


def write(rows: Iterable[Row], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        ordered = sorted(rows, key=lambda row: ORDER.get(tuple(int(row[f]) for f in Size._fields), len(ORDER)))
        table.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in ordered)


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(row: Row) -> None:
    time = f"{row['min_ms']:9.3f} ms" if row.get("min_ms") else ""
    ratio = f"{row['ratio_to_fastssm']:6.2f}x" if row.get("ratio_to_fastssm") else ""
    peak = f"{row['peak_MiB']:8.1f} MiB" if row.get("peak_MiB") is not None else ""
    place = f"{row['loss']:6} {row['mode']:16} {row['contender']:29}"
    print(f"  {place} {time:12} {ratio:7} {peak:12}  {row['status']}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every job, and rewrite the file after each."""
    chosen, shared = arguments(argv), environment()
    rows: list[Row] = []
    kept = read(chosen.out) if chosen.update and chosen.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs(chosen, folder):
            print(f"{job.size} threads {job.threads}", flush=True)
            constant = shared | job.size._asdict() | {"threads": job.threads}
            fresh = [constant | row for row in run(job)]
            compiled = any(CONTENDERS[name].compiled for name in job.contenders)
            rows += [row for row in fresh if not (compiled and row["contender"] in REFERENCES)]
            for row in fresh:
                report(row)
            chain(rows)
            if chosen.out:
                wanted = [row for row in rows if row["contender"] in (*chosen.contenders, EMPTY)]
                measured = {tuple(str(row[column]) for column in KEY) for row in wanted}
                write([row for row in kept if tuple(row[c] for c in KEY) not in measured] + wanted, chosen.out)
    if chosen.out:
        print(chosen.out)


if __name__ == "__main__":
    main()
