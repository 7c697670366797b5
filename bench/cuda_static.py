"""Write bench/results/cuda_static.csv: static predictions for the CUDA kernels, not measurements.

Run ``python -m bench.cuda_static``. It needs nvcc, but no GPU. Registers and spills come from ptxas. Bytes come from
nvcc's PTX for compute_80, executed on the CPU, in memory sectors of 32 bytes: moved are all that a launch requests, and
fetched are those that remain if a first-level cache holds what the same block has read. Times are rooflines of
published peaks.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cuda_devices import DEVICES, Published
from bench.cuda_least import BFLOAT16, FLOAT, least, pass_of
from bench.cuda_table import OUT
from bench.harness import environment, write
from bench.launches import of_autograd
from bench.measure import Row
from bench.problems import LOSSES, Size
from tests.cuda.harness import libraries, toolkit
from tests.cuda.harness.architectures import ARCHITECTURES, BY_NAME, Architecture, occupancy
from tests.cuda.harness.device import Device
from tests.cuda.harness.machine_code import Resources, resources
from tests.cuda.harness.machines import KERNELS, Machine
from tests.cuda.harness.ptx.translate import Translation
from tests.cuda.harness.whole_net import KERNELS as WHOLE_NETS
from tests.cuda.harness.whole_net import Case, WholeNet, problem

STATUS = "predicted, never measured"
SMALL = (Size(2, 64, 2, 128, 1), Size(2, 128, 3, 512, 1))
WIDE = Size(100, 512, 3, 64, 1)
TENSOR_CAPABILITY = 80
SECTOR = 32  # bytes
PRODUCTS = {b"product": {FLOAT: "product"}, b"gemm_ex": {FLOAT: "cublas_tf32", BFLOAT16: "cublas_bf16"}}
WHOLE, LAYERS, CUBLAS = "whole net", "layer by layer", "layer by layer, cuBLAS"
COLUMNS = (
    *("row", "kind", "loss", *Size._fields, "path", "precision", "kernel", "architecture", "device", "launches"),
    *("autograd_operators", "blocks", "threads", "shared_bytes", "registers", "spilled_bytes", "stack_bytes"),
    *("blocks_per_multiprocessor", "warps_per_multiprocessor", "bytes_moved", "bytes_asked", "bytes_minimum"),
    *("moved_over_minimum", "bytes_fetched", "fetched_over_minimum"),
    *("flops", "roofline_us", "status", "commit", "date", "torch", "nvcc", "dtype"),
)


class Launch(NamedTuple):
    """One kernel launch, with the bytes that it moved, that it fetched once, and that its threads requested."""

    kernel: str
    blocks: int
    threads: int
    shared: int
    moved: int
    fetched: int
    asked: int
    flops: float
    minimum: int | None
    sizes: tuple[int, int, int] = (0, 0, 0)  # m, n, k of a product


class Profiled(WholeNet):
    """The host code on emulated PTX, which records the memory traffic of each launch."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.seen: list[Launch] = []

    def _start(self, kernel: bytes, x: int, y: int, z: int, threads: int, shared: int, given: Any, size: int) -> int:
        failed = super()._start(kernel, x, y, z, threads, shared, given, size)
        if kernel in PRODUCTS:  # then `shared` is the bytes of an operand's number, and `threads` whether C is read
            operands = shared * (x * z + z * y) + FLOAT * x * y * (1 + threads)
            name = PRODUCTS[kernel][shared]
            flops = 2.0 * x * y * z
            self.seen.append(Launch(name, 0, 0, 0, operands, operands, operands, flops, operands, (x, y, z)))
            return failed
        traffic = self.device.traffic()
        both = traffic["global reads"], traffic["global writes"]
        moved, fetched = SECTOR * sum(t.units for t in both), SECTOR * sum(t.fetched for t in both)
        asked = sum(t.bytes for t in both)
        self.seen.append(Launch(kernel.decode(), x * y * z, threads, shared, moved, fetched, asked, 0.0, None))
        return failed

    def measure(self, case: Case, small: bool) -> list[Launch]:
        """Run a case once and return its launches."""
        self.seen = []
        p = problem(case)
        self.device.traffic()
        assert self.run(case, p, small).done, f"{case} does not fit"
        return self.seen


