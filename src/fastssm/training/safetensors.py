"""Read and write named tensors in the format of safetensors, which holds numbers and no code.

Eight bytes with the length of the header, little endian; the header in JSON, which gives each tensor's type, shape and
range of bytes; the bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes, as in the reference implementation


class FormatError(ValueError):
    """The bytes are not a file of safetensors; the message says why, without the name of the file."""


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file of tensors by name; each is copied to the CPU."""
    header: dict[str, Any] = {}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(data)],
        }
        parts.append(data)
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        FormatError: if the bytes are not such a file.
    """
    header, body = _header(data)
    found: dict[str, Tensor] = {}
    covered = 0
    for name, entry in sorted(header.items(), key=lambda item: _start(*item)):
        dtype, shape, begin, end = _entry(name, entry)
        if begin != covered or end > len(body):
            raise FormatError(f"the bytes of {name!r} overlap others, leave a gap or end after the file")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"{name!r} has {end - begin} bytes for shape {tuple(shape)} of {dtype}")
        raw = torch.from_numpy(np.frombuffer(body, np.uint8, end - begin, begin).copy())
        found[name] = (raw.view(dtype) if len(raw) else raw.to(dtype)).reshape(shape)
        covered = end
    if covered != len(body):
        raise FormatError(f"{len(body) - covered} bytes follow the last tensor")
    return found


def _header(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        raise FormatError(f"it has {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise FormatError(f"its header should have {length} bytes, more than the file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its header is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise FormatError("its header is not an object")
    header.pop("__metadata__", None)
    return header, memoryview(data)[8 + length :]


def _start(name: str, entry: Any) -> tuple[int, int]:
    """Return where a tensor begins and ends; an empty one comes before what begins at the same byte."""
    _, _, begin, end = _entry(name, entry)
    return begin, end


def _entry(name: str, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
    """Return type, shape and range of one tensor, with every value of the right kind."""
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise FormatError(f"{name!r} has no type that is known here ({', '.join(TYPES)})")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{name!r} needs a shape and two offsets of whole numbers from 0 on")
    return TYPES[dtype], shape, offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
