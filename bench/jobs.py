"""Run one job per process, and update rows; shared by programs."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from bench.measure import Row


def run(module: str, job: Any) -> list[Row]:
    """Run a job, a dataclass with `threads`, in a separate process: `python -m module --job JSON`."""
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", module, "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | threads, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def work(job: Any, timings: Callable[[Any], Iterable[Row]]) -> None:
    """Run a job in this process, and print its rows."""
    torch.set_num_threads(job.threads)
    warnings.simplefilter("ignore")
    for row in timings(job):
        print(json.dumps(row), flush=True)


def replaced(kept: Sequence[Row], fresh: Sequence[Row], key: Sequence[str]) -> list[Row]:
    """Return the kept rows, with fresh rows in place of those with the same `key`."""

    def identity(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    places = set(map(identity, fresh))
    return [*(row for row in kept if identity(row) not in places), *fresh]
