"""The rows of ``bench.gpu``: columns, and a file that is flushed to disk after each row."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import torch

from bench.gpu_clocks import CLOCKS
from bench.harness import RESULTS, environment, read
from bench.measure import Row
from bench.problems import Case, Size
from bench.yardsticks import arithmetic

KEY = (*Size._fields, "loss", "contender")
GEMM = "GEMM float32"
COLUMNS = (
    *("commit", "date", "machine", "device", "capability", "torch", "cuda", "driver", "dtype", "kernels"),
    *(*KEY, "precision", "status"),
    *(f"{clock}_{which}" for clock in CLOCKS for which in ("us", "min_us")),
    *("repeats", "bridge", "bridge_event_us", "bridge_wall_us", "gflop", "tflops", "share_of_gemm", "rate", "unit"),
    *("peak_mib", "max_rel_error", "gradient_error", "prepare_s", "graph_status"),
)


class Log:
    """A CSV file that is written row by row.

    Args:
        out: path of the file.
        resume: existing rows to keep: "ok", "all" or "" (none).
    """

    def __init__(self, out: Path, resume: str) -> None:
        self.out, kept = out, read(out) if resume else []
        self.rows = {identity(row): row for row in kept if resume == "all" or row["status"] == "ok"}
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(self.rows.values())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
        note(out).unlink(missing_ok=True)

    def has(self, key: Row) -> bool:
        """Return whether there is a row with any status."""
        return identity(key) in self.rows

    def status(self, key: Row) -> str:
        """Return the status of a row, or an empty string if there is none."""
        return str(self.rows.get(identity(key), {}).get("status", ""))

    def gemm(self) -> float | None:
        """Return the measured peak of float32 products, in TFLOP/s."""
        rate = self.rows.get(identity({"contender": GEMM}), {}).get("rate")
        return float(rate) if rate else None

    def begin(self, row: Row) -> None:
        """Record the running contender."""
        note(self.out).write_text(json.dumps(row, default=str))

    def write(self, row: Row) -> None:
        """Append a row."""
        self.rows[identity(row)] = row
        append(self.out, row)
        note(self.out).unlink(missing_ok=True)


def note(out: Path) -> Path:
    """Return the path of the file that records the running contender."""
    return out.with_suffix(".begun")


def identity(row: Row) -> tuple[str, ...]:
    """Return the key of a row."""
    return tuple(str(row.get(name, "")) for name in KEY)


def append(out: Path, row: Row) -> None:
    """Append a row to a file, and flush it to disk."""
    with out.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())


def derived(row: Row, gemm: float | None) -> Row:
    """Add the operations of the loss, and their rate if the row has an event time."""
    if "H" not in row:
        return row
    flop = arithmetic(Case(Size(*(row[field] for field in Size._fields))), row["loss"])
    row = row | {"gflop": flop / 1e9}
    if row["status"] == "ok" and row.get("event_us"):
        row["tflops"] = flop / row["event_us"] / 1e6
        row["share_of_gemm"] = row["tflops"] / gemm if gemm else None
    return row


def shown(row: Row) -> str:
    """Return a row as a line of text."""
    size = ",".join(str(row[field]) for field in Size._fields) if "H" in row else ""
    times = " ".join(f"{clock} {row[f'{clock}_us']:.5g}" for clock in CLOCKS if row.get(f"{clock}_us"))
    rate = f"{row['rate']:.4g} {row['unit']}" if row.get("rate") else ""
    return f"{size:21} {row.get('loss', ''):6} {row['contender']:32} {times or rate} {row['status']}"


def facts(device: torch.device) -> Row:
    """Return the columns that are the same in every row of a run."""
    from fastssm.native import cuda_library

    found = environment() | {"kernels": cuda_library.status(), "device": str(device), "cuda": torch.version.cuda or ""}
    found["commit"] = os.environ.get("BENCH_COMMIT") or found["commit"]
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "capability": cuda_library.capability(device)}
        found["driver"] = driver()
    return found


def driver() -> str:
    """Return the driver version from nvidia-smi, or an empty string."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output.strip().split("\n")[0]


def file_of(device: torch.device, folder: Path = RESULTS) -> Path:
    """Return the path of the file, named after the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return folder / f"gpu_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}.csv"
