"""Reference limits: arithmetic of a loss, its products through ``torch.mm``, and peak FMA rate."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from bench import levels
from bench.problems import Case, Problem
from bench.steps import Prepare, Step

SOURCE = Path(__file__).with_name("peak.cpp")
ROUNDS = 2_000_000  # a few milliseconds


class Products(NamedTuple):
    """Rows of the products of a layer with ``inner`` inputs and ``outer`` outputs: up, down and weight gradient."""

    inner: int
    outer: int
    up: int
    down: int
    weight: int

    @property
    def flops(self) -> float:
        """Number of multiplications and additions."""
        return 2.0 * self.inner * self.outer * (self.up + self.down + self.weight)


def products(case: Case, loss: str) -> Iterator[Products]:
    """Yield the products of the two sweeps for the value and every gradient, layer by layer.

    In units of B rows, an energy needs `3(M+2)` per hidden layer. The first layer needs less, because it has no input
    curvature and no input gradient. A score needs `3(M+1)`, and `2M` for its output layer (`2M+3` with variance
    reduction), because `v.Jv = (W^T v).(f' zd)` needs no output rows.
    """
    d, H, L, B, M = case.size
    variance_reduced = loss == "SSM-VR"
    if case.kind == "score":
        rows = (M + 1) * B
        yield Products(d, H, rows, 0, rows)
        yield from [Products(H, H, rows, rows, rows)] * (L - 1)
        own = B if variance_reduced else 0  # the score, its cotangent, its weight gradient
        yield Products(H, d, own, M * B + own, M * B + own)
    elif variance_reduced:
        yield Products(d, H, (M + 2) * B, B, (M + 2) * B)
        yield from [Products(H, H, (M + 2) * B, (M + 2) * B, (M + 2) * B)] * (L - 1)
    else:
        yield Products(d, H, (M + 1) * B, 0, (M + 1) * B)
        yield from [Products(H, H, (M + 2) * B, (M + 2) * B, (M + 2) * B)] * (L - 1)


def arithmetic(case: Case, loss: str) -> float:
    """Return the operations of the products for the value and every gradient."""
    return sum(layer.flops for layer in products(case, loss))


def bare_gemms(p: Problem, mode: str) -> Step:
    """Prepare the products of the two sweeps over the whole batch through ``torch.mm``, into allocated memory."""
    calls = [call for layer in products(p.case, p.loss) for call in layer_gemms(layer)]

    def call() -> None:
        with torch.no_grad():
            for a, b, out in calls:
                torch.mm(a, b, out=out)

    return Step(call, read=None)


def layer_gemms(layer: Products) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    inner, outer, up, down, weight = layer
    most = max(up, down, weight)
    inputs, outputs = torch.randn(most, inner), torch.randn(most, outer)
    matrix, gradient = torch.randn(outer, inner), torch.empty(outer, inner)
    if up:
        yield inputs[:up], matrix.T, torch.empty(up, outer)
    if down:
        yield outputs[:down], matrix, torch.empty(down, inner)
    if weight:
        yield outputs[:weight].T, inputs[:weight], gradient


def peak(kind: str) -> Prepare:
    """Prepare multiply-adds in registers, on all threads of torch."""

    def prepare(p: Problem, mode: str) -> Step:
        function, threads = getattr(library(), f"peak_{kind}"), torch.get_num_threads()
        flops = function(threads, ROUNDS)
        if not flops:
            raise NotImplementedError(f"this processor has no {kind} multiply-add")
        return Step(lambda: function(threads, ROUNDS), None, flops)

    return prepare


@cache
def library() -> ctypes.CDLL:
    """Compile ``peak.cpp`` for this processor if necessary, and load it."""
    path = Path(__file__).parents[1] / ".cache" / "bench" / f"peak{levels.held()}.so"
    if not path.exists() or path.stat().st_mtime < SOURCE.stat().st_mtime:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        flags = ("-std=c++17", "-O3", *levels.compiler_flags(), "-shared", "-fPIC", "-pthread")
        subprocess.run([os.environ.get("CXX", "g++"), *flags, str(SOURCE), "-o", str(partial)], check=True)
        partial.replace(path)
    loaded = ctypes.CDLL(str(path))
    for function in (loaded.peak_float32, loaded.peak_bfloat16):
        function.argtypes, function.restype = (ctypes.c_int, ctypes.c_long), ctypes.c_double
    return loaded
