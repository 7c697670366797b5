"""The passes through an activation, up and down, against torch's own derivatives in float64.

What goes down is the gradient of what goes up, so autograd judges it: no rule of csrc/maths/sweep.h is repeated here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastssm.activations import INDEX, TABLE
from fastssm.nn import make_activation
from tests import oracle
from tests.cuda.harness.machines import DTYPES, Machine, Rows, close, exact, lanes, padded, parts

ABOVE = {"stack": 0, "outer": 1, "none": 2}
THREADS = 64
PARTS = 4  # in which the activations are taken
SHAPES = [
    (1, 1, 1),
    (3, 5, 2),
    (2, 7, 9),
    (6, 16, 4),
    (5, 33, 3),
    (9, 130, 1),
    (4, 64, 5),
    (7, 3, 8),
    (1, 20, 6),
    (2, 9, 7),
]
NETWORKS = {row.name: make_activation(row.name) for row in TABLE}
CONSTANTS = {row.name: [float(getattr(NETWORKS[row.name], name)) for name in row.parameters] for row in TABLE}


def named(turn: int) -> str:
    """Return one activation after the other."""
    return TABLE[turn % len(TABLE)].name


class Layer(NamedTuple):
    """What enters an activation, and what leaves it, in float64."""

    z: Tensor  # [samples, width] before the scale, as all
    tangents: Tensor  # [directions, samples, width]
    curve: Tensor  # [samples, width]
    scale: Tensor  # [samples, width]
    shift: Tensor
    jet: list[Tensor]  # f, f', f'', f'''
    squares: Tensor  # q
    up: Tensor  # h, hd_1, ..., k: [directions + 2, samples, width]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.z, self.tangents, self.curve, self.scale, self.shift


def derivatives(module: nn.Module, z: Tensor) -> list[Tensor]:
    with oracle.written_out():
        found = [module(z) + 0.0 * z]
    for _ in range(3):
        (next_one,) = torch.autograd.grad(found[-1].sum() + 0.0 * z.square().sum(), z, create_graph=True)
        found.append(next_one + 0.0 * z)
    return found


def layer(name: str, inputs: dict[str, Any], share: Any = 1.0) -> Layer:
    """Send values, tangents and a curvature through an activation; `share` is c2, or 1."""
    given = {key: torch.tensor(value, requires_grad=True) for key, value in inputs.items()}
    z, tangents, curve, scale, shift = (given[key] for key in ("z", "tangents", "curve", "scale", "shift"))
    scaled = tangents * scale
    squares = scaled.square().sum(0)
    f, d1, d2, d3 = derivatives(NETWORKS[name], z * scale + shift)
    k = d1 * (curve * scale) + torch.as_tensor(share) * d2 * squares
    return Layer(z, tangents, curve, scale, shift, [f, d1, d2, d3], squares, torch.stack([f, *(d1 * scaled), k]))


class Given:
    """Random inputs of one shape, as memory for kernels and as float64."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any, modulated: bool) -> None:
        self.samples, self.width, self.directions = shape
        self.dtype, self.modulated = dtype, modulated
        self.ld = padded(self.width, dtype, extra=self.samples % 2)
        self.random = np.random.default_rng(sum(shape) + modulated)
        self.z = self.rows(self.directions + 2)
        self.scale, scale = exact(1 + 0.3 * self.random.standard_normal(shape[:2]), dtype)
        self.shift, shift = exact(self.random.standard_normal(shape[:2]), dtype)
        neutral = {"scale": np.ones_like(scale), "shift": np.zeros_like(shift)}
        self.modulation = {"scale": scale, "shift": shift} if modulated else neutral
        self.bias, self.wide_bias = exact(self.random.standard_normal(self.width), dtype)
        self.shape = {"samples": shape[0], "tangents": shape[2], "width": shape[1], "ld": self.ld}

    def rows(self, kinds: int) -> Rows:
        shape = (kinds, self.samples, self.width)
        return Rows(self.random.standard_normal(shape), self.dtype, self.ld)

    def unwritten(self, kinds: int = 1) -> Rows:
        return Rows(np.full((kinds, self.samples, self.width), np.nan), self.dtype, self.ld)

    def inputs(self) -> dict[str, Any]:
        z = self.z.values
        return {"z": z[0] + self.wide_bias, "tangents": z[1:-1], "curve": z[-1], **self.modulation}

    def activated(self, name: str) -> dict[str, Any]:
        """Return an activation as kernels take it, with this bias, scale and shift."""
        modulation = {key: self.optional(getattr(self, key), self.modulated) for key in ("scale", "shift")}
        constants = (CONSTANTS[name] + [0.0, 0.0])[:2]
        return {"activation": INDEX[name], "constants": constants, "bias": self.bias, **modulation}

    def walk(self) -> tuple[dict[str, int], tuple[int, int]]:
        """Return some division of the rows among blocks, and the grid for it."""
        rows, row_threads = int(self.random.integers(1, 2 * self.samples + 1)), 2 ** int(self.random.integers(0, 7))
        packs = self.ld // lanes(self.dtype)
        return {"rows": rows, "row_threads": row_threads}, (parts(packs, row_threads), parts(self.samples, rows))

    def optional(self, memory: Any, wanted: bool) -> Any:
        return memory if wanted else None


