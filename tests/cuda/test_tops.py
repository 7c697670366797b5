"""The top of a tile, where the terms of a sample are known, and how their cotangents start down, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.covering import each
from tests.cuda.harness.device import aligned
from tests.cuda.harness.machines import DTYPES, Machine, Rows, close, exact, lanes, padded, parts

THREADS = 64
SHAPES = [
    (1, 1, 1),
    (3, 5, 2),
    (2, 7, 9),
    (4, 16, 4),
    (5, 33, 3),
    (2, 130, 1),
    (3, 600, 2),
]  # samples, width, directions


class Top:
    """Random rows and numbers of one shape, each as memory for a kernel and as float64."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any) -> None:
        self.samples, self.width, self.directions = shape
        self.dtype, self.count = dtype, self.directions + 1  # not all directions of the loss are in this turn
        self.random = np.random.default_rng(sum(shape)).standard_normal
        self.dim = 1 + self.width % 6
        self.added = float(self.width % 2)
        self.results = {name: aligned(self.samples, dtype, self.added) for name in ("projected_jacobian", "square")}
        weight, wide = exact(self.random(self.samples), dtype)
        own, factor = bool(self.width % 3), 0.5
        self.weight, self.wide_weight = {"own": weight if own else None, "factor": factor}, factor * wide**own

    def rows(self, kinds: int, width: int = 0) -> Rows:
        width = width or self.width
        return Rows(self.random((kinds, self.samples, width)), self.dtype, padded(width, self.dtype, extra=width % 2))

    def numbers(self, *shape: int) -> tuple[Any, Any]:
        return exact(self.random(shape), self.dtype)

    def shape(self, rows: Rows) -> dict[str, int]:
        return {"samples": self.samples, "tangents": self.directions, "width": rows.width, "ld": rows.ld}

    def walk(self, ld: int) -> tuple[dict[str, int], tuple[int, int]]:
        return {"rows": 2, "row_threads": 4}, (parts(ld, 4 * lanes(self.dtype)), parts(self.samples, 2))

    def agree(self, jacobian: Any, square: Any, what: str) -> None:
        close(self.results["projected_jacobian"] - self.added, jacobian, self.dtype, f"{what} jacobian", 4)
        close(self.results["square"] - self.added, square, self.dtype, f"{what} square", 4)


def per_sample(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)


@pytest.mark.parametrize("curved", [True, False])
@each("shape", SHAPES)
def test_sliced_top(machine: Machine, real: str, shape: tuple[int, int, int], curved: bool) -> None:
    case = Top(shape, DTYPES[real])
    h = case.rows(case.directions + 1 + curved)
    (readout, wide), (bias, _) = case.numbers(case.width), case.numbers(1)
    coefficients = aligned((len(h.values), case.samples), case.dtype)
    machine.launch(
        f"sliced_top_{real}", f"SlicedTop<{real}>", (case.samples,), THREADS, THREADS * 16, shape=case.shape(h),
        curved=curved, h=h.memory, readout=readout, bias=bias, count=case.count, add=bool(case.added),
        weight=case.weight, coefficients=coefficients, **case.results,
    )  # fmt: skip
    e, share = per_sample(h.values, wide), case.wide_weight / case.count
    along = e[1 : case.directions + 1]
    curvature = e[-1] if curved else 0 * e[0]
    case.agree(-curvature / case.count, (along**2).sum(0) / 2 / case.count, f"sliced_top {real} {shape}")
    expected = [0 * share, *(along * share), *([-share] if curved else [])]
    close(coefficients, np.stack(expected), case.dtype, "coefficients", 4)


@pytest.mark.parametrize("biased", [True, False])
@each("shape", SHAPES)
def test_score_top(machine: Machine, real: str, shape: tuple[int, int, int], biased: bool) -> None:
    case = Top(shape, DTYPES[real])
    h, pullback, v = case.rows(case.directions + 1), case.rows(case.directions), case.rows(case.directions, case.dim)
    bias, wide = case.numbers(case.dim)
    share, along = aligned(case.samples, case.dtype), aligned((case.directions, case.samples), case.dtype)
    machine.launch(
        f"score_top_{real}", f"ScoreTop<{real}>", (case.samples,), THREADS, THREADS * 16, shape=case.shape(h),
        h=h.memory, pullback=pullback.memory, pullback_ld=pullback.ld, v=v.memory, v_ld=v.ld,
        bias=bias if biased else None, dim=case.dim, count=case.count, add=bool(case.added), weight=case.weight,
        share=share, along=along, **case.results,
    )  # fmt: skip
    projected = per_sample(pullback.values, h.values[0]) + biased * per_sample(v.values, wide)
    jacobian = per_sample(pullback.values, h.values[1:]).sum(0) / case.count
    case.agree(jacobian, (projected**2).sum(0) / 2 / case.count, f"score_top {real} {shape}")
    close(share, case.wide_weight / case.count, case.dtype, "share")
    close(along, projected * case.wide_weight / case.count, case.dtype, "along", 4)


