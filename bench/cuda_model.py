"""Write bench/results/cuda_model.csv: predicted times of a training step on GPUs, measured ones where there are some.

Run ``python -m bench.cuda_model``. It needs nvcc, but no GPU. A step is the loss and all gradients of an energy (SSM,
float32). Its bytes are those of nvcc's PTX, executed for two small batches, and extrapolated: they are linear in the
batch.
"""

import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch

from bench import cuda_table, dispatched, gpu_table
from bench.cuda_devices import DEVICES, Published
from bench.gpu import LARGEST
from bench.harness import RESULTS, environment, read, write
from bench.measure import Row
from bench.problems import GRID, Size
from bench.table import header, line
from tests.cuda import test_gemm_choice
from tests.cuda.harness.architectures import BY_NAME
from tests.cuda.harness.machines import machine_named
from tests.cuda.harness.whole_net import WholeNet

OUT = RESULTS / "cuda_model.csv"
MEASURED = "gpu_nvidia_h200"
OURS, RIVAL = "fastssm cuda", "Taylor + compile"
SIZES = (*GRID, LARGEST)
PLACES = {name: DEVICES[name] for name in ("T4", "A100", "RTX 4090", "H100")} | {
    "H200": DEVICES["H100"]._replace(bandwidth=4800e9)  # data sheet of NVIDIA
}
SPLITTING = BY_NAME["sm_80"]  # that splits products of float32; sm_90 does so in a build with wgmma
FLOAT, BATCHES = 4, (8, 32)
SIDE = 3  # kernels of PyTorch in a step: the seed, the incoming gradient, the product that scales
COLUMNS = (
    *("d", "H", "L", "B", "M", "device", "contender", "host_us", "launches", "launch_us", "bytes_us", "flop_us"),
    *("gpu_us", "bound", "host_status", "gpu_status", "commit", "date", "machine", "torch", "dtype"),
)


class Work(NamedTuple):
    """What one launch moves and computes, and m, n, k of a product."""

    kernel: str
    moved: float
    flops: float
    sizes: tuple[int, int, int] = (0, 0, 0)


@cache
def launch_us() -> float:
    """Return the time of a kernel that does next to nothing: the mean of PyTorch's in the smallest profiled call."""
    rows = [row for row in read(RESULTS / f"{MEASURED}_kernels.csv") if row["call"] == "1" and "at::" in row["kernel"]]
    return statistics.mean(float(row["us"]) for row in rows)


def measured(size: Size, contender: str) -> Row | None:
    """Return the row of the measured device."""
    rows = read(RESULTS / f"{MEASURED}.csv")
    same = (r for r in rows if r["loss"] == "SSM" and r["contender"] == contender and r["status"] == "ok")
    return next((r for r in same if gpu_table.size_of(r) == size), None)


@cache
def operators(label: str, net: str) -> int:
    """Return the number of operators that a step calls, those inside of others too, from dispatched.csv."""
    same = {"label": label, "net": net, "reduction": "mean", "weighted": "False"}
    rows = (row for row in read(dispatched.OUT) if all(row[column] == value for column, value in same.items()))
    return sum(int(row["count"]) for row in rows)


def host_us(size: Size, device: str) -> float:
    """Return the predicted host time of a step: the measured one, from before, in proportion to the operators."""
    found = measured(size, OURS)
    assert found is not None, f"{size} was not measured"
    before, now = ("energy" if whole_net(size, place) else "wide energy" for place in ("H200", device))
    return float(found["host_us"]) * operators("now", now) / operators("before", before)


def parameters(size: Size) -> int:
    """Return the number of weights and biases."""
    return (size.d + 1) * size.H + (size.L - 1) * (size.H + 1) * size.H + size.H + 1


@cache
def layered(size: Size) -> list[Work]:
    """Return the launches of the layer-by-layer path, as if the batch were one tile."""
    from bench.cuda_static import Launch, case_of, profiled

    few, more = (profiled().measure(case_of("energy", size._replace(B=b), "SSM"), small=False) for b in BATCHES)
    steps = (size.B - BATCHES[0]) / (BATCHES[1] - BATCHES[0])
    assert [a.kernel for a in few] == [b.kernel for b in more]

    def at_size(a: Launch, b: Launch) -> Work:
        m, n, k = (round(x + steps * (y - x)) for x, y in zip(a.sizes, b.sizes, strict=True))
        return Work(a.kernel, a.moved + steps * (b.moved - a.moved), a.flops + steps * (b.flops - a.flops), (m, n, k))

    return [at_size(a, b) for a, b in zip(few, more, strict=True)]


