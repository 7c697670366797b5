"""How the CUDA engine is built: by whom, for what, and what is said where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import native_build
import pytest
import torch
from native_build import Build, NotBuilt, description, program

import fastssm
from fastssm import backends
from fastssm.backends import choice, cuda
from fastssm.native import cuda_library, extension

ROOT = Path(__file__).parents[1]


def compiler(folder: Path, version: str) -> Path:
    """Write a program that says it is nvcc."""
    program = folder / "nvcc"
    folder.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release 1, V{version}'\n")
    program.chmod(0o755)
    return program


def described() -> dict[str, list[str]]:
    try:
        return description()
    except NotBuilt as reason:
        if "there is no cmake" in str(reason):
            pytest.skip(str(reason))
        raise


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Hide every nvcc of this machine but that of /usr/local/cuda, and have Python's packages in `site`."""
    described()
    for name in ("NVCC", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    cmake = program("cmake")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(native_build, "program", lambda name: cmake)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{tmp_path}/site'\n")
    python.chmod(0o755)
    monkeypatch.setattr(native_build.sys, "executable", str(python))
    return monkeypatch


def test_nvcc_is_found_in_order(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert described()["cuda_folders"][-1] == "/usr/local/cuda/bin"
    for named, place in (
        ("PATH", "site/nvidia/cu12/bin"),
        ("PATH", "site/nvidia/cu13/bin"),
        ("PATH", "path"),
        ("CUDA_PATH", "toolkit/bin"),
        ("CUDA_HOME", "home/bin"),
        ("NVCC", "named"),
    ):
        path = compiler(tmp_path / place, "13.0.1")
        if not place.startswith("site"):
            nowhere.setenv(named, {"PATH": str(path.parent), "NVCC": str(path)}.get(named, str(path.parents[1])))
        assert described()["nvcc"] == [str(path)]
    nowhere.setenv("NVCC", "no-such-compiler")
    assert described()["nvcc"] == []


LISTS = [
    ("", "75 80 86 89 90 100 120+PTX"),
    ("8.0", "80"),
    ("8.6 7.5+PTX", "75+PTX 86"),
    ("9.0a;8.0,12.0+PTX", "80 90 120+PTX"),
    ("Ampere Hopper", "80 86 90"),
    ("9.0 9.0+PTX 10.0", "90+PTX 100"),
]


@pytest.mark.parametrize(("listed", "expected"), LISTS)
def test_the_list_of_architectures(monkeypatch: pytest.MonkeyPatch, listed: str, expected: str) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert described()["chosen_architectures"] == expected.split()


def test_a_list_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 sm_90")
    with pytest.raises(NotBuilt, match=r"^TORCH_CUDA_ARCH_LIST holds 'sm_90'; write numbers like 8.0, the last .*PTX$"):
        described()


def test_the_options_of_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 12.0+PTX")
    assert described()["targets"] == [
        *("-gencode", "arch=compute_80,code=[sm_80]"),
        *("-gencode", "arch=compute_120,code=[sm_120,compute_120]"),
    ]


def configured(choice: str, folder: Path, **variables: str) -> Build:
    """Return what builds beside this torch, or skip where no C++ compiler does."""
    try:
        return Build(choice, folder, **variables)
    except NotBuilt as reason:
        if reason.what == "the CUDA engine":
            raise
        pytest.skip(str(reason))


def test_what_is_built_for_which_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = configured("auto", tmp_path, TORCH_CUDA="").facts
    assert built["cuda"] == {
        "reason": f"torch {torch.__version__} is built without CUDA; FASTSSM_BUILD=cuda builds it all the same"
    }
    assert Build("cpu", tmp_path).facts["cuda"] == {"reason": "FASTSSM_BUILD=cpu asked for the CPU engine alone"}
    for_later = Build("auto", tmp_path, TORCH_CUDA="13.0").facts["cuda"]  # no nvcc: NVRTC compiles later
    assert for_later == {"torch": "2.10", "compiler": built["compiler"]}
    monkeypatch.setenv("NVCC", str(compiler(tmp_path / "named", "13.0.1")))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    asked_for = Build("cuda", tmp_path, TORCH_CUDA="").facts["cuda"]
    assert asked_for == {**for_later, "nvcc": "13.0.1", "architectures": ["80", "90+PTX"]}
    monkeypatch.setenv("NVCC", "no-such-compiler")
    with pytest.raises(NotBuilt, match=r"^there is no nvcc; it was looked for in CUDA_HOME, on the PATH and among"):
        Build("cuda", tmp_path)


def test_an_older_torch_has_no_cuda_engine(tmp_path: Path) -> None:
    built = configured("auto", tmp_path, TORCH_VERSION="2.9.1", TORCH_CUDA="12.6").facts
    assert built["cuda"] == {"reason": "torch 2.9.1 cannot have it; it takes torch 2.10 or later"}


def test_cuda_that_was_asked_for_fails_before_anything_is_compiled(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "77")
    configured("cpu", tmp_path / "trial")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    command += ["build", "--build-base", str(tmp_path)]
    environment = {**os.environ, "FASTSSM_BUILD": "cuda", "NVCC": "no-such-compiler"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "fastssm: the CUDA engine was not built: there is no nvcc; " in done.stderr
    assert not list(tmp_path.rglob("_C*.so"))


# --- what is said of it ---

BUILT = {"torch": "2.10", "compiler": "c++ 1.2", "nvcc": "13.0.1", "architectures": ["80", "120+PTX"]}


def opened(monkeypatch: pytest.MonkeyPatch, record: dict[str, object], with_cuda: str | None = "13.0") -> str:
    monkeypatch.setattr(torch.version, "cuda", with_cuda)
    monkeypatch.setattr(cuda_library, "open_library", lambda path: Opened)
    return cuda_library._open(record)[1]


class Opened:
    """A library that finds all it needs, unless `lacking` says otherwise."""

    lacking: bytes | None = None

    @classmethod
    def fastssm_missing_symbol(cls) -> bytes | None:
        return cls.lacking


def test_the_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, {"cuda": BUILT}) == (
        "the cuda engine is loaded: kernels for sm_80, sm_120 and later by nvcc 13.0.1; library by c++ 1.2, for torch "
        "2.10 and later"
    )
    without = {key: BUILT[key] for key in ("torch", "compiler")}
    assert "kernels by NVRTC at the first call on a device" in opened(monkeypatch, {"cuda": without})
    assert opened(monkeypatch, {"cuda": BUILT}, None).endswith(" is running, which is built without CUDA")
    for record in ({"cuda": {"reason": "no nvcc"}}, {"reason": "no nvcc"}):
        assert opened(monkeypatch, record) == "the cuda engine is not built: no nvcc"
    assert opened(monkeypatch, {"torch": "2.13.0"}) == "the cuda engine is not built: it was left out"
    monkeypatch.setattr(Opened, "lacking", b"its_product")
    assert opened(monkeypatch, {"cuda": BUILT}).endswith(" does not export its_product, which the cuda engine calls")
    monkeypatch.setattr(cuda_library, "OLDEST_TORCH", (99, 0))
    assert "is built for torch 99.0 and later, but " in opened(monkeypatch, {"cuda": BUILT})


def test_a_library_that_cannot_be_loaded_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(extension.OFF, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(extension, "RECORD", tmp_path / "_build.json")
    extension.RECORD.write_text(json.dumps({"cuda": BUILT}))
    monkeypatch.setattr(cuda_library, "LIBRARY", tmp_path / "_cuda.so")
    library, sentence = cuda_library._load.__wrapped__()
    assert library is None
    assert sentence.startswith("the cuda engine cannot be loaded (OSError: ")
    monkeypatch.setenv(extension.OFF, "1")
    assert cuda_library._load.__wrapped__() == (None, "the cuda engine is switched off by FASTSSM_NO_NATIVE=1")


# --- the kernels of a device ---


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A device of capability 8.0 without a GPU; what the library says to each file is in "answers"."""
    state: dict[str, object] = {"answers": {}, "asked": [], "capturing": False}

    class Library:
        @staticmethod
        def fastssm_load_kernels(index: int, path: bytes) -> bytes | None:
            state["asked"].append(Path(path.decode()).name)
            return state["answers"].get(Path(path.decode()).name)

    monkeypatch.setattr(cuda_library, "_unready", {})
    monkeypatch.setattr(cuda_library, "_library", Library)
    monkeypatch.setattr(cuda_library, "capability", lambda device: 80)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    monkeypatch.setattr(cuda_library, "IMAGE", tmp_path / "_kernels.fatbin")
    monkeypatch.setattr(cuda_library, "SOURCE", tmp_path / "_kernels.cu")
    monkeypatch.setattr(cuda_library.nvrtc, "kernels", lambda source, capability: tmp_path / f"{source}-{capability}")
    cuda_library.IMAGE.touch()
    cuda_library.SOURCE.write_text("source")
    return state


FIRST = torch.device("cuda", 0)


def test_kernels_of_nvcc_come_first_and_once(device: dict[str, object]) -> None:
    assert cuda_library.unready(FIRST) == cuda_library.unready(FIRST) == []
    assert device["asked"] == ["_kernels.fatbin"]
    assert cuda_library.unready(torch.device("cuda", 1)) == []
    assert len(device["asked"]) == 2


def test_kernels_of_nvrtc_where_nvcc_made_none_for_the_device(device: dict[str, object]) -> None:
    device["answers"]["_kernels.fatbin"] = b"no binary for this GPU"
    assert cuda_library.unready(FIRST) == []
    assert device["asked"] == ["_kernels.fatbin", "source-80"]


def test_why_there_are_no_kernels(device: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    device["answers"] = {"_kernels.fatbin": b"no binary", "source-80": b"no memory"}
    assert cuda_library.unready(FIRST) == ["device 0 has no kernels: no binary; nor by NVRTC: no memory"]
    monkeypatch.setattr(cuda_library, "_unready", {})
    cuda_library.IMAGE.unlink()
    cuda_library.SOURCE.unlink()
    (reason,) = cuda_library.unready(FIRST)
    assert reason.startswith(
        "device 0 has no kernels: they were not compiled by nvcc (_kernels.fatbin is missing); nor"
    )


def test_kernels_are_not_loaded_during_a_capture(device: dict[str, object]) -> None:
    device["capturing"] = True
    assert "the stream is being captured" in cuda_library.unready(FIRST)[0]
    device["capturing"] = False
    assert cuda_library.unready(FIRST) == []  # nothing was remembered


def test_the_library_asks_python_for_kernels(device: dict[str, object]) -> None:
    import ctypes

    answer = ctypes.create_string_buffer(b"?" * 10, 11)
    cuda_library._on_kernels_needed(0, ctypes.addressof(answer), 11)
    assert answer.value == b""
    device["answers"] = {"_kernels.fatbin": b"a", "source-80": b"b"}
    cuda_library._on_kernels_needed(1, ctypes.addressof(answer), 11)
    assert answer.value == b"device 1 h"  # cut to fit


# --- which backend runs ---


def test_the_reasons_of_the_cuda_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = cuda.Cuda()
    backend.unbuilt = []
    monkeypatch.setitem(backends.BACKENDS, "cuda", backend)
    x, net = torch.randn(3, 2), fastssm.nn.MLP(2, [4])
    assert fastssm.explain(net, x).reasons["cuda"] == ["x is on cpu, the cuda engine runs on CUDA tensors"]
    request = backends.make_request(net.double(), x.double(), precision="tf32")
    assert any('"tf32" is for float32' in reason for reason in backend.unsupported(request, "objective"))
    if not torch.cuda.is_available():
        assert backend.missing() == [cuda_library.NO_DEVICE]


def test_tf32_is_for_gpus() -> None:
    reasons = fastssm.explain(fastssm.nn.MLP(2, [4]), torch.randn(3, 2)).reasons
    assert "cuda" in reasons
    with pytest.raises(fastssm.UnsupportedError) as raised:
        fastssm.sliced_loss(fastssm.nn.MLP(2, [4]), torch.randn(3, 2), precision="tf32")
    if extension.module() is not None:
        assert "tensor cores of a GPU" in str(raised.value)


def test_a_compiled_graph_looks_past_the_cuda_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = cuda.Cuda()
    backend.unbuilt = []
    monkeypatch.setattr(choice, "_READY", (backend, *choice._READY))
    net, x = fastssm.nn.MLP(2, [4]), torch.randn(3, 2)
    v = torch.ones_like(x)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return fastssm.sliced_loss(net, x, v=v)

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="eager")(x), loss(x))
