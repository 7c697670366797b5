"""Random signs, what enters and leaves a tile, and sums in a fixed order, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastssm.directions import rademacher
from tests.cuda.harness.device import aligned
from tests.cuda.harness.machines import DTYPES, Machine, Rows, close, exact, lanes, padded, parts

THREADS = 64
SIGNS = {"float": np.float32, "double": np.float64, "int8": np.int8, "bfloat16": np.uint16}
SHAPES = [
    (1, 1, 1),
    (2, 3, 5),
    (9, 2, 127),
    (1, 5, 128),
    (3, 4, 129),
    (5, 7, 300),
    (4, 1, 64),
]  # directions, samples, dim


def blocks_for(rows: int, columns: int, dtype: Any, walk: dict[str, int]) -> tuple[int, int]:
    return parts(parts(columns, lanes(dtype)), walk["row_threads"]), parts(rows, walk["rows"])


@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize("seed", [0, -1, 123456789012345])
def test_rademacher_has_the_bits_of_the_library(machine: Machine, kind: str, seed: int) -> None:
    dtype = SIGNS[kind]
    for directions, samples, dim in SHAPES:
        first, projection, ld = 2**32 - 1, 3, padded(dim, dtype, extra=dim % 2)
        out = aligned((directions, samples, ld), dtype, 77)
        draws = directions * samples * parts(ld, 128)
        machine.launch(
            f"rademacher_{kind}", "Rademacher", (parts(draws, THREADS),), THREADS,
            seed=aligned(1, np.int64, seed), first_sample=first, samples=samples, first_projection=projection,
            projections=directions, dim=dim, ld=ld, out=out, narrow=None,
        )  # fmt: skip
        numbers = (out.astype(np.uint32) << 16).view(np.float32) if kind == "bfloat16" else out
        places = {"first_projection": projection, "first_sample": first}
        expected = rademacher(torch.tensor(seed), (directions, samples, dim), **places)
        assert np.array_equal(numbers[..., :dim], expected.numpy()), (kind, dim)
        assert not numbers[..., dim:].any(), "rows end in zeros"


@pytest.mark.parametrize("directions", ["v", "basis", "none"])
def test_enter(machine: Machine, real: str, directions: str) -> None:
    dtype = DTYPES[real]
    for samples, dim, extra, count in ((1, 1, 0, 1), (3, 5, 2, 2), (4, 16, 0, 3), (2, 7, 6, 9), (5, 130, 1, 1)):
        random = np.random.default_rng(dim).standard_normal
        x, wide_x = exact(random((samples, dim)), dtype)
        columns, wide_columns = exact(random((samples, extra)), dtype)
        v, wide_v = exact(random((count, samples + 1, dim)), dtype)
        ld = padded(dim + extra, dtype, extra=1)
        kinds = 1 if directions == "none" else 1 + count
        out, walk = aligned((kinds, samples, ld), dtype), {"rows": 3, "row_threads": 4}
        machine.launch(
            f"enter_{real}", f"Enter<{real}>", blocks_for(kinds * samples, ld, dtype, walk), THREADS,
            walk=walk, samples=samples, kinds=kinds, dim=dim, extra=extra, ld=ld, x=x, columns=columns,
            v=v if directions == "v" else None, v_stride=(samples + 1) * dim, direction=dim - 1, unit=1.5, out=out,
            narrow=None,
        )  # fmt: skip
        expected = np.zeros((1 + count, samples, ld))
        expected[0, :, :dim], expected[0, :, dim : dim + extra] = wide_x, wide_columns
        if directions == "v":
            expected[1:, :, :dim] = wide_v[:, :samples]
        else:
            expected[1, :, dim - 1] = 1.5  # later ones lie outside of the basis
        assert np.array_equal(out, expected[:kinds])


@pytest.mark.parametrize(("given", "add"), [(True, False), (True, True), (False, False)])
def test_leave(machine: Machine, real: str, given: bool, add: bool) -> None:
    dtype = DTYPES[real]
    for samples, dim, extra in ((1, 1, 0), (3, 5, 2), (4, 16, 0), (2, 7, 6), (5, 130, 1)):
        ld, walk = padded(dim + extra, dtype), {"rows": 2, "row_threads": 8}
        rows = Rows(np.random.default_rng(dim).standard_normal((samples, dim + extra)), dtype, ld)
        x, columns = aligned((samples, dim), dtype, 1.0), aligned((samples, extra), dtype, 1.0)
        machine.launch(
            f"leave_{real}", f"Leave<{real}>", blocks_for(samples, ld, dtype, walk), THREADS,
            walk=walk, samples=samples, dim=dim, extra=extra, ld=ld, rows=rows.memory if given else None, x=x,
            columns=columns, add=add,
        )  # fmt: skip
        expected = (rows.values if given else 0 * rows.values) + add
        close(x, expected[:, :dim], dtype, "x")
        close(columns, expected[:, dim:], dtype, "columns")


def test_identity(machine: Machine, real: str) -> None:
    for size in (1, 2, 9, 40):
        out = aligned((size, size), DTYPES[real])
        machine.launch(
            f"identity_{real}", f"Identity<{real}>", (parts(size * size, THREADS),), THREADS, size=size, out=out
        )
        assert np.array_equal(out, np.eye(size))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("row_threads", [1, 8, 64])
def test_weighted_sum_and_its_finish(machine: Machine, real: str, weighted: bool, row_threads: int) -> None:
    dtype = DTYPES[real]
    for count, width in ((1, 1), (7, 5), (50, 33), (200, 130), (13, 64)):
        random = np.random.default_rng(count).standard_normal
        ld, walk = padded(width, dtype), {"rows": 16, "row_threads": row_threads}
        rows = Rows(random((count, width)), dtype, ld)
        coefficients, wide = exact(random(count), dtype)
        blocks = blocks_for(count, ld, dtype, walk)
        partial = Rows(np.ones((blocks[1], width)), dtype, ld)
        machine.launch(
            f"weighted_sum_{real}", f"WeightedSum<{real}>", blocks, THREADS, THREADS * 16, walk=walk, rows=count, ld=ld,
            a=rows.memory, coefficients=coefficients if weighted else None, partial=partial.memory, add=True,
        )  # fmt: skip
        expected = (rows.values * (wide[:, None] if weighted else 1)).sum(0) + blocks[1]
        close(partial.values.sum(0), expected, dtype, f"partial sums of {count} x {width}", 4)
        finished(machine, real, partial, expected)


def finished(machine: Machine, real: str, partial: Rows, expected: Any) -> None:
    """Add up partial rows in one segment, and none at all in another."""
    dtype, width = DTYPES[real], partial.width
    out, empty = aligned(width, dtype), aligned(3, dtype)
    segment = {"partial": partial.memory, "rows": len(partial.memory), "ld": partial.ld, "out": out, "width": width}
    nothing = {"partial": None, "rows": 0, "ld": lanes(dtype), "out": empty, "width": 3}
    machine.launch(
        f"finish_{real}", f"Finish<{real}>", (parts(partial.ld, 8 * lanes(dtype)), 2), THREADS, THREADS * 16, count=2,
        segments=[segment, nothing],
    )  # fmt: skip
    close(out, expected, dtype, "finished", 4)
    assert not empty.any()


def test_total(machine: Machine, real: str) -> None:
    dtype = DTYPES[real]
    for samples in (1, 5, 64, 1000):
        random = np.random.default_rng(samples).standard_normal
        (jacobian, wide), (square, wide_square), (weight, wide_weight) = (
            exact(random(samples), dtype) for _ in range(3)
        )
        partial, loss = aligned(4, np.float64), aligned(1, dtype)
        rows = {"samples": samples, "projected_jacobian": jacobian, "square": square, "loss": loss}
        rows["weight"] = {"own": weight, "factor": 0.5}
        blocks = min(4, parts(samples, THREADS))
        for stage in ((blocks, 0), (1, blocks)) if blocks > 1 else ((1, 0),):
            machine.launch(
                f"total_{real}", f"Total<{real}>", stage[:1], THREADS, THREADS * 16, **rows, partial=partial,
                partials=stage[1],
            )  # fmt: skip
        close(loss[0], 0.5 * (wide_weight * (wide + wide_square)).sum(), dtype, "total")