def every_case(dtype: Any) -> Iterator[Given]:
    for index, shape in enumerate(SHAPES):
        yield Given(shape, dtype, modulated=index % 2 == 1)


@pytest.mark.parametrize("part", range(PARTS))
def test_up(machine: Machine, real: str, part: int, subtests: pytest.Subtests) -> None:
    for name in list(NETWORKS)[part::PARTS]:
        with subtests.test(name):
            check_up(machine, real, name)


def check_up(machine: Machine, real: str, name: str) -> None:
    dtype = DTYPES[real]
    for index, case in enumerate(every_case(dtype)):
        skips, fresh, curved, kept = index % 3 == 0, index % 4 == 1, index % 5 != 4, index % 2 == 0
        inputs = case.inputs()
        inputs["curve"] = inputs["curve"] * (not fresh)
        expected = layer(name, inputs)
        walk, blocks = case.walk()
        entered, out = case.rows(case.directions + 2), case.unwritten(case.directions + 2)
        q, before = case.unwritten(), case.z.memory.copy()
        machine.launch(
            f"up_{name}_{real}", f"Up<{real}>", blocks, THREADS,
            shape=case.shape, walk=walk, layer=case.activated(name), curvature=curved, fresh=fresh,
            entered=case.optional(entered.memory, skips), z=case.z.memory, out=out.memory, narrow=None,
            q=case.optional(q.memory, kept),
        )  # fmt: skip
        what = f"up_{name}_{real} {SHAPES[index]}"
        wanted = expected.up.detach().numpy() + entered.values * skips
        wanted[-1] -= entered.values[-1] * (skips and fresh)  # no curvature enters, so there is none to skip
        close(out.values[: len(wanted) - (not curved)], wanted[: len(wanted) - (not curved)], dtype, what)
        assert np.array_equal(case.z.memory, before, equal_nan=True)  # the sweep down needs it
        if kept:
            close(q.values[0], expected.squares.detach(), dtype, f"{what} q")


DOWN = [
    *((above, False, fresh) for above in ("stack", "outer") for fresh in (False, True)),
    *((above, True, False) for above in ("stack", "none")),
]