@pytest.mark.parametrize("kind", ["energy", "flat energy", "score"])
@each("shape", SHAPES)
def test_terms_top(machine: Machine, real: str, shape: tuple[int, int, int], kind: str) -> None:
    case, energy = Top(shape, DTYPES[real]), kind != "score"
    rows = Rows(
        case.random((1 if kind == "flat energy" else case.samples, case.dim)), case.dtype, padded(case.dim, case.dtype)
    )
    v, h, pullback = case.rows(case.directions, case.dim), case.rows(case.directions + 1), case.rows(case.directions)
    (bias, wide_bias), (readout, _), (e2, wide_e2) = (
        case.numbers(case.dim),
        case.numbers(case.width),
        case.numbers(case.samples),
    )
    projected = aligned((case.directions, case.samples + 1), case.dtype)
    score, on_score = aligned((case.samples, case.dim), case.dtype), aligned((case.samples, v.ld), case.dtype)
    coefficients = aligned(case.samples, case.dtype)
    machine.launch(
        f"terms_top_{real}", f"TermsTop<{real}>", (case.samples,), THREADS, THREADS * 16, samples=case.samples,
        tangents=case.directions, dim=case.dim, sign=-1.0 if energy else 1.0, rows=rows.memory,
        rows_ld=0 if kind == "flat energy" else rows.ld, bias=None if energy else bias, v=v.memory, v_ld=v.ld,
        count=case.count, h=h.memory, h_ld=h.ld, h_width=case.width, readout=readout if energy else None,
        constant=None, e2=e2 if kind == "energy" else None, pullback=None if energy else pullback.memory,
        pullback_ld=pullback.ld, add=bool(case.added), projected=projected, projected_stride=case.samples + 1,
        score=score, weight=case.weight, on_score=on_score, narrow=None, coefficients=coefficients,
        **case.results,
    )  # fmt: skip
    s = np.broadcast_to(rows.values, (case.samples, case.dim))
    s, sign = (-s, -1) if energy else (s + wide_bias, 1)
    jacobian = {
        "energy": -wide_e2,
        "flat energy": 0 * wide_e2,
        "score": per_sample(pullback.values, h.values[1:]).sum(0),
    }
    square = (0 if case.added else 0.5) * (s**2).sum(1)  # by the first directions alone
    case.agree(jacobian[kind] / case.count, square, f"terms_top {real} {kind} {shape}")
    close(projected[:, :-1], per_sample(v.values, s), case.dtype, "projected", 4)
    close(score, s, case.dtype, "score")
    expected = (0 if case.added else sign) * case.wide_weight[:, None] * s
    close(on_score[:, : case.dim], expected, case.dtype, "on_score")
    close(coefficients, sign * case.wide_weight / case.count, case.dtype, "coefficients")


@each("shape", SHAPES)
def test_given(machine: Machine, real: str, shape: tuple[int, int, int]) -> None:
    case, sign = Top(shape, DTYPES[real]), -1 if shape[0] % 2 else 1
    dim, v = case.width, case.rows(case.directions)
    (projected, wide), (jacobian, wide_jacobian) = (
        case.numbers(case.directions, case.samples),
        case.numbers(case.samples),
    )
    score, wide_score = case.numbers(case.samples, dim)
    rows, coefficients = aligned((case.samples, v.ld), case.dtype), aligned(case.samples, case.dtype)
    walk, blocks = case.walk(v.ld)
    given = score if case.added else None
    machine.launch(
        f"given_{real}", f"Given<{real}>", blocks, THREADS, shape=case.shape(v), walk=walk, dim=dim, sign=sign,
        count=case.count, v=v.memory, projected=projected, projected_stride=case.samples, projected_jacobian=jacobian,
        score=given, rows=rows, narrow=None, coefficients=coefficients,
    )  # fmt: skip
    expected = sign * ((wide[..., None] * v.values).sum(0) + wide_score * case.added)
    close(rows[:, :dim], expected, case.dtype, f"given {real} {shape}", 4)
    close(coefficients, sign * wide_jacobian / case.count, case.dtype, "coefficients")


@pytest.mark.parametrize(("along", "tangents"), [(True, True), (True, False), (False, True)])
@each("shape", SHAPES)
def test_score_seed(machine: Machine, real: str, shape: tuple[int, int, int], along: bool, tangents: bool) -> None:
    case = Top(shape, DTYPES[real])
    h, pullback = case.rows(case.directions + 1), case.rows(case.directions)
    bars, u = case.rows(case.directions + 1), pullback.values
    before = bars.values
    (share, wide_share), (weights, wide) = case.numbers(case.samples), case.numbers(case.directions, case.samples)
    walk, blocks = case.walk(h.ld)
    machine.launch(
        f"score_seed_{real}", f"ScoreSeed<{real}>", blocks, THREADS, shape=case.shape(h), walk=walk, h=h.memory,
        share=share, along=weights if along else None, pullback=pullback.memory, narrow=None, adjoints=bars.memory,
        tangents=tangents,
    )  # fmt: skip
    wide = wide[..., None] * along
    close(pullback.values, wide_share[:, None] * h.values[1:] + wide * h.values[0], case.dtype, "adjoint of u", 4)
    value = (wide * u).sum(0) if along else before[0]
    below = wide_share[:, None] * u if tangents else before[1:]
    close(bars.values, np.stack([value, *below]), case.dtype, f"score_seed {real} {shape}", 4)
