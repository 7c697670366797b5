"""Rows in a file without a name, which vanishes with the process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Scratch:
    """Rows `[n, *shape]` that are written block by block and then mapped into memory.

    Args:
        folder: where the file lies while it exists.
        shape: shape of a row.
        dtype: type of the numbers.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self.count = 0
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".rows")  # noqa: SIM115  # open as long as it is mapped

    def append(self, rows: npt.NDArray[np.generic]) -> None:
        """Add rows `[m, *shape]`.

        Raises:
            ValueError: if the file cannot be written, such as when the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(rows, self.dtype).data)
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"{self.folder}: the rows of a streamed table cannot be written there ({error.strerror}); they take 12 "
                "bytes for each number, so choose another --out"
            ) from None
        self.count += len(rows)

    def tensor(self) -> Tensor:
        """Return all rows as a tensor `[n, *shape]`, of which the system reads what is used; changes stay in memory."""
        mapped = np.memmap(self._file, self.dtype, "c", shape=(self.count, *self.shape))
        return torch.from_numpy(mapped)