def whole_net(size: Size, device: str) -> list[Work]:
    """Return the launches of the whole-net path from cuda_static.csv; none where the network is too large for it."""
    rows = [r for r in read(cuda_table.OUT) if r["row"] == "kernel" and cuda_table.size_of(r) == size]
    whole = {"path": "whole net", "kind": "energy", "loss": "SSM", "device": device.replace("H200", "H100")}
    mine = [r for r in rows if all(r[column] == value for column, value in whole.items())]
    return [Work(r["kernel"], float(r["bytes_moved"]), float(r["flops"] or 0)) for r in mine]


def chosen(works: Sequence[Work], device: str) -> Iterator[Work]:
    """Yield launches; products that are predicted to be split have operations for as long as they take."""
    if device != SPLITTING.device:
        yield from works
        return
    net = WholeNet(machine_named("emulator"))
    net.limit(SPLITTING, SPLITTING.multiprocessors)
    for work in works:
        split, full = test_gemm_choice.cycles(net, *work.sizes) if work.kernel == "product" else (0, 0)
        yield work._replace(flops=work.flops * split / full) if split < full else work


def ours(size: Size, device: str) -> list[Work]:
    """Return the launches of a step."""
    seen = whole_net(size, device) or chosen(layered(size), device)
    return [*seen, *[Work("PyTorch", 2.0 * FLOAT * parameters(size) * (i == 0), 0.0) for i in range(SIDE)]]


def rival(size: Size) -> list[Work]:
    """Return the launches of compiled Taylor mode: the same products, and pointwise passes that store no derivatives.

    A pass up reads and writes M + 2 rows; a pass down reads two such stacks, writes one, and sums one row for the bias.
    """
    products = [work for work in layered(size) if work.kernel == "product"]
    rows, numbers = size.M + 2, FLOAT * size.B * size.H
    passes = [("up", 2 * rows), ("down", 3 * rows), ("bias", 1)] * size.L
    return [*products, *(Work(name, numbers * count, 0.0) for name, count in passes), *[Work("top", 0.0, 0.0)] * 3]


def row_of(size: Size, device: str, contender: str, works: Sequence[Work], host: float) -> Row:
    """Return a row: the times of launches, bytes and products, what bounds the step, and what was measured."""
    published: Published = PLACES[device]
    each = [(launch_us(), 1e6 * w.moved / published.bandwidth, 1e6 * w.flops / published.float32) for w in works]
    row: Row = {**size._asdict(), "device": device, "contender": contender, "launches": len(works)}
    row |= dict(zip(("launch_us", "bytes_us", "flop_us"), map(sum, zip(*each, strict=True)), strict=True))
    row |= {"host_us": host, "gpu_us": sum(map(max, each)), "host_status": "predicted", "gpu_status": "predicted"}
    found = measured(size, contender)
    if contender == RIVAL:
        row["host_status"] = "measured beside an H200"
    if device == "H200" and found is not None:
        row |= {"host_us": float(found["host_us"]), "host_status": "measured"}
        row |= {"gpu_us": float(found["event_us"]), "gpu_status": "measured"}
    parts = {name: row[f"{name}_us"] for name in ("launch", "bytes", "flop")}
    row["bound"] = "host" if row["host_us"] > row["gpu_us"] else max(parts, key=lambda name: parts[name])
    return row


def rows() -> Iterator[Row]:
    """Yield a row for each size, device and contender."""
    rivals = [found for found in (measured(size, RIVAL) for size in SIZES) if found is not None]
    usual = statistics.median(float(row["host_us"]) for row in rivals)
    for size in SIZES:
        found = measured(size, RIVAL)
        host = float(found["host_us"]) if found else usual
        for device in PLACES:
            yield row_of(size, device, OURS, ours(size, device), host_us(size, device))
            yield row_of(size, device, RIVAL, rival(size), host)


def markdown(found: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each size, device and contender: microseconds; bold ones were measured."""
    parts = ("launch_us", "bytes_us", "flop_us")
    yield from header(["d,H,L,B,M", "device", "", "host", "launches", "bytes", "FLOP", "GPU in all", "bound by"])
    for row in found:
        cells = [number(row[name]) for name in parts]
        host, gpu = (marked(number(row[f"{w}_us"]), row[f"{w}_status"]) for w in ("host", "gpu"))
        size = str(cuda_table.size_of(row))
        yield line([size, row["device"], row["contender"], host, *cells, gpu, row["bound"].replace("flop", "FLOP")])


def number(text: str) -> str:
    """Return microseconds with three digits."""
    value = float(text)
    return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def marked(text: str, status: str) -> str:
    """Return a number in bold if it was measured on that device."""
    return f"**{text}**" if status == "measured" else text


def main() -> None:
    """Write the file."""
    torch.set_num_threads(1)
    common = environment()
    write([common | row for row in rows()], OUT, COLUMNS)


if __name__ == "__main__":
    main()