@cache
def profiled() -> Profiled:
    """Return the host code with the kernels for float32 and softplus; compiling all would take minutes."""
    translation = Translation(toolkit.ptx(KERNELS, 80))
    names = re.compile(r"(product|narrow)_\w+|(?!up_)\w+_float|up_softplus_float")
    wanted = [kernel for kernel in translation.kernels if names.fullmatch(kernel)]
    source = libraries.CACHE / "cuda_static.cpp"
    text = "\n".join([translation.shared, *(translation.kernels[k] for k in wanted)])
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    device = Device(libraries.library("cuda_static", [source], "profile", libraries.PTX))
    machine = Machine.__new__(Machine)
    machine.name, machine.device, machine.launches = "profile", device, 0
    return Profiled(machine)


def case_of(kind: str, size: Size, loss: str, precision: str = "full", library: bool = False) -> Case:
    return Case(
        kind=kind,
        widths=(size.H,) * size.L,
        samples=size.B,
        dim=size.d,
        count=size.M,
        variance_reduced=loss == "SSM-VR",
        dtype=torch.float32,
        of_inputs=False,
        precision=precision,
        library=library,
    )


def shapes(size: Size) -> list[tuple[int, int]]:
    """Return the numbers of inputs and outputs of each hidden layer."""
    widths = (size.d, *(size.H,) * size.L)
    return list(pairwise(widths))


def whole_net_flops(kind: str, size: Size, loss: str) -> float:
    """Return the operations of the products in the whole-net kernel: the two sweeps of docs/mathematics.md."""
    if kind == "score":
        each = ((3 if layer else 2) * width * out for layer, (width, out) in enumerate(shapes(size)))
        hidden = (size.M + 1) * sum(each)
        readout = (2 * size.M + (3 if loss == "SSM-VR" else 0)) * size.H * size.d
        return 2.0 * size.B * (hidden + readout)
    up, down = size.M + 2, size.M + 2
    total = 0
    for layer, (width, out) in enumerate(shapes(size)):
        first = layer == 0
        if loss == "SSM":
            kinds = (up - first) + (size.M + 2 - first) + (0 if first else down)
        else:  # the downward chain and its upward curvature also pass the first layer
            kinds = (size.M + 1) + 1 + 1 + (size.M + 2) + (0 if first else size.M + 1)
        total += kinds * width * out
    return 2.0 * size.B * total


def whole_net_minimum(kind: str, size: Size, blocks: int) -> int:
    """Return the minimum of bytes moved: x, weights and terms once, parameters and gradients once per block."""
    outputs = 1 if kind == "energy" else size.d
    parameters = sum(width * out + out for width, out in [*shapes(size), (size.H, outputs)])
    constant, loss = int(kind == "energy"), 1  # the last bias of an energy has no gradient
    return FLOAT * (size.B * (size.d + 3) + blocks * (2 * parameters - constant + loss))


def completed(launches: Sequence[Launch], kind: str, size: Size, loss: str) -> Iterator[Launch]:
    """Yield launches with what can be known of them: the operations of whole nets, and minima of their bytes."""
    passes = Counter[str]()
    narrow = any(seen.kernel == "narrow_weights" for seen in launches)
    for seen in launches:
        name = pass_of(seen.kernel)
        if name:
            layer = passes[name] if name in ("up", "curve") else size.L - 1 - passes[name]
            passes[name] += 1
            yield seen._replace(minimum=least(name, kind, size, loss, layer, narrow))
        elif seen.kernel == f"{WHOLE_NETS[kind]}_float":
            flops, minimum = whole_net_flops(kind, size, loss), whole_net_minimum(kind, size, seen.blocks)
            yield seen._replace(flops=flops, minimum=minimum)
        else:
            yield seen


