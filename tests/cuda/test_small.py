"""The whole-net path: every sweep of a small network against the oracle, on the emulator and as executed PTX."""

from __future__ import annotations

import pytest
import torch

from fastssm.activations import TABLE
from tests.cuda.harness.architectures import ARCHITECTURES, BY_NAME, Architecture
from tests.cuda.harness.whole_net import KERNELS, Case, WholeNet, problem

F32, F64 = torch.float32, torch.float64
PARTS = 4  # in which the activations are taken
KIND = pytest.mark.parametrize("kind", KERNELS)
VR = pytest.mark.parametrize("vr", [False, True], ids=["ssm", "vr"])

SHAPES = {
    "one sample": Case(widths=(8,), samples=1, count=1),
    "one layer": Case(widths=(8,), samples=6, count=1),
    "odd": Case(widths=(9, 13, 5), dim=3, samples=23, count=3),
    "narrow": Case(widths=(1, 2, 3), dim=1, samples=11, count=1),
    "wide at the entrance": Case(widths=(6,), dim=117, extra=11, samples=3, count=1),
    "columns": Case(extra=3, count=1, samples=11),
    "directions in turns": Case(count=19, samples=5, extra=1),
    "skips": Case(widths=(4, 4, 4), dim=4, skips=(0, 1, 2), samples=9),
    "a skip below": Case(widths=(5, 6, 6), dim=3, skips=(2,), count=9),
    "mixed": Case(widths=(6, 5, 4), activations=("gelu", "tanh", "softplus")),
    "without biases": Case(bias=False),
    "given directions": Case(source="given", count=5, dim=3),
    "basis": Case(source="basis", dim=10, samples=4),
    "deep": Case(widths=(5,) * 8, count=1),
    "weights alone": Case(of_inputs=False),
    "inputs alone": Case(of_layers=False, extra=2),
    "no gradient": Case(of_layers=False, of_inputs=False),
}


@pytest.fixture(autouse=True)
def ampere(whole_net: WholeNet) -> None:
    whole_net.limit(BY_NAME["sm_86"])


@KIND
@VR
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(whole_net: WholeNet, shape: str, dtype: torch.dtype, vr: bool, kind: str) -> None:
    whole_net.check(SHAPES[shape].with_(dtype=dtype, variance_reduced=vr, kind=kind))


@pytest.mark.covering(3, alike=True)  # all on each machine: a missing barrier shows on the one that looks for races
@KIND
@VR
@pytest.mark.parametrize("dtype", [F64], ids=["f64"])
def test_every_path(whole_net: WholeNet, dtype: torch.dtype, vr: bool, kind: str) -> None:
    for shape in ("odd", "skips"):  # rows with and without padding
        whole_net.check(SHAPES[shape].with_(dtype=dtype, variance_reduced=vr, kind=kind))


@pytest.mark.covering(1)
@KIND
@VR
@pytest.mark.parametrize("part", range(PARTS))
def test_every_activation(whole_net: WholeNet, part: int, vr: bool, kind: str, subtests: pytest.Subtests) -> None:
    for row in TABLE[part::PARTS]:
        with subtests.test(row.name):
            for dtype in (F32, F64):
                case = Case(widths=(6, 7), activations=row.name, samples=5, variance_reduced=vr, dtype=dtype, kind=kind)
                whole_net.check(case)


@pytest.mark.covering(1, alike=True)
@KIND
@pytest.mark.parametrize("count", range(1, 10))
def test_every_number_of_directions(whole_net: WholeNet, count: int, kind: str) -> None:
    whole_net.check(Case(widths=(5, 6), samples=4, count=count, kind=kind))


@pytest.mark.covering(1, alike=True)
@KIND
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_the_tile_fits_the_device(whole_net: WholeNet, architecture: Architecture, kind: str) -> None:
    net = Case(widths=(64, 64), samples=40, count=1, dtype=F32, kind=kind)
    whole_net.limit(architecture, multiprocessors=2)
    whole_net.check(net)
    assert whole_net.launches[0].blocks == (2, 1, 1)
    assert whole_net.launches[0].shared <= architecture.shared_per_block


@VR
def test_a_score_needs_less_memory(whole_net: WholeNet, vr: bool) -> None:
    """No curvature, f''' or chain: rows of a second readout take far less."""
    shared = {}
    for kind in KERNELS:
        case = Case(widths=(32, 32), samples=12, variance_reduced=vr, kind=kind)
        assert whole_net.run(case, problem(case)).done
        shared[kind] = whole_net.launches[0].shared
    assert shared["score"] < 0.9 * shared["energy"]


@KIND
def test_what_does_not_fit_is_left_alone(whole_net: WholeNet, kind: str) -> None:
    large = Case(widths=(128, 128), samples=5, count=1, dtype=F32, kind=kind)
    whole_net.limit(BY_NAME["sm_90"])
    whole_net.check(large)
    whole_net.limit(BY_NAME["sm_75"])
    assert not whole_net.run(large, problem(large)).done
    assert not whole_net.launches


@pytest.mark.covering(1, alike=True)
@KIND
@pytest.mark.parametrize(
    "case",
    [Case(widths=(129,)), Case(dim=129), Case(widths=(4,) * 9), Case(samples=0), Case(precision="tf32", dtype=F32)],
    ids=["wide", "wide entrance", "deep", "empty", "tf32"],
)
def test_what_it_is_not_for(whole_net: WholeNet, case: Case, kind: str) -> None:
    case = case.with_(kind=kind)
    found = whole_net.run(case, problem(case))
    assert not found.done
    assert not whole_net.launches
    assert all(bool(t.isnan().all()) for t in found.tensors), "something was written"


@KIND
@VR
def test_the_same_bits_again(whole_net: WholeNet, vr: bool, kind: str) -> None:
    case = Case(widths=(9, 6), samples=17, count=3, variance_reduced=vr, dtype=F32, kind=kind)
    p = problem(case)
    first, *others = (whole_net.run(case, p) for _ in range(3))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first.tensors, other.tensors, strict=True))


@KIND
@VR
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows(whole_net: WholeNet, value: float, vr: bool, kind: str) -> None:
    for name in ("softplus", "tanh", "sigmoid", "relu"):
        case = Case(activations=name, samples=5, variance_reduced=vr, kind=kind)
        for place in ("x", "weight", "readout"):
            p = problem(case)
            with torch.no_grad():
                if place == "x":
                    p.x[2, 1] = value
                else:
                    p.net.linears[0 if place == "weight" else -1].weight[0, 1] = value
            jacobian, _, loss, *_ = whole_net.run(case, p).tensors
            assert loss.isnan().all(), f"{name}, {place}"
            assert jacobian.isnan().tolist() == [place != "x" or b == 2 for b in range(5)], f"{name}, {place}"
