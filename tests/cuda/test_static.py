"""What nvcc compiles the kernels to on every architecture: resources, occupancy, wide accesses, tensor cores."""

from __future__ import annotations

import ctypes
import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.harness import libraries, toolkit
from tests.cuda.harness.architectures import ARCHITECTURES, BY_NAME, Architecture, occupancy
from tests.cuda.harness.machine_code import count, instructions, resources
from tests.cuda.harness.machines import ACCESS, KERNELS
from tests.cuda.harness.ptx.syntax import parse

NVCC, DISASSEMBLER = toolkit.program("nvcc"), toolkit.program("cuobjdump")
COMPILES = pytest.mark.skipif(NVCC is None, reason=toolkit.ABSENT.format("nvcc"))
DISASSEMBLES = pytest.mark.skipif(not (NVCC and DISASSEMBLER), reason=toolkit.ABSENT.format("cuobjdump"))
EACH = pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=pytest.mark.slow, id=a.name) for a in ARCHITECTURES]
)  # nvcc takes most of a minute for each

FITTED = r"small_(objective|score)_"  # take as much shared memory as the device has
PRODUCTS = {
    "product_tf32": 36864,
    "product_bf16": 36864,
    "product_split": 98304,
    "product_up": 98304,
}  # bytes of shared memory, of gemm.cpp
PRODUCT = PRODUCTS["product_tf32"]
TENSOR_CAPABILITY = 80  # of a device that runs them
LOADS = rf"(up_\w+|down|down_score|chain|curve|score_seed|given|weighted_sum|finish|\w+_top|leave)_|{FITTED}"
OPERANDS = r"(rademacher|enter|up_\w+|down|down_score|chain|curve|given|score_seed|terms_top)_"  # of products
STORES = rf"{OPERANDS}|weighted_sum_"
# reducing a large argument of the sine takes a table in local memory
TRIGONOMETRIC = rf"(up_sin|down|down_score|chain|curve)_|product_up|{FITTED}"


@cache
def threads() -> dict[str, int]:
    """Return the most threads that a block of each kernel has."""
    return {f.name: f.threads for f in parse(toolkit.ptx(KERNELS, 80)).functions if f.kernel}


def shared(kernel: str, architecture: Architecture) -> int:
    """Return the most shared memory that the host asks for."""
    if re.match(FITTED, kernel):
        return architecture.shared_per_block
    return PRODUCTS.get(kernel, threads()[kernel] * ACCESS)


@COMPILES
@EACH
def test_every_kernel_is_there_and_none_spills(architecture: Architecture) -> None:
    found = resources(architecture.name)
    assert found.keys() == threads().keys()
    assert {name: kernel for name, kernel in found.items() if kernel.spilled} == {}


@COMPILES
@EACH
def test_stacks_are_those_of_trigonometry_alone(architecture: Architecture) -> None:
    assert {
        n for n, kernel in resources(architecture.name).items() if kernel.stack and not re.match(TRIGONOMETRIC, n)
    } == set()


@COMPILES
@EACH
def test_a_multiprocessor_holds_a_block_of_every_kernel(architecture: Architecture) -> None:
    for name, kernel in resources(architecture.name).items():
        if name in PRODUCTS and architecture.capability < TENSOR_CAPABILITY:
            continue
        bytes_shared = shared(name, architecture)
        assert bytes_shared <= architecture.shared_per_block, name
        assert occupancy(architecture, threads()[name], kernel.registers, bytes_shared) >= 1, (name, kernel)


@COMPILES
@EACH
def test_pointwise_kernels_keep_a_quarter_of_the_threads(architecture: Architecture) -> None:
    """Memory is read fast only where enough threads wait for it."""
    for name, kernel in resources(architecture.name).items():
        if not name.startswith("small") and name not in PRODUCTS:
            blocks = occupancy(architecture, threads()[name], kernel.registers, shared(name, architecture))
            assert 4 * blocks * threads()[name] >= architecture.threads, (name, kernel, blocks)


@DISASSEMBLES
@EACH
def test_local_memory_is_touched_by_trigonometry_alone(architecture: Architecture) -> None:
    code = instructions(architecture.name)
    local = {name for name, kernel in code.items() if count(kernel, "LDL") or count(kernel, "STL")}
    assert {name for name in local if not re.match(TRIGONOMETRIC, name)} == set()


