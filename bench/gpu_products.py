"""Time the matrix products of the engine on a GPU in every precision, and as split products on tensor cores.

``python -m bench.gpu_products`` writes bench/results/gpu_<device>_products.csv. Split products keep float32 accuracy:
3xTF32 splits x into two TF32 numbers, 6xBF16 into three bfloat16 numbers. The splitting is not timed. ``error`` is the
maximum difference from the float64 product, relative to the largest entry.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.gpu_clocks import Runner, measure, roughly
from bench.gpu_contenders import tf32
from bench.gpu_rows import facts, file_of
from bench.harness import write_rows
from bench.measure import Row
from bench.problems import GRID, Size

FACTS = ("commit", "date", "machine", "device", "torch", "cuda", "driver")
COLUMNS = (*FACTS, "product", "rows", "inner", "outer", "way", "event_us", "tflops", "ratio_to_float32", "error")
SIZES = (*GRID[2:], Size(784, 4096, 4, 2048, 1))
BUDGET_S = 0.15


class Product(NamedTuple):
    """C [rows, outer] = A [rows, inner] B [inner, outer], with the name of the product."""

    name: str
    rows: int
    inner: int
    outer: int


class Method(NamedTuple):
    """A method to compute a product, and whether torch may round float32 to TF32."""

    call: Callable[[], Tensor]
    rounded: bool = False


def products(size: Size) -> Iterator[Product]:
    """Yield the products of a hidden layer: up (down has the same shape), and the weight gradient."""
    rows = (size.M + 2) * size.B
    yield Product("up", rows, size.H, size.H)
    yield Product("weight", size.H, rows, size.H)


def tf32_part(x: Tensor) -> Tensor:
    """Round to ten mantissa bits, ties away from zero."""
    return ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def parts_tf32(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split into two TF32 numbers."""
    high = tf32_part(x)
    return high, tf32_part(x - high)


def parts_bf16(x: Tensor) -> list[Tensor]:
    """Split into three bfloat16 numbers."""
    parts = []
    for _ in range(3):
        parts.append(x.bfloat16())
        x = x - parts[-1].float()
    return parts


def added(pairs: list[tuple[Tensor, Tensor]], out: Tensor) -> Tensor:
    """Sum float32 products, the smallest first."""
    torch.mm(*pairs[0], out=out)
    for a, b in pairs[1:]:
        torch.addmm(out, a, b, out=out)
    return out


def methods(a: Tensor, b: Tensor) -> dict[str, Method]:
    """Return all methods to compute a product."""
    out = torch.empty(a.shape[0], b.shape[1], device=a.device)
    (a1, a2), (b1, b2) = parts_tf32(a), parts_tf32(b)
    long_a, long_b = torch.cat([a2, a1, a1], 1), torch.cat([b1, b2, b1], 0)
    found = {
        "float32": Method(partial(torch.mm, a, b, out=out)),
        "TF32": Method(partial(torch.mm, a, b, out=out), True),
        "3xTF32, three products": Method(partial(added, [(a2, b1), (a1, b2), (a1, b1)], out), True),
        "3xTF32, one long product": Method(partial(torch.mm, long_a, long_b, out=out), True),
    }
    if a.is_cuda:
        low_a, low_b = parts_bf16(a), parts_bf16(b)
        order = [(2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0)]
        long_a = torch.cat([low_a[i] for i, _ in order], 1)
        long_b = torch.cat([low_b[j] for _, j in order], 0)
        product = partial(torch.mm, out_dtype=torch.float32)
        found["bfloat16"] = Method(partial(product, low_a[0], low_b[0]))
        found["6xBF16, one long product"] = Method(partial(product, long_a, long_b))
    return found


def rows(size: Size, product: Product, device: torch.device) -> Iterator[Row]:
    """Time all methods of a product, interleaved."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(product.rows, product.inner, generator=generator).to(device)
    b = torch.randn(product.inner, product.outer, generator=generator).to(device)
    exact, flop = a.double() @ b.double(), 2.0 * product.rows * product.inner * product.outer
    runners, errors = {}, {}
    for name, method in methods(a, b).items():
        with tf32(method.rounded):
            errors[name] = float((method.call().double() - exact).abs().max() / exact.abs().max())
            runners[name] = Runner(method.call, roughly(method.call, device), within=partial(tf32, method.rounded))
    times = measure(runners, BUDGET_S, device)
    clock = "event_us" if device.type == "cuda" else "wall_us"
    plain = times["float32"][clock]
    for name, time in times.items():
        row = product._asdict() | {"product": f"{size}: {product.name}", "way": name, "error": errors[name]}
        yield row | {
            "event_us": time[clock],
            "tflops": flop / time[clock] / 1e6,
            "ratio_to_float32": plain / time[clock],
        }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, print the rows and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_products", description="Time products on a GPU.")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    parser.add_argument("--sizes", type=Size.parse, nargs="*", default=SIZES, metavar="d,H,L,B,M")
    parser.add_argument("--folder", type=Path, default=Path("bench/results"))
    chosen = parser.parse_args(arguments)
    shared, found = facts(chosen.device), list[Row]()
    out = file_of(chosen.device, chosen.folder)
    for size in chosen.sizes:
        for product in products(size):
            for row in rows(size, product, chosen.device):
                found.append({name: (shared | row).get(name, "") for name in COLUMNS})
                print(f"{row['product']:24} {row['way']:26} {row['event_us']:9.5g} us {row['error']:.2g}", flush=True)
            write_rows(found, out.with_name(f"{out.stem}_products.csv"), COLUMNS)


if __name__ == "__main__":
    main()