def adjoints(case: Given, above: str, merged: bool, dtype: Any) -> tuple[Rows, dict[str, Any], Any, Any, Any]:
    """Return adjoints as they come from above: as rows, as arguments of the kernel, and as float64: hb, hdb, g."""
    bars = case.rows(case.directions + 2)
    readout, wide_readout = exact(case.random.standard_normal(case.width), dtype)
    c1, wide_c1 = exact(case.random.standard_normal((case.directions, case.samples)), dtype)
    chain = case.rows(1)
    hb, hdb, g = bars.values[0], bars.values[1:-1], bars.values[-1]
    if above == "outer":
        hb, hdb, g = hb * 0, wide_c1[..., None] * wide_readout, np.broadcast_to(wide_readout, g.shape)
    if above == "none":
        hb, hdb = hb * 0, hdb * 0
    if merged:
        g = chain.values[0] if above == "stack" else np.broadcast_to(wide_readout, g.shape)
    given = {"c1": c1, "readout": readout, "chain": chain.memory if merged and above == "stack" else None}
    return bars, given, hb, hdb, g


@pytest.mark.parametrize(("above", "merged", "fresh"), DOWN)
def test_down(machine: Machine, real: str, above: str, merged: bool, fresh: bool) -> None:
    dtype = DTYPES[real]
    for index, case in enumerate(every_case(dtype)):
        name = named(index + len(SHAPES) * DOWN.index((above, merged, fresh)))
        bars, given, hb, hdb, g = adjoints(case, above, merged, dtype)
        c2, wide_c2 = exact(case.random.standard_normal(case.samples), dtype)
        g = g * wide_c2[:, None] if above == "outer" else g
        inputs = case.inputs()
        inputs["curve"] = inputs["curve"] * (not fresh)
        here = layer(name, inputs, wide_c2[:, None] if merged else 1.0)
        cotangents = torch.tensor(np.stack([hb, *hdb, g]))
        wanted = torch.autograd.grad((here.up * cotangents).sum(), here.leaves, allow_unused=True)
        walk, blocks = case.walk()
        found = run_down(machine, real, case, name, bars, index, walk, blocks,
                         above=ABOVE[above], merged=merged, fresh=fresh, c2=c2, **given)  # fmt: skip
        what = f"down {real} {name} {above} merged={merged} fresh={fresh} {SHAPES[index]}"
        check_down(found, wanted, case, dtype, what, curve=not merged and not fresh)
        kept = [hb, *hdb, *([] if merged or fresh else [g])][: None if index % 2 else 1]
        close(found["kept"].values[: len(kept)], np.stack(kept), dtype, f"{what} kept")


