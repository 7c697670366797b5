"""The CUDA engine's library, and its kernels on each device: loaded when first needed, or why they cannot be.

The library is loaded at import if PyTorch has CUDA, and uses no device. The first call on a device loads its kernels.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path
from typing import Any

import torch

from fastssm.native import extension, nvrtc

PACKAGE = Path(__file__).parents[1]
LIBRARY = PACKAGE / "_cuda.so"
IMAGE = PACKAGE / "_kernels.fatbin"  # of nvcc, for many devices
SOURCE = PACKAGE / "_kernels.cu"  # for NVRTC, in one piece
OLDEST_TORCH = (2, 10)  # whose stable interface the library is built for
NO_DEVICE = "torch sees no CUDA device"
TENSOR_CORES = 80  # the compute capability from which on tensor cores have the products of all precisions

_lock = threading.Lock()
_unready: dict[int, list[str]] = {}  # by device, once it was tried: why it has no kernels


def missing() -> list[str]:
    """Return why the engine cannot run on any device; empty if it can. It never initialises CUDA."""
    library, sentence = _load()
    return [] if library is not None else [sentence]


def status() -> str:
    """Return one clause: what is loaded, or why nothing is."""
    return _load()[1]


def unready(device: torch.device) -> list[str]:
    """Return why a device has no kernels; empty if it has them. The first call loads them."""
    if device.index is None or not torch.cuda.is_available():  # a fake tensor's
        return [NO_DEVICE]
    with _lock:
        if device.index not in _unready:
            if torch.cuda.is_current_stream_capturing():
                return ["its kernels are not loaded yet, and the stream is being captured; call it once before"]
            _unready[device.index] = _load_kernels(device.index)
        return _unready[device.index]


def capability(device: torch.device) -> int:
    """Return the compute capability of a device, 80 for 8.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def rounds(device: torch.device) -> bool:
    """Return whether the tensor cores of a device have the products of all precisions."""
    return torch.cuda.is_available() and capability(device) >= TENSOR_CORES


def _load_kernels(index: int) -> list[str]:
    """Load the kernels that nvcc compiled; if none is for this device, those of NVRTC."""
    why = _give_kernels(index, IMAGE) if IMAGE.exists() else f"they were not compiled by nvcc ({IMAGE.name} is missing)"
    if not why:
        return []
    try:
        source = SOURCE.read_text()
        why_not_nvrtc = _give_kernels(index, nvrtc.kernels(source, capability(torch.device("cuda", index))))
    except (nvrtc.NvrtcError, OSError) as error:
        why_not_nvrtc = str(error)
    return [f"device {index} has no kernels: {why}; nor by NVRTC: {why_not_nvrtc}"] if why_not_nvrtc else []


def _give_kernels(index: int, path: Path) -> str:
    """Give the library the kernels of a device; return why it rejects them."""
    why = _library().fastssm_load_kernels(index, str(path).encode())
    return why.decode(errors="replace") if why else ""


def _library() -> Any:
    library = _load()[0]
    assert library is not None
    return library


@functools.cache
def _load() -> tuple[Any, str]:
    if off := extension.switched_off():
        return None, f"the cuda engine is switched off by {off}"
    try:
        return _open(extension.record())
    except Exception as error:  # fastssm works without it
        return None, f"the cuda engine cannot be loaded ({type(error).__name__}: {error}); {extension.AGAIN}"


def _open(record: dict[str, Any]) -> tuple[Any, str]:
    built = record.get("cuda", record)
    if "reason" in built or "cuda" not in record:
        return None, f"the cuda engine is not built: {built.get('reason', 'it was left out')}"
    oldest = ".".join(map(str, OLDEST_TORCH))
    if torch.__version__ < OLDEST_TORCH:  # type: ignore[operator]  # a TorchVersion
        return None, f"the cuda engine is built for torch {oldest} and later, but {torch.__version__} is running"
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is running, which is built without CUDA"
    library = open_library(LIBRARY)
    if lacking := library.fastssm_missing_symbol():
        return None, f"torch {torch.__version__} does not export {lacking.decode()}, which the cuda engine calls"
    return library, f"the cuda engine is loaded: {described(built)}"


def described(built: dict[str, Any]) -> str:
    """Return a description of the CUDA engine from the build record."""
    wanted = ["sm_" + capability.replace("+PTX", " and later") for capability in built.get("architectures", [])]
    kernels = (
        f"kernels for {', '.join(wanted)} by nvcc {built['nvcc']}"
        if wanted
        else "kernels by NVRTC at the first call on a device"
    )
    return f"{kernels}; library by {built['compiler']}, for torch {built['torch']} and later"


def open_library(path: Path) -> Any:
    """Load the library, which registers its operators, and set the callback that loads kernels."""
    torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    library = ctypes.CDLL(str(path))
    library.fastssm_load_kernels.restype = library.fastssm_missing_symbol.restype = ctypes.c_char_p
    library.fastssm_load_kernels.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.fastssm_ask_for_kernels.argtypes = [_CALLBACK]
    library.fastssm_ask_for_kernels(_on_kernels_needed)
    return library


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


@_CALLBACK  # type: ignore[untyped-decorator]
def _on_kernels_needed(index: int, why: int, size: int) -> None:
    """Load the kernels of a device for a compiled graph that runs before any eager call, or write why not."""
    try:
        reason = "; ".join(unready(torch.device("cuda", index)))
    except Exception as error:  # the caller is C and cannot see it
        reason = f"{type(error).__name__}: {error}"
    content = reason.encode()[: size - 1] + b"\0"
    ctypes.memmove(why, content, len(content))
