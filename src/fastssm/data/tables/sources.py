"""Open a file, a compressed file or standard input, more than once and never further than is safe."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

STANDARD_INPUT = "-"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
SAFE_BYTES = 2**30  # a compressed file may always expand to this
SAFE_RATIO = 200  # and further if it expands less than this


@dataclass(frozen=True)
class Source:
    """Where the bytes of a table come from.

    Args:
        label: what to call it in messages.
        suffix: the extension that tells the format, without that of a compression.
        open: opens the bytes, decompressed, from the start.
        path: the path, for libraries that read files; None for standard input and compressed files.
    """

    label: str
    suffix: str
    open: Callable[[], IO[bytes]]
    path: Path | None = None

    def head(self, count: int = 8) -> bytes:
        """Return the first bytes."""
        with self.open() as file:
            return file.read(count)


def file_source(path: Path) -> Source:
    """Return the source of a file, decompressed if it is compressed, whatever its name.

    Raises:
        ValueError: if it does not exist or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file; pipe it to standard input, and pass - for it")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    try:
        with path.open("rb") as file:
            kind = _compression(file.read(8))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    name = PurePath(path.name)
    suffix = (PurePath(name.stem) if name.suffix.lower() in COMPRESSED else name).suffix.lower()
    if kind is None:
        if name.suffix.lower() in COMPRESSED:
            raise ValueError(f"{path}: must be a {name.suffix} file as its name says, but is not; rename it")
        return Source(str(path), suffix, lambda: path.open("rb"), path)
    size = path.stat().st_size
    return Source(str(path), suffix, lambda: decompressed(path.open("rb"), kind, size, str(path)))


def standard_input() -> Source:
    """Return the source of standard input, which is read to its end."""
    content = sys.stdin.buffer.read()
    kind = _compression(content[:8])

    def open_content() -> IO[bytes]:
        file = io.BytesIO(content)
        return file if kind is None else decompressed(file, kind, len(content), "standard input")

    return Source("standard input", "", open_content)


def _compression(head: bytes) -> str | None:
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


def decompressed(file: IO[bytes], kind: str, size: int, label: str) -> IO[bytes]:
    """Return a stream of the decompressed bytes.

    Args:
        file: the compressed bytes.
        kind: one of `COMPRESSED`.
        size: their number.
        label: what to call the file in messages.

    Raises:
        ValueError: if the compression needs a package that is absent; while reading, if the stream is damaged or
            expands beyond reason.
    """
    openers: dict[str, Callable[[IO[bytes]], Any]] = {
        ".gz": lambda inner: gzip.GzipFile(fileobj=inner),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": lambda inner: _zstandard(inner, label),
    }
    return io.BufferedReader(_Guarded(openers[kind](file), size, label, kind), 2**20)


def _zstandard(file: IO[bytes], label: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        pyarrow = None
    if pyarrow is not None:
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
    try:
        import zstandard  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"{label}: .zst files need pyarrow or zstandard; pip install pyarrow") from None
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


class _Guarded(io.RawIOBase):
    """Reads a decompressed stream and raises a plain error if it is damaged or a bomb."""

    def __init__(self, inner: Any, size: int, label: str, kind: str) -> None:
        self._inner, self._label, self._kind = inner, label, kind
        self._left = max(SAFE_BYTES, SAFE_RATIO * size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._inner.read(len(buffer))
        except Exception as error:  # OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError
            raise ValueError(f"{self._label}: damaged {self._kind} file ({error}); copy it again") from None
        self._left -= len(found)
        if self._left < 0:
            raise ValueError(
                f"{self._label}: expands more than {SAFE_RATIO}-fold, which no table does; decompress it yourself if "
                "you trust it"
            )
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._inner.close()
        super().close()