def back(case: Given, name: str, bars: Rows, index: int, walk: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that the passes down share, and what they write to."""
    partial = Rows(np.zeros((64, case.width)), case.dtype, case.ld)
    samples = {key: exact(np.ones((case.samples, case.width)), case.dtype)[0] for key in ("on_scale", "on_shift")}
    kept = case.unwritten(case.directions + 2)
    arguments = {
        "shape": case.shape, "walk": walk, "layer": case.activated(name), "z": case.z.memory,
        "adjoints": bars.memory, "narrow": None, "kept": kept.memory,
        "kept_all": index % 2 == 1, "partial": partial.memory, "add_partial": index % 3 == 0,
        "on_scale": case.optional(samples["on_scale"], case.modulated),
        "on_shift": case.optional(samples["on_shift"], case.modulated), "add_samples": index % 4 == 1,
    }  # fmt: skip
    written = {"adjoints": bars, "partial": partial, "kept": kept, **samples}
    return arguments, {**written, "added": index % 4 == 1}


def run_down(machine: Machine, real: str, case: Given, name: str, bars: Rows, index: int,
             walk: dict[str, int], blocks: tuple[int, int], **own: Any) -> dict[str, Any]:  # fmt: skip
    arguments, found = back(case, name, bars, index, walk)
    own |= {"back": arguments}
    machine.launch(f"down_{real}", f"Down<{real}>", blocks, THREADS, THREADS * 16, **own)
    return found


def check_down(found: dict[str, Any], wanted: Any, case: Given, dtype: Any, what: str, curve: bool) -> None:
    on_z, on_tangents, on_curve, on_scale, on_shift = wanted
    bars = found["adjoints"].values
    close(bars[0], on_z, dtype, f"{what} value")
    close(bars[1:-1], on_tangents, dtype, f"{what} tangents")
    if curve:
        close(bars[-1], on_curve, dtype, f"{what} curvature")
    close(found["partial"].values.sum(0), on_z.sum(0), dtype, f"{what} bias")
    if case.modulated:
        close(found["on_scale"] - found["added"], on_scale, dtype, f"{what} scale", 2)
        close(found["on_shift"] - found["added"], on_shift, dtype, f"{what} shift", 2)


def test_down_score(machine: Machine, real: str) -> None:
    dtype = DTYPES[real]
    for index in range(len(TABLE)):
        name, case = named(index), Given(SHAPES[index % len(SHAPES)], dtype, modulated=index % 2 == 1)
        bars = case.rows(case.directions + 2)
        before = bars.values
        here = layer(name, case.inputs())
        cotangents = torch.tensor(before)
        wanted = torch.autograd.grad((here.up * cotangents)[:-1].sum(), here.leaves, allow_unused=True)
        walk, blocks = case.walk()
        arguments, found = back(case, name, bars, index, walk)
        machine.launch(f"down_score_{real}", f"Back<{real}>", blocks, THREADS, THREADS * 16, **arguments)
        check_down(found, wanted, case, dtype, f"down_score {real} {name}", curve=False)
        kept = found["kept"].values[: case.directions + 1 if index % 2 else 1]
        close(kept, before[: len(kept)], dtype, f"down_score {real} {name} kept")


def derivatives_of(name: str, case: Given) -> list[Any]:
    """Return f' and f'' of what enters the activation, in float64."""
    return [order.detach().numpy() for order in layer(name, case.inputs()).jet[1:3]]


def test_chain(machine: Machine, real: str) -> None:
    dtype = DTYPES[real]
    for index, (case, outer) in enumerate(itertools.product(every_case(dtype), (True, False))):
        readout, wide = exact(case.random.standard_normal(case.width), dtype)
        g, q = case.rows(1), case.rows(1)
        name = named(index + len(TABLE) // 2)
        d1, d2 = derivatives_of(name, case)
        adjoint, kept = case.unwritten(), case.unwritten()
        e2, _ = exact(np.ones(case.samples), dtype)
        machine.launch(
            f"chain_{real}", f"Chain<{real}>", (case.samples,), THREADS, THREADS * 16,
            shape=case.shape, g=None if outer else g.memory, readout=readout, layer=case.activated(name),
            z=case.z.memory, q=q.memory, adjoint=adjoint.memory, narrow=None, kept=kept.memory,
            e2=e2, add=index % 3 == 0,
        )  # fmt: skip
        above = np.broadcast_to(wide, g.values[0].shape) if outer else g.values[0]
        what = f"chain {real} {name} outer={outer} {SHAPES[index // 2]}"
        close(adjoint.values[0], case.modulation["scale"] * d1 * above, dtype, what)
        close(kept.values[0], above, dtype, f"{what} kept")
        close(e2 - (index % 3 == 0), (d2 * q.values * above)[0].sum(1), dtype, f"{what} e2", 4)


def test_curve(machine: Machine, real: str) -> None:
    dtype = DTYPES[real]
    for index, case in enumerate(every_case(dtype)):
        zk, q, entered = (case.rows(1) for _ in range(3))
        name = named(2 * index)
        d1, d2 = derivatives_of(name, case)
        c2, wide_c2 = exact(case.random.standard_normal(case.samples), dtype)
        out, (walk, blocks) = case.unwritten(), case.walk()
        machine.launch(
            f"curve_{real}", f"Curve<{real}>", blocks, THREADS,
            shape=case.shape, walk=walk, layer=case.activated(name), z=case.z.memory, zk=zk.memory, q=q.memory, c2=c2,
            entered=case.optional(entered.memory, index % 3 == 0),
            out=out.memory, narrow=None,
        )  # fmt: skip
        k = d1 * zk.values * case.modulation["scale"] + wide_c2[:, None] * d2 * q.values
        close(out.values, k + entered.values * (index % 3 == 0), dtype, f"curve {real} {name} {SHAPES[index]}")
