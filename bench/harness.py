"""Run jobs in separate processes and write their rows to a CSV file; shared by the programs in this directory."""

import argparse
import csv
import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from bench.contenders import CONTENDERS
from bench.measure import Row
from bench.problems import GRID, LOSSES, Case, Size
from bench.ratios import add_ratios
from bench.worker import STARTED, Job

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
WHO = ("commit", "date", "machine", "torch")
TIMES = ("min_ms", "median_ms", "repeats")
KEY = ("threads", "kind", "activation", *Size._fields, "loss", "mode", "contender")
BRIDGES = ("fastssm torch", "fastssm cpu")
MEMORY_BATCHES = (4096, 16384, 65536)
TIME_LIMIT_S = 900
ORDER = {tuple(size): place for place, size in enumerate(GRID)}


def parser(program: str, description: str, out: Path, names: Sequence[str], budget: float) -> argparse.ArgumentParser:
    """Return a parser with the shared options."""
    shared = argparse.ArgumentParser(prog=f"python -m bench.{program}", description=description)
    shared.add_argument("--sizes", type=Size.parse, nargs="*", default=GRID, metavar="d,H,L,B,M")
    shared.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    shared.add_argument("--contenders", nargs="+", default=tuple(names), choices=names, metavar="NAME")
    shared.add_argument("--budget", type=float, default=budget, help="seconds of interleaved rounds per loss and mode")
    shared.add_argument("--update", action="store_true", help="keep the rows of --out that are not measured")
    shared.add_argument("--quick", action="store_true", help="smoke run: two small sizes, one thread, few repeats")
    shared.add_argument("--out", type=Path, help=f"CSV file (default: {out.name}; with --quick: none)")
    return shared


def settle(chosen: argparse.Namespace, out: Path) -> argparse.Namespace:
    """Set the options that ``--quick`` and ``--out`` imply."""
    if chosen.quick:
        chosen.sizes, chosen.threads, chosen.budget = GRID[:2], (1,), 0.5
    elif chosen.out is None:
        chosen.out = out
    return chosen


def time_jobs(job: Job, references: Sequence[str]) -> Iterator[Job]:
    """Yield a job with the eager contenders, and one with the compiled contenders and the ``references``."""
    eager = tuple(name for name in job.contenders if not CONTENDERS[name].compiled)
    compiled = tuple(name for name in job.contenders if CONTENDERS[name].compiled)
    yield replace(job, contenders=eager)
    if compiled:
        bridges = tuple(name for name in references if name in eager)
        yield replace(job, contenders=(*bridges, *compiled), budget_s=job.budget_s / 2)


def memory_jobs(size: Size, names: Sequence[str], folder: str) -> Iterator[Job]:
    """Yield a job per contender, loss and large batch, so that no call reuses memory of another."""
    for batch in MEMORY_BATCHES:
        for name in names:
            for loss in LOSSES:
                yield Job(Case(size._replace(B=batch)), 1, (name,), 0, folder, "memory", losses=(loss,))


def run(job: Job) -> list[Row]:
    """Run a job in a separate process. If it dies, rerun the culprit with the bridges, and the others without it."""
    rows, death, last = run_once(job)
    done = {(row["loss"], row["mode"], row["contender"]) for row in rows}
    wanted = [(loss, mode, name) for loss in job.losses for mode in job.rows for name in job.contenders]
    missing = [place for place in wanted if place not in done]
    alone = (*(name for name in BRIDGES if name in job.contenders and name != last), last)
    if missing and last and set(alone) != set(job.contenders):
        again = replace(job, losses=tuple(dict.fromkeys(loss for loss, _, _ in missing)))
        others = tuple(name for name in job.contenders if name != last)
        return rows + run(replace(again, contenders=others)) + run(replace(again, contenders=alone))
    return rows + [{"loss": loss, "mode": mode, "contender": name, "status": death} for loss, mode, name in missing]


