"""Accuracy, traffic, instructions and predicted cycles of the tensor-core products, found without a GPU.

Nothing here is a measured time.
``python -m bench.cuda_products`` writes bench/results/cuda_products.csv. It needs nvcc. Errors and traffic come from
nvcc's PTX for compute_80, executed on the CPU; sums in tensor cores are rounded there as measured on an A100.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.cuda_static import SECTOR, profiled
from bench.cuda_table import PRODUCTS
from bench.harness import environment, read, write_rows
from bench.measure import Row
from bench.problems import GRID
from tests.cuda import test_gemm, test_gemm_choice
from tests.cuda.harness.adversaries import DECADES, adversaries, error
from tests.cuda.harness.architectures import BY_NAME, occupancy
from tests.cuda.harness.device import aligned
from tests.cuda.harness.machine_code import WGMMA, count, instructions, resources
from tests.cuda.harness.machines import machine_named
from tests.cuda.harness.whole_net import WholeNet

DEPTHS = (32, 96, 512)
SHAPE = (256, 128, 256)  # m, n, k of the products whose traffic is counted
TILES = {"split": 128, "tf32": 64, "bf16": 64}  # rows and columns of C for a block
SHARED = {"product_split": 98304, "product_up": 98304, "product_tf32": 36864, "product_bf16": 36864}
SHARED |= {"product_split_wgmma": 105984}
THREADS = {"product_tf32": 128, "product_bf16": 128}  # the others have 256
TURN = 128  # bytes of shared memory
INSTRUCTIONS = ("HMMA", "HGMMA", "LDSM", "LDGSTS")
ARCHITECTURES = ("sm_80", "sm_90")
LAYOUTS = {"up": (True, False), "down": (True, True), "weights": (False, True)}  # whether A and B have contiguous rows
COLUMNS = (
    *("row", "precision", "kernel", "data", "scale", "m", "n", "k", "error", "float32_error", "error_over_float32"),
    *("architecture", *INSTRUCTIONS, "registers", "spilled_bytes", "shared_bytes", "blocks_per_multiprocessor"),
    *("bytes_moved", "bytes_minimum", "moved_over_minimum", "shared_turns_over_minimum"),
    *("d", "H", "L", "B", "M", "device", "split_cycles", "float32_cycles", "status"),
    *("commit", "date", "machine", "torch"),
)


def errors() -> Iterator[Row]:
    """Yield the error of a split product and of numpy's float32 product, for all data, scales and depths."""
    net = WholeNet(machine_named("ptx-80"))
    for depth in DEPTHS:
        for scale in DECADES if depth == DEPTHS[1] else (1.0,):
            for name, (a, b) in adversaries(scale, (24, 20, depth)).items():
                found = aligned((a.shape[0], b.shape[1]), np.float32)
                test_gemm.multiply(net, a, b, found, False, "split")
                own, other = error(found, a, b), error(a @ b, a, b)
                row = {"row": "error", "precision": "split", "data": name, "scale": scale, "m": 24, "n": 20, "k": depth}
                yield row | {"error": own, "float32_error": other, "error_over_float32": own / other}


def machine_code() -> Iterator[Row]:
    """Yield the instructions and the resources of each product kernel."""
    for name in ARCHITECTURES:
        yield from ({"row": "code"} | row for row in of_architecture(name))


def machine_code_of_wgmma() -> Iterator[Row]:
    """Yield the same of the kernel that a build flag adds."""
    yield from ({"row": "wgmma"} | row for row in of_architecture("sm_90a", *WGMMA))


def of_architecture(name: str, *source: Any) -> Iterator[Row]:
    code, taken, architecture = instructions(name, *source), resources(name, *source), BY_NAME[name.rstrip("a")]
    for kernel in (kernel for kernel in SHARED if kernel in taken):
        its, shared = taken[kernel], SHARED[kernel]
        row = {"kernel": kernel, "architecture": name, "shared_bytes": shared}
        row |= {word: count(code[kernel], word) for word in INSTRUCTIONS}
        row |= {"registers": its.registers, "spilled_bytes": its.spilled}
        blocks = occupancy(architecture, THREADS.get(kernel, 256), its.registers, shared)
        yield row | {"blocks_per_multiprocessor": blocks}


