"""Prepare a table that need not fit into memory: the rows go through files, a block at a time."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from fastssm.data.builtin import BUILTIN
from fastssm.data.dataset import Dataset, dataset_generator
from fastssm.data.files import base_name
from fastssm.data.moments import Moments
from fastssm.data.prepare import LARGEST_TEST, Prepared, Scaler, Shape, choose, fit_scaler
from fastssm.data.quality import Spread, remarks, sampled, stride
from fastssm.data.scratch import Scratch
from fastssm.data.tables import STANDARD_INPUT, ReadOptions, encode_piece, read_pieces, require_rows, survey
from fastssm.data.tables.encode import MINIMUM_ROWS, counting_note

BLOCK_CELLS = 2**17


def stream(
    source: str | Path,
    options: ReadOptions | None = None,
    *,
    folder: str | Path | None = None,
    scale: str | None = None,
    noise: float | None = None,
) -> Prepared:
    """Prepare a table of any length for training, in constant memory.

    The source is read twice: once to find out how, once to write the rows to files without names, in float64 as they
    are and in float32 as the network sees them. These take 12 bytes for each number, and vanish with the process. A
    batch is drawn uniformly from all training rows, of which the system reads those that are drawn.

    Of `min(1000, n // 10)` equal stretches of the table, one row each is held out for testing, and as many for
    validation. This is another split than that of `prepare`, which shuffles all rows.

    Args:
        source: the path of a file or of a folder of files with the same columns. Text, NPY and Parquet files are read
            in pieces; each file of another format must fit into memory.
        options: how to read it.
        folder: where the files lie; the folder for temporary files if None.
        scale: as in `prepare`.
        noise: as in `prepare`.

    Returns:
        What `prepare` returns, with rows that lie in files.

    Raises:
        ValueError: as `fastssm.data.load` and `fastssm.data.prepare`, if the source is no file or folder, or if the
            disk is full.

    Example:
        >>> import pathlib, tempfile, numpy
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "large.npy"
        >>> numpy.save(path, numpy.random.default_rng(0).normal(size=(5000, 3)))
        >>> prepared = fastssm.data.stream(path)
        >>> len(prepared.train), len(prepared.validation), len(prepared.test)
        (4000, 500, 500)
    """
    if str(source) == STANDARD_INPUT or str(source) in BUILTIN:
        what = "standard input can be read only once" if str(source) == STANDARD_INPUT else f"{source} is built in"
        raise ValueError(f"a streamed table must be a file or a folder, but {what}; leave out --stream")
    files = Path(tempfile.gettempdir()) if folder is None else Path(folder)
    dataset = _written(source, options or ReadOptions(), files)
    return _prepared(dataset, *choose(dataset, scale, noise), files)


def _written(source: str | Path, options: ReadOptions, folder: Path) -> Dataset:
    """Return the data set whose rows lie in a file."""
    known = survey(read_pieces(source, options), options, str(source))
    folder.mkdir(parents=True, exist_ok=True)
    rows, numbers, before = Scratch(folder, (len(known.schema.names),), np.float64), Scratch(folder, (), np.int64), 0
    for piece in read_pieces(source, options):
        table = encode_piece(piece, known.schema)
        rows.append(table.values)
        numbers.append(table.row_numbers + before)
        before += len(piece.values)
    notes = list(known.notes)
    require_rows(str(source), rows.count, before, MINIMUM_ROWS, notes)
    dataset = Dataset(
        name=base_name(source),
        rows=rows.tensor(),
        columns=known.schema.names,
        image=known.image,
        scale="whiten" if len(known.schema.names) > 2 else "standardise",
        row_numbers=numbers.tensor(),
        notes=tuple(notes),
        schema=known.schema,
    )
    return replace(dataset, notes=(*dataset.notes, *_counting(dataset)))


def _prepared(dataset: Dataset, scale: str, noise: float, folder: Path) -> Prepared:
    generator = dataset_generator()
    held_out = _held_out(len(dataset.rows), generator)
    moments, spread = _statistics(dataset, held_out)
    scaler, dependent = fit_scaler(Shape.of(moments, dataset), scale, noise, dataset)
    train, scaled = _scaled(dataset, held_out, scaler, folder)
    validation, test = held_out[torch.randperm(len(held_out), generator=generator)].chunk(2)

    def with_noise(index: Tensor) -> Tensor:
        rows = scaler.scale(dataset.rows[index])
        return (rows + noise * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)).float()

    return Prepared(
        dataset=dataset,
        train=train,
        validation=with_noise(validation),
        test=with_noise(test),
        scaler=scaler,
        noise=noise,
        test_index=test,
        warnings=(*remarks(sampled(dataset.rows), spread, dataset.columns, scaled=scale != "none"), *dependent),
        moments=scaled,
    )


def _held_out(rows: int, generator: Generator) -> Tensor:
    """Return the sorted places of the rows for validation and testing, one from each of equal stretches."""
    count = 2 * min(LARGEST_TEST, rows // 10)
    bounds = torch.arange(count + 1) * rows // count
    within = torch.rand(count, generator=generator, dtype=torch.float64)
    return bounds[:-1] + (within * bounds.diff()).long()


def _training_blocks(dataset: Dataset, held_out: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows `[m, D]` that are not held out, and their numbers `[m]`, in the order of the file."""
    size = max(1, BLOCK_CELLS // dataset.rows.shape[1])
    for start in range(0, len(dataset.rows), size):
        rows = dataset.rows[start : start + size]
        keep = torch.ones(len(rows), dtype=torch.bool)
        keep[held_out[(held_out >= start) & (held_out < start + len(rows))] - start] = False
        yield rows[keep], dataset.row_numbers[start : start + size][keep]


def _statistics(dataset: Dataset, held_out: Tensor) -> tuple[Moments, Spread]:
    """Return the moments of the training rows, and the spread of all rows."""
    moments = Moments(dataset.rows.shape[1])
    for rows, numbers in _training_blocks(dataset, held_out):
        moments.add(rows, numbers)
    every = copy.deepcopy(moments)
    every.add(dataset.rows[held_out], dataset.row_numbers[held_out])
    above = every.high - every.mean > every.mean - every.low
    far, row = torch.where(above, every.high, every.low), torch.where(above, every.high_row, every.low_row)
    return moments, Spread(every.mean, every.deviation, far, row)


def _scaled(dataset: Dataset, held_out: Tensor, scaler: Scaler, folder: Path) -> tuple[Tensor, Moments]:
    """Return the scaled training rows, which lie in a file, and their moments."""
    features = dataset.rows.shape[1]
    file, moments = Scratch(folder, (features,), np.float32), Moments(features)
    for rows, _ in _training_blocks(dataset, held_out):
        scaled = scaler.scale(rows).float()
        file.append(scaled.numpy())
        moments.add(scaled)
    return file.tensor(), moments


def _counting(dataset: Dataset) -> list[str]:
    """Return a note for each column that only counts the rows, as a sample of them tells."""
    sample = sampled(dataset.rows)
    place = torch.arange(len(sample), dtype=sample.dtype) * stride(dataset.rows)
    counts = ((sample - sample[0]) == place[:, None]).all(0) & ((sample[0] == 0) | (sample[0] == 1))
    return [counting_note(dataset.columns[column]) for column in counts.nonzero().flatten().tolist()]
