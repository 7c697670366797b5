"""Built-in data sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssm.data import files, toys
from fastssm.data.dataset import Dataset, dataset_generator, dequantise
from fastssm.data.tables import ReadOptions

TOY_ROWS = 20_000
SOURCE_DATA = Path(__file__).parents[3] / "data"  # in a source checkout
PACKAGED_DATA = Path(__file__).parent / "sets"  # in an installed package
SIDE = 8  # pixels per side of a digit or a patch
WINE_COLUMNS = (
    *("fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide"),
    *("total sulfur dioxide", "density", "pH", "sulphates", "alcohol"),
)


def _toy(name: str) -> Dataset:
    rows = toys.TOYS[name](TOY_ROWS, dataset_generator())
    return Dataset(name, rows, ("x", "y"), scale="standardise", noise=0.1)


def _wine(colour: str) -> Dataset:
    path = _find(f"winequality-{colour}.csv")  # has no header, and its last column is the quality
    table = files.read(path, ReadOptions([str(number) for number in range(1, len(WINE_COLUMNS) + 1)]))
    rows = dequantise(table.rows, dataset_generator())
    schema = table.schema and table.schema.renamed(WINE_COLUMNS)
    return replace(table, name=f"{colour}-wine", rows=rows, columns=WINE_COLUMNS, noise=0.05, schema=schema)


def _parkinsons(_: str) -> Dataset:
    path = _find("parkinsons_updrs.data")
    table = files.read(path, ReadOptions(drop=("subject#", "age", "sex")))
    kept = _drop_correlated(table.rows, list(range(len(table.columns))))
    table = files.read(path, ReadOptions([table.columns[index] for index in kept]))
    return replace(table, name="parkinsons", noise=0.05)


def _drop_correlated(rows: Tensor, kept: list[int], limit: float = 0.98) -> list[int]:
    """Drop the first column whose correlation with another exceeds `limit`, and repeat until none remains."""
    while True:
        correlated = (torch.corrcoef(rows[:, kept].T).abs() > limit).sum(1) > 1
        if not correlated.any():
            return kept
        drop = int(correlated.int().argmax())
        kept = kept[:drop] + kept[drop + 1 :]


def _digits(_: str) -> Dataset:
    return _pictures("digits", torch.from_numpy(_sklearn("digits", "load_digits").data), levels=17)


def _patches(_: str) -> Dataset:
    photos = np.stack(_sklearn("patches", "load_sample_images").images)
    grey = torch.from_numpy(photos).double().mean(-1)
    # patches do not overlap, so no test patch shares a pixel with a training patch
    patches = grey.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).flatten(0, 2).flatten(1)
    return replace(_pictures("patches", patches, levels=256), scale="whiten")


def _pictures(name: str, grey: Tensor, levels: int) -> Dataset:
    """Dequantise grey values 0, 1, ..., levels - 1 and map them to (0, 1)."""
    rows = (grey + torch.rand(grey.shape, generator=dataset_generator(), dtype=grey.dtype)) / levels
    columns = tuple(f"pixel {row},{column}" for row in range(SIDE) for column in range(SIDE))
    return Dataset(name, rows, columns, image=(SIDE, SIDE), scale="none", noise=0.1)


def _sklearn(name: str, function: str) -> Any:
    try:
        from sklearn import datasets

        return getattr(datasets, function)()
    except ImportError as error:  # of scikit-learn, or of Pillow, which it needs for pictures
        packages = "scikit-learn pillow" if name == "patches" else "scikit-learn"
        raise ValueError(
            f"the data set {name!r} needs {packages.replace(' ', ' and ')} ({error}); pip install {packages}"
        ) from None


def _find(file: str) -> Path:
    named = os.environ.get("FASTSSM_DATA")
    folders = ([Path(named)] if named else []) + [PACKAGED_DATA, SOURCE_DATA]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise ValueError(
        f"{file} was not found in {', '.join(map(str, folders))}; it comes with the package, and is in the folder "
        "data/ of the source repository. Set FASTSSM_DATA to that folder, or pass the path of your own file"
    )


BUILTIN: dict[str, Callable[[str], Dataset]] = {
    **dict.fromkeys(toys.TOYS, _toy),
    "digits": _digits,
    "patches": _patches,
    "white-wine": lambda _: _wine("white"),
    "red-wine": lambda _: _wine("red"),
    "parkinsons": _parkinsons,
}