@DISASSEMBLES
@EACH
def test_rows_are_read_and_written_16_bytes_at_a_time(architecture: Architecture) -> None:
    code = instructions(architecture.name)
    assert {n for n, kernel in code.items() if re.match(LOADS, n) and not count(kernel, "LDG", "128")} == set()
    assert {n for n, kernel in code.items() if re.match(STORES, n) and not count(kernel, "STG", "128")} == set()


@DISASSEMBLES
@EACH
def test_operands_in_bfloat16_are_written_in_whole_packs(architecture: Architecture) -> None:
    code = instructions(architecture.name)
    rows = {n for n in code if re.match(rf"{OPERANDS}float", n) and not n.startswith("rademacher_b")}
    assert {n for n in rows if not count(code[n], "STG", "64")} == set()
    assert {"up_softplus_float", "rademacher_float"} <= rows
    assert count(code["narrow_weights"], "STG", "128") >= 1


@DISASSEMBLES
@EACH
def test_tensor_cores_work_where_asked_and_nowhere_else(architecture: Architecture) -> None:
    code = instructions(architecture.name)
    formats = dict.fromkeys(PRODUCTS, "BF16") | {"product_tf32": "TF32"}
    formats = formats if architecture.capability >= TENSOR_CAPABILITY else {}
    products = {name: [i for i in kernel if i.split(".")[0].endswith("MMA")] for name, kernel in code.items()}
    for name, word in formats.items():
        assert sum(code[name][i] for i in products[name] if word in i) >= 16, code[name]
    assert {name for name, found in products.items() if found and name not in formats} == set()


@DISASSEMBLES
@EACH
def test_split_products_copy_and_load_as_tensor_cores_need_it(architecture: Architecture) -> None:
    """Asynchronous copies of 16 bytes, and loads of whole fragments in both directions: never number by number."""
    if architecture.capability >= TENSOR_CAPABILITY:
        kernel = instructions(architecture.name)["product_split"]
        assert count(kernel, "LDGSTS", "128") >= 4
        assert count(kernel, "LDSM", "M88", "4") >= 36
        assert count(kernel, "LDSM", "MT88", "4") >= 36
        assert count(kernel, "LDS", "128") >= 16  # of what is split, at once
        assert count(kernel, "STS", "64") == count(kernel, "STS") > 0


@DISASSEMBLES
@pytest.mark.slow
def test_the_disassembler_is_read_rightly() -> None:
    code = instructions("sm_80")
    assert code.keys() == threads().keys()
    assert count(code["product_tf32"], "BAR") >= 1
    assert all(count(kernel, "EXIT") for kernel in code.values())


def toolkit_occupancy() -> Any:
    """Return NVIDIA's own function, or skip where its header is not there."""
    assert NVCC is not None
    homes = (NVCC.parents[1], NVCC.resolve().parents[1], Path("/usr/local/cuda"))
    headers = [home / "include" for home in homes if (home / "include" / "cuda_occupancy.h").exists()]
    if not headers:
        pytest.skip("cuda_occupancy.h was not found beside nvcc")
    source = libraries.HERE / "occupancy.cpp"
    command = [*libraries.COMPILER, "-shared", "-fPIC", "-w", f"-I{headers[0]}", source]
    path = libraries.made("occupancy", [source], command, ".so")
    return ctypes.CDLL(str(path)).fastssm_occupancy


@COMPILES
@EACH
def test_occupancy_is_that_of_the_toolkit(architecture: Architecture) -> None:
    a, reference = architecture, toolkit_occupancy()
    device = (a.capability, a.threads, a.shared, a.shared_per_block, a.reserved_shared)
    limits = (0, 1, 4096, PRODUCT, 50000, a.shared_per_block - 1, a.shared_per_block)
    for block in itertools.product((32, 96, 128, 256, 512, 1024), (16, 32, 40, 63, 64, 96, 128, 168, 255), limits):
        assert occupancy(a, *block) == max(0, reference(*device, *block)), block


def test_limits_are_known_for_every_architecture_that_is_built() -> None:
    built = toolkit.described()["architectures"]
    assert [f"sm_{capability}" for capability in built] == list(BY_NAME)
