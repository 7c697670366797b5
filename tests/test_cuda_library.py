"""The CUDA engine's library and its fat binary, built and opened on a machine without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_build import CUDA_OUTPUTS, Build, NotBuilt, description, program

from fastssm.native import cuda_library, extension

ROOT = Path(__file__).parents[1]


def configured(choice: str, folder: Path, **variables: str) -> Build:
    """Return what builds the engine in a folder of its own, or skip."""
    try:
        return Build(choice, folder, **variables)
    except NotBuilt as reason:
        pytest.skip(str(reason))


REGISTERED = """
import ctypes, sys, torch, fastssm
from fastssm.native import cuda_library
from pathlib import Path
if sys.argv[2:]:
    ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_GLOBAL)
library = cuda_library.open_library(Path(sys.argv[1]))
names = ("objective", "terms", "terms_backward")
print((library.fastssm_missing_symbol() or b"nothing").decode())
print(*(torch._C._dispatch_has_kernel_for_dispatch_key(f"fastssm::{name}", "CUDA") for name in names))
print(library.fastssm_load_kernels(0, b"no such file").decode())
print(library.fastssm_load_kernels(0, sys.argv[1].encode()).decode())
"""
WEAK = [
    *("aoti_torch_cuda_addmm_out", "aoti_torch_get_current_cuda_stream"),
    *("torch_exception_get_what_without_backtrace", "torch_get_current_cuda_blas_handle"),
]
GENERATED = Path(torch.__file__).parent / "include/torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h"


def symbols(library: Path) -> list[str]:
    return subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout.splitlines()


def needed(library: Path) -> list[str]:
    """Return the libraries that the dynamic linker will load with this one."""
    listed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", listed)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's library, by the C++ compiler alone, linked beside the torch of these tests."""
    if not (ROOT / "csrc").exists():
        pytest.skip("needs the sources")
    folder = tmp_path_factory.mktemp("engine")
    build = configured("auto", folder / "build", TORCH_CUDA="13.0")
    assert "nvcc" not in build.facts["cuda"]  # NVRTC compiles later
    assert build.build_cuda(folder) == ["_cuda.so", "_kernels.cu"]
    return folder / "_cuda.so"


def opened_alone(library: Path, *more: Path) -> list[str]:
    """Open the library in a new process, after other libraries, and return what it says."""
    command = [sys.executable, "-c", REGISTERED, *map(str, (library, *more))]
    environment = {**os.environ, "FASTSSM_NO_NATIVE": "1"}  # an engine that is installed would be there already
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow  # as is the next: the engine is compiled
def test_the_library_leads_to_the_products_of_a_torch_with_cuda(library: Path) -> None:
    """It needs nothing of CUDA itself, but libtorch.so, whichever torch it was linked beside."""
    assert {"libtorch.so", "libtorch_cpu.so"} <= set(needed(library))
    assert not [name for name in needed(library) if "cuda" in name]
    weak = [line.split()[1] for line in symbols(library) if line.split()[0] == "w" and "torch_" in line]
    assert sorted(weak) == WEAK  # which not every torch has
    (declared,) = re.findall(r"\baoti_torch_cuda_addmm_out\((.*)\);", GENERATED.read_text())
    assert [word.split()[0] for word in declared.split(", ")] == ["AtenTensorHandle"] * 4 + ["double"] * 2


@pytest.mark.slow
def test_a_missing_symbol_is_a_sentence_and_no_operator(library: Path, tmp_path: Path) -> None:
    """A torch without CUDA has neither function; with stubs of both, the operators are there."""
    stubs = tmp_path / "stubs.c"
    stubs.write_text("".join(f"int {name}() {{ return 1; }}\n" for name in WEAK[:2]))
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-xc", "-shared", "-fPIC", stubs, "-o", tmp_path / "s.so"], check=True)
    lacking, registered, absent, refused = opened_alone(library)
    assert absent == "there is no file no such file"
    if torch.version.cuda is None:
        assert (lacking, registered) == (WEAK[0], "False False False")
        lacking, registered, _, refused = opened_alone(library, tmp_path / "s.so")
    assert (lacking, registered) == ("nothing", "True True True")
    if not torch.cuda.is_available():
        assert "NVIDIA driver cannot be opened" in refused or " failed: " in refused


def nvcc_or_skip() -> str:
    try:
        program("ninja")
        return description()["nvcc"][0]
    except (NotBuilt, IndexError):
        pytest.skip("there is no nvcc, or no CMake and Ninja")


FAT = (0xBA55ED50).to_bytes(4, "little")  # what the driver knows a fat binary by
RECORDED = extension.record().get("cuda", {})


@pytest.mark.skipif("architectures" not in RECORDED, reason="this package was built without CUDA kernels")
def test_what_was_built_is_installed() -> None:
    """As `make wheel BUILD=cuda` builds it: the library, and the kernels where the driver will be told to look."""
    assert cuda_library.LIBRARY.exists()
    assert cuda_library.IMAGE.read_bytes()[:4] == FAT
    assert [a.split("+")[0] for a in RECORDED["architectures"]] == description()["architectures"]
    assert RECORDED["architectures"][-1].endswith("+PTX")


@pytest.mark.slow  # nvcc takes a minute for all kernels
@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the sources")
def test_the_fat_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As FASTSSM_BUILD=cuda builds it into a wheel, for the oldest architecture, with PTX for what comes later."""
    nvcc = Path(nvcc_or_skip())
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5+PTX")
    build = configured("cuda", tmp_path / "build")
    assert build.build_cuda(tmp_path) == list(CUDA_OUTPUTS)
    assert build.facts["cuda"]["architectures"] == ["75+PTX"]
    assert (tmp_path / "_kernels.fatbin").read_bytes()[:4] == FAT
    lister = nvcc.with_name("cuobjdump")
    if lister.exists():
        command = [lister, "-lelf", "-lptx", tmp_path / "_kernels.fatbin"]
        listed = subprocess.run(command, capture_output=True, text=True)
        assert re.findall(r"sm_\d+\.\w+", listed.stdout) == ["sm_75.cubin", "sm_75.ptx"]


@pytest.mark.slow
def test_cmake_compiles_the_kernels(tmp_path: Path) -> None:
    environment = {**os.environ, "NVCC": nvcc_or_skip()}
    cmake = program("cmake")
    configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", "-S", str(ROOT), "-B", str(tmp_path)]
    subprocess.run(configure, check=True, capture_output=True, env=environment)
    build_target = [cmake, "--build", str(tmp_path), "--target"]
    done = subprocess.run([*build_target, "kernels_120"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ptxas info    : Compiling entry function" in done.stdout + done.stderr
    assert (tmp_path / "kernels_120.cubin").read_bytes()[:4] == b"\x7fELF"
    listed = subprocess.run([*build_target, "help"], capture_output=True, text=True)
    expected = {"kernels", *(f"kernels_{a}" for a in description()["architectures"])}
    assert expected <= set(re.findall(r"\bkernels\w*\b", listed.stdout))
