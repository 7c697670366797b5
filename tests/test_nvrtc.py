"""Kernels compiled at run time: by NVRTC itself for every architecture, and the cache around it."""

from __future__ import annotations

import fcntl
import multiprocessing
import re
import sys
import time
from pathlib import Path

import pytest

from fastssm.native import nvrtc
from tools.amalgamate import amalgamate
from tools.native_build import description

ROOT = Path(__file__).parents[1]
BUILT = description()
ARCHITECTURES = [int(capability) for capability in BUILT["architectures"]]
*OTHERS, NEWEST = ARCHITECTURES  # which has every kernel
KERNELS = Path(BUILT["cuda_kernels"][0])
SOURCE = """#include <cmath>
#include <cstdint>
#include <cstring>
extern "C" __global__ void f(double* p, const int64_t n) {
  if (int64_t(threadIdx.x) < n) p[threadIdx.x] = std::fabs(p[threadIdx.x]);
}
"""


def found() -> str:
    """Return why there is no NVRTC; empty if there is."""
    try:
        nvrtc.nvrtc()
    except nvrtc.NvrtcError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif("found()", reason="there is no libnvrtc; the extra [cuda-test] brings one")


# --- the compiler ---


@needs_nvrtc
@pytest.mark.parametrize("capability", [NEWEST, *(pytest.param(a, marks=pytest.mark.slow) for a in OTHERS)])
def test_the_kernels_compile_for_every_architecture(capability: int) -> None:
    compiler, quick = nvrtc.nvrtc(), (*nvrtc.OPTIONS, "--Ofast-compile=max")
    image = compiler.compile(amalgamate(KERNELS, ROOT), compiler.target(capability), quick)
    assert image.architecture == f"sm_{capability}"
    assert image.content.startswith(b"\x7fELF")
    defined = set(re.findall(rb"\.text\.(\w+)", image.content))
    assert {b"up_softplus_float", b"up_sin_double", b"down_float", b"total_double"} <= defined


@needs_nvrtc
@pytest.mark.slow
def test_the_kernels_compile_as_they_do_at_run_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(nvrtc.CACHE, str(tmp_path))
    assert nvrtc.kernels(amalgamate(KERNELS, ROOT), 75).read_bytes().startswith(b"\x7fELF")


@needs_nvrtc
def test_the_names_of_the_standard_library_are_there() -> None:
    assert nvrtc.nvrtc().compile(SOURCE, "sm_80").content.startswith(b"\x7fELF")
    assert b".entry f(" in nvrtc.nvrtc().compile(SOURCE, "compute_80").content


@needs_nvrtc
def test_what_does_not_compile_says_where() -> None:
    with pytest.raises(nvrtc.NvrtcError, match=r"cannot compile for sm_80: (.|\n)*csrc/f.cuh\(7\): error"):
        nvrtc.nvrtc().compile('#line 7 "csrc/f.cuh"\nnonsense\n', "sm_80")
    with pytest.raises(nvrtc.NvrtcError, match="sm_12"):
        nvrtc.nvrtc().compile(SOURCE, "sm_12")


class Known(nvrtc.Nvrtc):
    """A compiler that only knows some architectures."""

    def __init__(self) -> None:
        self.version = (13, 0)

    def architectures(self) -> list[int]:
        return [75, 80, 90]


@pytest.mark.parametrize(
    ("capability", "target"), [(80, "sm_80"), (86, "compute_80"), (120, "compute_90"), (70, "sm_70")]
)
def test_the_target_of_a_device(capability: int, target: str) -> None:
    assert Known().target(capability) == target


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libnvrtc.so").write_text("no library")
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter([str(tmp_path / "libnvrtc.so"), str(tmp_path / "none")]))
    with pytest.raises(nvrtc.NvrtcError, match=r"no libnvrtc. fastssm looked beside .* `pip install"):
        nvrtc.nvrtc.__wrapped__()


