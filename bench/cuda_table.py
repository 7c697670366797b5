"""Tables of bench/results/cuda_static.csv for the documentation: predictions, not measurements."""

from collections.abc import Iterator, Sequence

from bench.cuda_devices import DEVICES
from bench.harness import RESULTS
from bench.measure import Row
from bench.table import header, line
from bench.targets import size_of

OUT = RESULTS / "cuda_static.csv"
WHOLE_NETS = ("small_objective", "small_score")


def call_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per call: kernel launches, operators of autograd, and device rooflines in microseconds."""
    mine = [row for row in rows if row["row"] == "call"]
    yield from header(["d,H,L,B,M", "kind", "loss", "path", "launches", "autograd", *DEVICES])
    for key in dict.fromkeys(map(_key, mine)):
        its = {row["device"]: row for row in mine if _key(row) == key}
        first = next(iter(its.values()))
        cells = (f"{float(its[name]['roofline_us']):.3g} µs" if name in its else "" for name in DEVICES)
        yield line([str(size_of(first)), *key[1:], first["launches"], first["autograd_operators"], *cells])


def _key(row: Row) -> tuple[str, ...]:
    precision = "" if row["precision"] == "full" else f", {row['precision']}"
    return (str(size_of(row)), row["kind"], row["loss"], row["path"] + precision)


def whole_net_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per device and call of the whole-net kernel: its resources, and its bytes over the minimum."""
    held = ("blocks", "registers", "shared KB", "warps")
    yield from header(["d,H,L,B,M", "kind", "loss", "device", *held, "moved / minimum"])
    for row in (row for row in rows if row["row"] == "kernel" and row["kernel"].startswith(WHOLE_NETS)):
        shared, over = int(row["shared_bytes"]) / 1024, float(row["moved_over_minimum"])
        takes = row["blocks"], row["registers"], f"{shared:.0f}", row["warps_per_multiprocessor"]
        yield line([str(size_of(row)), row["kind"], row["loss"], row["device"], *takes, f"{over:.3f}"])


TABLES = {"calls": call_table, "whole net": whole_net_table}
