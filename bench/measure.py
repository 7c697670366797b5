"""Interleaved timing, and peak resident memory of a call."""

import ctypes
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Row = dict[str, Any]  # row of a CSV file by column
MIB = 1024.0
SAMPLE_S = 0.02


class Timing(NamedTuple):
    """Milliseconds of one call, over ``repeats`` calls."""

    min_ms: float
    median_ms: float
    repeats: int


def interleaved(calls: Mapping[str, Callable[[], object]], budget_s: float, fewest: int = 3) -> dict[str, Timing]:
    """Time all calls in rounds in random order; each call is repeated for a short time per round.

    Noise of the machine thus affects all calls alike, and each call runs with warm caches, as in a training loop.

    Args:
        calls: calls to time by name; each is called once before timing.
        budget_s: minimum total seconds of all rounds.
        fewest: minimum number of rounds.
    """
    names = list(calls)
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in names}
    started, rounds, shuffler = time.perf_counter(), 0, random.Random(0)
    while names and (rounds < fewest or time.perf_counter() - started < budget_s):
        shuffler.shuffle(names)
        for name in names:
            samples[name] += sample_of(calls[name])
        rounds += 1
    return {name: Timing(min(s), median(s), len(s)) for name, s in samples.items()}


def sample_of(call: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each call in one round, at least one."""
    milliseconds: list[float] = []
    ends = time.perf_counter() + SAMPLE_S
    while not milliseconds or time.perf_counter() < ends:
        before = time.perf_counter()
        call()
        milliseconds.append(1e3 * (time.perf_counter() - before))
    return milliseconds


def peak_mib(call: Callable[[], object]) -> float | None:
    """Return the peak resident memory during one call above that before it, in MiB.

    Linux only (None elsewhere): freed memory is returned to the system, the high-water mark of the kernel is reset
    through ``/proc/self/clear_refs``, and ``VmHWM`` after the call is compared with ``VmRSS`` before it.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _status_kib("VmRSS")
    result = call()
    peak = _status_kib("VmHWM")
    del result
    return max(0.0, (peak - before) / MIB)


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
