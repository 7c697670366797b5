"""Keep of a profiler's CSV what tells how kernels do: `python tools/device/kernels.py NCU.csv OUT.csv`."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

COLUMNS = {
    "grid": "launch__grid_size",
    "block": "launch__block_size",
    "registers": "launch__registers_per_thread",
    "us": "gpu__time_duration.sum",
    "sm_percent": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "memory_percent": "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "dram_read_bytes": "dram__bytes_read.sum",
    "dram_write_bytes": "dram__bytes_write.sum",
    "bank_conflicts": "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "instructions": "smsp__inst_executed.sum",
}
FIRST = "random_from_to"  # the kernel that draws the seed, with which each profiled call begins


def short(name: str) -> str:
    """Return a kernel's name without its template's arguments and parameters."""
    name = re.sub(r"^void ", "", name).replace("<unnamed>::", "")
    return re.sub(r"[<(].*", "", name)


def main() -> None:
    """Read, shorten and write."""
    source, out = map(Path, sys.argv[1:])
    with source.open(newline="") as file:
        units, *rows = csv.DictReader(file)
    scale = {"ns": 1e-3, "us": 1.0, "ms": 1e3}[units[COLUMNS["us"]]]
    call = 0
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, ["call", "kernel", *COLUMNS])
        table.writeheader()
        for row in rows:
            call += FIRST in row["Kernel Name"]
            kept = {name: row[column].replace(",", "") for name, column in COLUMNS.items()}
            kept["us"] = f"{scale * float(kept['us']):.4g}"
            table.writerow({"call": call, "kernel": short(row["Kernel Name"]), **kept})
    print(f"{len(rows)} kernels of {call} calls")


if __name__ == "__main__":
    main()
