"""Ratios of times within a process, or between processes through a contender that ran in both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.contenders import JAX_RIVALS, PEAK, PEAK_BF16, RIVALS
from bench.measure import Row

Times = Mapping[str, Mapping[str, float]]  # process -> contender -> milliseconds, or any unit within a process
TIMED = ("forward", "forward+backward", "train white-wine", "demo")
KEPT, BRIDGE = "kept", "fastssm torch"


def add_ratios(rows: Sequence[Row], kept: Sequence[Row], place: Callable[[Row], tuple[str, ...]]) -> None:
    """Set ``ratio_to_...`` of fresh rows: time over that of the other contender, below 1 if faster.

    Args:
        rows: fresh rows, with their processes.
        kept: rows of an earlier run with ``ratio_to_fastssm``, for rivals that were not measured now.
        place: returns the key that comparable rows share.
    """
    processes = by_process(rows, kept, place)
    for row in (row for row in rows if row.get("min_ms") and comparable(row)):
        times, name = processes[place(row)], row["contender"]
        row["ratio_to_autograd"] = ratio(times, name, "autograd", row["process"])
        row["ratio_to_fastssm"] = ratio(times, name, BRIDGE, row["process"])
        if name.startswith("fastssm"):
            row |= best_rival(times, name, row["process"])


def comparable(row: Row) -> bool:
    return row["mode"] in TIMED and row["contender"] not in (PEAK, PEAK_BF16)


def by_process(
    rows: Sequence[Row], kept: Sequence[Row], place: Callable[[Row], tuple[str, ...]]
) -> dict[tuple[str, ...], dict[str, dict[str, float]]]:
    found: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for row in rows:
        if row.get("min_ms"):
            found.setdefault(place(row), {}).setdefault(row["process"], {})[row["contender"]] = row["min_ms"]
    fresh = {(where, name) for where, processes in found.items() for times in processes.values() for name in times}
    for row in kept:
        where, name = place(row), row["contender"]
        if row["ratio_to_fastssm"] and ((where, name) not in fresh or name == BRIDGE):
            found.setdefault(where, {}).setdefault(KEPT, {})[name] = float(row["ratio_to_fastssm"])
    return found


def ratio(times: Times, a: str, b: str, process: str) -> float | None:
    """Return the time of ``a`` in a process over that of ``b``, in the same process or through a bridge."""
    here = times[process]
    if b in here:
        return here[a] / here[b]
    for there in (there for there in times.values() if b in there):
        bridges = [name for name in here if name in there]
        if bridges:
            bridge = a if a in bridges else bridges[0]
            return here[a] / here[bridge] * there[bridge] / there[b]
    return None


def best_rival(times: Times, name: str, process: str) -> dict[str, Any]:
    """Return the fastest rival of ``name``, and the ratio to it."""
    found = {rival: ratio(times, name, rival, process) for rival in (*RIVALS, *JAX_RIVALS)}
    ratios = {rival: value for rival, value in found.items() if value}
    if not ratios:
        return {}
    best = max(ratios, key=lambda rival: ratios[rival])
    return {"ratio_to_best_rival": ratios[best], "best_rival": best}