def test_candidates_lie_beside_torch_in_a_toolkit_and_on_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place in ("site/nvidia/cu13/lib/libnvrtc.so.13", "home/lib64/libnvrtc.so"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "site")])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda name: f"lib{name}.so.12")
    every = list(nvrtc.candidates())
    assert every[:2] == [
        str(tmp_path / "site/nvidia/cu13/lib/libnvrtc.so.13"),
        str(tmp_path / "home/lib64/libnvrtc.so"),
    ]
    assert every[-1] == "libnvrtc.so.12"


# --- the cache ---


class Counting(Known):
    """Says how often it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.calls, self.seconds = 0, seconds

    def compile(self, source: str, architecture: str) -> nvrtc.Image:
        self.calls += 1
        time.sleep(self.seconds)
        return nvrtc.Image(f"{architecture} {source}".encode(), architecture)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counting:
    counting = Counting()
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: counting)
    monkeypatch.setenv(nvrtc.CACHE, str(tmp_path / "cache"))
    return counting


def test_kernels_are_compiled_once_for_source_architecture_and_version(compiler: Counting) -> None:
    path = nvrtc.kernels("a", 80)
    assert path.read_text() == "sm_80 a"
    assert nvrtc.kernels("a", 80) == path
    assert compiler.calls == 1
    others = {nvrtc.kernels("b", 80), nvrtc.kernels("a", 75), path}
    compiler.version = (13, 1)
    others.add(nvrtc.kernels("a", 80))
    assert (len(others), compiler.calls) == (4, 4)


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: Counting) -> None:
    assert nvrtc.kernels("a", 80).parent == tmp_path / "cache"
    monkeypatch.delenv(nvrtc.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert nvrtc.kernels("a", 80).parent == tmp_path / "home/fastssm"
    (tmp_path / "file").touch()
    monkeypatch.setenv(nvrtc.CACHE, str(tmp_path / "file/below"))  # cannot be made
    assert nvrtc.kernels("a", 80).read_text() == "sm_80 a"


def test_a_lock_left_behind_does_not_hang(compiler: Counting) -> None:
    path = nvrtc.kernels("a", 80)
    assert path.with_suffix(".lock").exists()  # as after a crash
    path.unlink()
    begin = time.monotonic()
    assert nvrtc.kernels("a", 80) == path
    assert time.monotonic() - begin < nvrtc.PATIENCE / 2
    assert compiler.calls == 2


def test_a_lock_that_is_held_is_waited_for_only_so_long(compiler: Counting) -> None:
    path = nvrtc.kernels("a", 80)
    path.unlink()
    with open(path.with_suffix(".lock")) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert nvrtc.kernels("a", 80, patience=0.1).exists()
    assert compiler.calls == 2


def _compile(folder: str, asked: object) -> None:
    counting = Counting(seconds=0.5)
    nvrtc.nvrtc, nvrtc.cache = lambda: counting, lambda: Path(folder)  # type: ignore[assignment]
    nvrtc.kernels("a", 80)
    asked.put(counting.calls)  # type: ignore[attr-defined]


def test_of_two_processes_one_compiles(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    asked = context.Queue()
    workers = [context.Process(target=_compile, args=(str(tmp_path), asked)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert sorted(asked.get(timeout=60) for _ in workers) == [0, 1]
    for worker in workers:
        worker.join()


def test_a_failure_leaves_nothing_behind(compiler: Counting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(source: str, architecture: str) -> nvrtc.Image:
        raise nvrtc.NvrtcError("no")

    monkeypatch.setattr(compiler, "compile", fail)
    with pytest.raises(nvrtc.NvrtcError, match="no"):
        nvrtc.kernels("a", 80)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


# --- the source ---


def test_one_text_of_many_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.h").write_text("#pragma once\n#include <cmath>\nint a;\n")
    (tmp_path / "below/b.cuh").write_text('#pragma once\n#include "../a.h"\nint b;\n')
    (tmp_path / "below/c.cu").write_text('// c\n#include "b.cuh"\n#include "../a.h"\nint c;\n')
    text = amalgamate(tmp_path / "below/c.cu", tmp_path)
    assert [line for line in text.splitlines() if line and line[0] not in "#/"] == ["int a;", "int b;", "int c;"]
    assert text.count("#include <cmath>") == 1
    assert '"b.cuh"' not in text
    assert '#line 3 "below/c.cu"' in text
    assert "pragma once" not in text
