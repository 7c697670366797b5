"""Splits, scales and blurs a data set: what a training sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastssm.data.dataset import Dataset, dataset_generator

SCALES = ("standardise", "whiten", "none")
LARGEST_TEST = 1000


@dataclass(frozen=True)
class Scaler:
    """The affine map `z = (x - mean) @ matrix`, in float64.

    Args:
        mean: `[D]`, in the units of the data.
        matrix: `[D, D]`.
    """

    mean: Tensor
    matrix: Tensor

    def scale(self, rows: Tensor) -> Tensor:
        """Map rows `[n, D]` from the units of the data to those of the network."""
        return (rows.double() - self.mean) @ self.matrix

    def unscale(self, rows: Tensor) -> Tensor:
        """Map rows `[n, D]` from the units of the network back to those of the data."""
        unscaled: Tensor = torch.linalg.solve(self.matrix, rows.double(), left=False)
        return unscaled + self.mean


@dataclass(frozen=True)
class Prepared:
    """Three disjoint sets of scaled rows `[n, D]` in float32, and how to come back from them.

    The validation and test rows carry noise `N(0, noise^2)`, drawn once. The training rows carry none:
    each batch draws its own, so the density that is learnt is that of the noisy rows.
    """

    dataset: Dataset
    train: Tensor
    validation: Tensor
    test: Tensor
    scaler: Scaler
    noise: float


def prepare(dataset: Dataset, *, scale: str | None = None, noise: float | None = None) -> Prepared:
    """Shuffle, split, scale by the statistics of the training rows, and blur.

    The split is the one of the sliced score matching paper (Song et al., 2019): shuffled with seed 2019,
    `min(1000, n // 10)` rows for testing and as many for validation. The seed of a training does not change it.

    Args:
        dataset: the rows.
        scale: `"standardise"` (zero mean, unit variance), `"whiten"` (uncorrelated as well) or `"none"`;
            the data set's own choice if None.
        noise: deviation of the Gaussian noise added after scaling; the data set's own choice if None.

    Returns:
        The three sets and the scaler.

    Raises:
        ValueError: an unknown scale, negative noise, a constant column or linearly dependent columns.

    Example:
        >>> import fastssm.data
        >>> prepared = fastssm.data.prepare(fastssm.data.load("moons"))
        >>> [len(rows) for rows in (prepared.train, prepared.validation, prepared.test)]
        [18000, 1000, 1000]
    """
    scale = dataset.scale if scale is None else scale
    noise = dataset.noise if noise is None else noise
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be a finite number of at least 0, got {noise}")
    generator = dataset_generator()
    rows = dataset.rows[torch.randperm(len(dataset.rows), generator=generator)]
    held_out = min(LARGEST_TEST, len(rows) // 10)
    test, validation, train = rows[:held_out], rows[held_out : 2 * held_out], rows[2 * held_out :]
    scaler = _fit(train, scale, dataset, degenerate=noise == 0 or scale == "whiten")

    def blurred(part: Tensor) -> Tensor:
        scaled = scaler.scale(part)
        return (scaled + noise * torch.randn(scaled.shape, generator=generator, dtype=scaled.dtype)).float()

    return Prepared(dataset, scaler.scale(train).float(), blurred(validation), blurred(test), scaler, noise)


def _fit(train: Tensor, scale: str, dataset: Dataset, degenerate: bool) -> Scaler:
    """Fit the scaler; `degenerate` says that nothing else would give linearly dependent columns a density."""
    features = train.shape[1]
    mean, deviation = train.mean(0), train.std(0)
    constant = (deviation <= 1e-12 * train.abs().amax(0)).nonzero().flatten()
    if len(constant):
        column = dataset.columns[int(constant[0])]
        raise ValueError(f"{dataset.name}: column {column!r} is constant and has no density; drop it")
    standard = (train - mean) / deviation
    variance, axes = torch.linalg.eigh(torch.cov(standard.T).reshape(features, features))
    if degenerate and variance[0] <= 1e-10:
        raise ValueError(
            f"{dataset.name}: {len(train)} training rows of {features} columns have a singular covariance, so the "
            "columns are linearly dependent or the rows too few; drop columns, or standardise and add noise"
        )
    if scale == "none":
        return Scaler(train.new_zeros(features), torch.eye(features, dtype=train.dtype))
    return Scaler(
        mean, torch.diag(1 / deviation) if scale == "standardise" else axes * variance.rsqrt() / deviation[:, None]
    )
