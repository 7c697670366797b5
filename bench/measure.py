"""Clocks and memory: interleaved rounds, and the peak of resident memory during one call."""

import ctypes
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

MIB = 1024.0


class Timing(NamedTuple):
    """Milliseconds of one call, over ``repeats`` calls."""

    min_ms: float
    median_ms: float
    repeats: int


def interleaved(calls: Mapping[str, Callable[[], object]], budget_s: float, fewest: int = 3) -> dict[str, Timing]:
    """Time all calls round after round, each round in a new random order.

    So a noisy moment meets all, and none always runs in the caches that the same other one has left.

    Args:
        calls: what to time, by name; each is called once beforehand.
        budget_s: rounds go on until this much time is spent.
        fewest: rounds made whatever they cost.
    """
    names = list(calls)
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in names}
    started, rounds, shuffler = time.perf_counter(), 0, random.Random(0)
    while names and (rounds < fewest or time.perf_counter() - started < budget_s):
        shuffler.shuffle(names)
        for name in names:
            before = time.perf_counter()
            calls[name]()
            samples[name].append(1e3 * (time.perf_counter() - before))
        rounds += 1
    return {name: Timing(min(s), median(s), len(s)) for name, s in samples.items()}


def peak_mib(call: Callable[[], object]) -> float | None:
    """Peak of resident memory during one call above what is resident before it, in MiB.

    Linux only (None elsewhere): freed memory is handed back to the system, the kernel's high-water mark is reset
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