def run_once(job: Job) -> tuple[list[Row], str, str]:
    """Run a process; return its rows, how it died, and the contender that ran last."""
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")}  # NPROC: JAX's
    environment = os.environ | threads | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench.worker", job.to_json()]
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(command, stdout=output, env=environment, timeout=TIME_LIMIT_S).returncode
            death = f"crashed: {signal.Signals(-code).name}" if code < 0 else f"crashed: exit code {code}"
        except subprocess.TimeoutExpired:
            death = f"timed out after {TIME_LIMIT_S} s"
        output.seek(0)
        lines = output.read().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    began = [line.removeprefix(STARTED) for line in lines if line.startswith(STARTED)]
    return [row | {"process": job.to_json()} for row in rows], death, began[-1] if began else ""


def environment() -> Row:
    """Return the columns that are the same in every row of a run."""
    return {
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "dtype": "float32",
    }


@functools.cache  # once for a run, whose own figures are no change of what it measures
def commit() -> str:
    """Return the current commit, with "-dirty" if a file other than a result differs."""

    def git(*arguments: str) -> str:
        if not shutil.which("git"):
            return ""
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def measure(
    jobs: Iterable[Job],
    chosen: argparse.Namespace,
    columns: Sequence[str],
    more: Callable[[Row], Row] = lambda row: {},
) -> None:
    """Run all jobs, and update the file after each.

    Args:
        jobs: jobs to run; if two yield the same row, the first is written and the other only serves as a bridge.
        chosen: the options; rows of contenders that are not chosen are used for comparison, but not written.
        columns: columns of the file.
        more: returns further columns of a row.
    """
    shared, rows = environment(), list[Row]()
    kept = read(chosen.out) if chosen.out and chosen.update and chosen.out.exists() else []
    left_out = CONTENDERS.keys() - set(chosen.contenders)
    for job in jobs:
        print(f"{job.case} {job.task} threads {job.threads}", flush=True)
        constant = shared | job.case.columns() | {"threads": job.threads}
        fresh = [row | more(row) for row in (constant | row for row in run(job))]
        rows += fresh
        add_ratios(rows, kept, place)
        for row in fresh:
            report(row)
        measured = {identity(row, columns): row for row in reversed(rows) if row["contender"] not in left_out}
        if chosen.out:
            others = [row for row in kept if identity(row, columns) not in measured]
            write([*others, *reversed(measured.values())], chosen.out, columns)


def identity(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the key of a row."""
    return tuple(str(row[name]) for name in KEY if name in columns)


def place(row: Row) -> tuple[str, ...]:
    """Return the key that comparable rows share."""
    fields = Row(activation="softplus", kind="energy") | row  # columns that torch_path.csv omits
    return tuple(str(fields[name]) for name in KEY[:-1])


def write(rows: Iterable[Row], out: Path, columns: Sequence[str]) -> None:
    """Write rows sorted by size, in the order of the grid."""
    by_size = sorted(rows, key=lambda row: ORDER.get(tuple(int(row[f]) for f in Size._fields), len(ORDER)))
    write_rows(by_size, out, columns)


def write_rows(rows: Iterable[Row], out: Path, columns: Sequence[str]) -> None:
    """Write rows in the given order."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read(path: Path) -> list[Row]:
    """Return the rows of a file, or an empty list if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(row: Row) -> None:
    time = f"{row['min_ms']:9.3f} ms" if row.get("min_ms") else ""
    ratio = f"{row['ratio_to_autograd']:6.3f}x" if row.get("ratio_to_autograd") else ""
    peak = f"{row['peak_MiB']:8.1f} MiB" if row.get("peak_MiB") is not None else ""
    speed = f"{row['gflops']:6.1f} GF" if row.get("gflops") else ""
    where = f"{row['loss']:6} {row['mode']:16} {row['contender']:29}"
    print(f"  {where} {time:12} {ratio:7} {speed:9} {peak:12}  {row['status']}", flush=True)