class Counted(WholeNet):
    """The host code on emulated PTX, which records the memory traffic of a call by kernel."""

    def call(self, function: str, *arguments: Any) -> bool:
        """Forget the last call, and run one."""
        self.seen: dict[str, dict[str, Any]] = {}
        return super().call(function, *arguments)

    def _start(self, kernel: bytes, *arguments: Any) -> int:
        failed = super()._start(kernel, *arguments)
        self.seen[kernel.decode()] = self.device.traffic()
        return failed


def from_a_sector(shape: tuple[int, int], row_major: bool) -> np.ndarray:
    """Return a matrix of ones that begins with a sector, as all memory of torch does."""
    rows, columns = shape if row_major else shape[::-1]
    held = aligned(rows * columns + SECTOR, np.float32, 1)
    first = -(held.ctypes.data // 4) % (SECTOR // 4)
    lines = held[first : first + rows * columns].reshape(rows, columns)
    return lines if row_major else lines.T


def traffic() -> Iterator[Row]:
    """Yield the traffic of each product: its bytes over those of its tiles, and turns of shared memory over bytes."""
    net, (m, n, k) = Counted(profiled().machine), SHAPE
    net.limit(BY_NAME["sm_80"], 1)
    for precision, tile in TILES.items():
        for name, ways in LAYOUTS.items():
            a, b = from_a_sector((m, k), ways[0]), from_a_sector((k, n), ways[1])
            net.device.traffic()
            test_gemm.multiply(net, a, b, from_a_sector((m, n), True), False, precision)
            ((kernel, seen),) = net.seen.items()
            moved = SECTOR * sum(seen[f"global {way}"].units for way in ("reads", "writes"))
            held = [seen[f"shared {way}"] for way in ("reads", "writes")]
            least = 4 * (m * k * (n // tile) + k * n * (m // tile) + m * n)
            row = {"row": "traffic", "precision": precision, "kernel": kernel, "data": name, "m": m, "n": n, "k": k}
            row |= {"bytes_moved": moved, "bytes_minimum": least, "moved_over_minimum": moved / least}
            turns, whole = sum(each.units for each in held), sum(each.bytes for each in held) / TURN
            yield row | {"shared_turns_over_minimum": turns / whole}


def choices() -> Iterator[Row]:
    """Yield the cycles of the products of a hidden layer, split and in float32, as predicted for each device."""
    net = WholeNet(machine_named("emulator"))
    for name in test_gemm_choice.FAST:
        net.limit(BY_NAME[name], BY_NAME[name].multiprocessors)
        for size in GRID:
            for product, (m, n, k) in test_gemm_choice.products(size).items():
                split, full = test_gemm_choice.cycles(net, m, n, k)
                row = {"row": "choice", "device": BY_NAME[name].device, "data": product, "m": m, "n": n, "k": k}
                yield row | size._asdict() | {"split_cycles": split, "float32_cycles": full}


PARTS = {
    "error": errors,
    "code": machine_code,
    "wgmma": machine_code_of_wgmma,
    "traffic": traffic,
    "choice": choices,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the CSV file."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_products", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=PARTS, default=tuple(PARTS), help="the file keeps its others")
    parser.add_argument("--out", type=Path, default=PRODUCTS)
    chosen = parser.parse_args(argv)
    common = environment() | {"status": "computed, never measured"}
    rows = [row for row in read(chosen.out) if row["row"] not in chosen.rows] if chosen.out.exists() else []
    rows += [common | row for name in chosen.rows for row in PARTS[name]()]
    order = list(PARTS)
    rows.sort(key=lambda row: order.index(row["row"]))
    write_rows(({name: row.get(name, "") for name in COLUMNS} for row in rows), chosen.out, COLUMNS)


if __name__ == "__main__":
    main()
