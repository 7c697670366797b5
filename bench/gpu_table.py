"""Tables of bench/results/gpu_<device>*.csv for the documentation."""

from collections.abc import Callable, Iterator, Sequence

from bench.gpu_clocks import CEILINGS
from bench.gpu_contenders import CONTENDERS
from bench.harness import RESULTS, read
from bench.measure import Row
from bench.table import header, line
from bench.targets import size_of

BASE = "autograd"
CALLS = (
    "2,64,2,128,1",
    "2,128,3,512,1",
    "100,512,3,1024,1",
    "100,512,3,1024,8 in TF32",
)  # of tools/device/profiled.py
NAMES = {"at::": "PyTorch's elementwise kernels", "gemm": "cuBLAS", "cutlass": "cuBLAS", "cublas": "cuBLAS"}


def time_table(device: str, clock: str, loss: str) -> Iterator[str]:
    """Yield one line per contender, one column per size: microseconds (speed-up over autograd)."""
    rows = [row for row in read(RESULTS / f"{device}.csv") if row["loss"] == loss]
    sizes = list(dict.fromkeys(size_of(row) for row in rows))
    found = {(row["contender"], size_of(row)): row for row in rows}
    yield from header(["d,H,L,B,M", *map(str, sizes)])
    for name in CONTENDERS:
        cells = [cell(found.get((name, size)), found.get((BASE, size)), clock) for size in sizes]
        if any(cells):
            yield line([name, *cells])


def cell(row: Row | None, base: Row | None, clock: str) -> str:
    """Return the time of a row, and its speed-up over the base."""
    if row is None:
        return ""
    if row["status"] != "ok":
        return str(row["status"]).split(":")[0]
    if not row[f"{clock}_us"]:
        return ""
    time = float(row[f"{clock}_us"])
    ratio = f" ({float(base[f'{clock}_us']) / time:.2f}×)" if base else ""
    return f"{time:,.0f}".replace(",", " ") + ratio if time >= 1000 else f"{time:.3g}{ratio}"


def check_table(device: str) -> Iterator[str]:
    """Yield one line per phase of tools/device/check.sh."""
    yield from header(["phase", "status", "seconds", "last line"])
    for row in read(RESULTS / f"{device}_checks.csv"):
        yield line([row["phase"], row["status"], row["seconds"], row["summary"]])


def ceiling_table(device: str) -> Iterator[str]:
    """Yield one line per ceiling of the device."""
    yield from header(["ceiling", "measured"])
    for row in read(RESULTS / f"{device}.csv"):
        if row["contender"] in CEILINGS:
            yield line([row["contender"], f"{float(row['rate']):.4g} {row['unit']}"])


def kernel_table(device: str) -> Iterator[str]:
    """Yield one line per kernel and profiled call: launches, microseconds, and the share of the call."""
    rows = read(RESULTS / f"{device}_kernels.csv")
    yield from header(["call", "kernel", "launches", "µs", "share"])
    for index, size in enumerate(CALLS, 1):
        mine = [row for row in rows if row["call"] == str(index)]
        total = sum(float(row["us"]) for row in mine)
        for name in dict.fromkeys(map(named, mine)):
            times = [float(row["us"]) for row in mine if named(row) == name]
            yield line([size, name, str(len(times)), f"{sum(times):.4g}", f"{100 * sum(times) / total:.0f} %"])
            size = ""


def named(row: Row) -> str:
    """Return the name of a kernel in the table."""
    return next((name for part, name in NAMES.items() if part in row["kernel"]), f"`{row['kernel']}`")


TABLES: dict[str, Callable[..., Iterator[str]]] = {
    "time": time_table,
    "checks": check_table,
    "ceilings": ceiling_table,
    "kernels": kernel_table,
}


def markdown(which: Sequence[str]) -> Iterator[str]:
    """Yield a table, given its name, the device as in file names, and further arguments."""
    return TABLES[which[0]](*which[1:])