def calls(names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of each call on each device: one per kernel, and one for the total."""
    for name in names:
        published = DEVICES[name]
        architecture = BY_NAME[f"sm_{published.capability}"]
        taken = resources(architecture.name)
        yield from kernel_rows(architecture, taken)
        profiled().limit(architecture, architecture.multiprocessors)
        for kind, size, loss, path, precision in variants(architecture):
            seen = seen_by(kind, size, loss, path, precision, architecture if path == WHOLE else None)
            call = {"kind": kind, "loss": loss, **size._asdict(), "path": path}
            call |= {"precision": precision, "device": name, "architecture": architecture.name, "status": STATUS}
            yield from call_rows(call, seen, architecture, published, taken)
            print(f"{name}, {kind}, {size}, {loss}, {call['path']}, {precision}: {len(seen)} launches", file=sys.stderr)


@cache
def seen_by(
    kind: str, size: Size, loss: str, path: str, precision: str, architecture: Architecture | None
) -> list[Launch]:
    """Return the launches of a call; those of the layer-by-layer path are the same on every architecture."""
    case = case_of(kind, size, loss, precision, path == CUBLAS)
    return list(completed(profiled().measure(case, path == WHOLE), kind, size, loss))


def variants(architecture: Architecture) -> Iterator[tuple[str, Size, str, str, str]]:
    """Yield the calls on a device: kind, size, loss, path and precision."""
    for kind, size, loss in product(WHOLE_NETS, (*SMALL, WIDE), LOSSES):
        if size in SMALL and whole_net_fits(kind, size, architecture):
            yield kind, size, loss, WHOLE, "full"
        yield kind, size, loss, LAYERS, "full"
    if architecture.capability >= TENSOR_CAPABILITY:
        yield from (("energy", WIDE, "SSM", path, p) for path in (LAYERS, CUBLAS) for p in ("tf32", "bf16"))


def whole_net_fits(kind: str, size: Size, architecture: Architecture) -> bool:
    """Return whether the launcher takes the whole-net path, tested with a single sample."""
    case = case_of(kind, size._replace(B=1), "SSM-VR")
    return bool(profiled().run(case, problem(case)).done)


def call_rows(
    call: Row, seen: Sequence[Launch], architecture: Architecture, published: Published, taken: dict[str, Resources]
) -> Iterator[Row]:
    """Yield one row per kernel of a call, summed over launches, and one for the whole call."""
    total = 0.0
    for kernel in dict.fromkeys(s.kernel for s in seen):
        mine = [s for s in seen if s.kernel == kernel]
        seconds = sum(published.seconds(kernel, s.moved, s.flops) for s in mine)
        total += seconds
        row = call | {"row": "kernel", "kernel": kernel, "launches": len(mine), "roofline_us": 1e6 * seconds}
        row |= traffic_of(mine)
        if kernel in taken:
            row |= {"blocks": mine[0].blocks, "threads": mine[0].threads, "shared_bytes": mine[0].shared}
            row |= occupancy_of(architecture, taken[kernel], mine[0].threads, mine[0].shared)
        yield row
    size = Size(*(call[letter] for letter in Size._fields))
    row = call | {"row": "call", "kernel": "all", "launches": len(seen), "roofline_us": 1e6 * total}
    yield row | traffic_of(seen) | {"autograd_operators": of_autograd(size, call["loss"], call["kind"])}


def traffic_of(seen: Sequence[Launch]) -> Row:
    minima = [s.minimum for s in seen if s.minimum is not None]
    row: Row = {"bytes_moved": sum(s.moved for s in seen), "bytes_asked": sum(s.asked for s in seen)}
    row["flops"] = sum(s.flops for s in seen) or ""
    if len(minima) == len(seen):
        row |= {"bytes_minimum": sum(minima), "bytes_fetched": sum(s.fetched for s in seen)}
        row |= {f"{way}_over_minimum": row[f"bytes_{way}"] / sum(minima) for way in ("moved", "fetched")}
    return row


def occupancy_of(architecture: Architecture, taken: Resources, threads: int, shared: int) -> Row:
    blocks = occupancy(architecture, threads, taken.registers, shared)
    return {
        "registers": taken.registers,
        "spilled_bytes": taken.spilled,
        "stack_bytes": taken.stack,
        "blocks_per_multiprocessor": blocks,
        "warps_per_multiprocessor": blocks * threads // 32,
    }


def kernel_rows(architecture: Architecture, taken: dict[str, Resources]) -> Iterator[Row]:
    """Yield the resources of every kernel from ptxas, used by a call or not."""
    for kernel, its in sorted(taken.items()):
        row = {"row": "resources", "kernel": kernel, "architecture": architecture.name, "status": STATUS}
        numbers = {"registers": its.registers, "spilled_bytes": its.spilled, "stack_bytes": its.stack}
        yield row | dict.fromkeys(Size._fields, 0) | numbers


def main(argv: Sequence[str] | None = None) -> None:
    """Write the CSV file."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_static", description=__doc__)
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=tuple(DEVICES))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    nvcc = re.search(r"release ([\d.]+)", libraries.version(str(toolkit.program("nvcc"))))
    common = environment() | {"nvcc": nvcc[1] if nvcc else "", "dtype": "float32"}
    rows = list(calls(chosen.devices))
    done = {row["architecture"] for row in rows}
    others = [a for a in ARCHITECTURES if a.name not in done]
    rows += [row for a in others for row in kernel_rows(a, resources(a.name))]
    write((common | row for row in rows), chosen.out, COLUMNS)


if __name__ == "__main__":
    main()
