"""Split a data set, scale it and add noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastssm.data.dataset import Dataset, dataset_generator
from fastssm.data.moments import Moments
from fastssm.data.quality import SINGULAR, Spread, dependencies, remarks, sampled

SCALES = ("standardise", "whiten", "none")
LARGEST_TEST = 1000


@dataclass(frozen=True)
class Scaler:
    """The affine map `z = (x - mean) @ matrix`, in float64.

    Args:
        mean: `[D]`, in data units.
        matrix: `[D, D]`.
    """

    mean: Tensor
    matrix: Tensor

    def scale(self, rows: Tensor) -> Tensor:
        """Map rows `[n, D]` from data units to network units."""
        return (rows.double() - self.mean) @ self.matrix

    def unscale(self, rows: Tensor) -> Tensor:
        """Map rows `[n, D]` from network units back to data units."""
        unscaled: Tensor = torch.linalg.solve(self.matrix, rows.double(), left=False)
        return unscaled + self.mean


@dataclass(frozen=True)
class Prepared:
    """Training, validation and test rows `[n, D]`, scaled, in float32, and the scaler that maps them back.

    The validation and test rows contain noise `N(0, noise^2)`, drawn once. The training rows contain none, because
    each batch draws its own. The model therefore learns the density of the noisy rows.

    `dataset.original[test_index]` and `dataset.row_numbers[test_index]` are the test rows as they are in the file, and
    their numbers. `warnings` has a sentence for each column that is hard to train on.

    `moments` are those of the training rows if these lie in a file, as `fastssm.data.stream` prepares them; None if
    they are in memory.
    """

    dataset: Dataset
    train: Tensor
    validation: Tensor
    test: Tensor
    scaler: Scaler
    noise: float
    test_index: Tensor
    warnings: tuple[str, ...] = ()
    moments: Moments | None = None


def prepare(
    dataset: Dataset, *, scale: str | None = None, noise: float | None = None, scale_by_all: bool = False
) -> Prepared:
    """Shuffle and split a data set, scale it by the statistics of the training rows, and add noise.

    The split follows the sliced score matching paper (Song et al., 2019): shuffled with seed 2019,
    `min(1000, n // 10)` rows for testing and as many for validation. It does not depend on the training seed.

    Args:
        dataset: the rows.
        scale: `"standardise"` (zero mean, unit variance), `"whiten"` (also uncorrelated) or `"none"`;
            the data set's default if None.
        noise: standard deviation of the Gaussian noise added after scaling; the data set's default if None.
        scale_by_all: scale by the statistics of all rows, for columns that vary in few of them.

    Returns:
        The three sets and the scaler.

    Raises:
        ValueError: if the scale is unknown, the noise is negative or not finite, a column is constant, or columns are
            linearly dependent.

    Example:
        >>> import fastssm.data
        >>> prepared = fastssm.data.prepare(fastssm.data.load("moons"))
        >>> len(prepared.train), len(prepared.validation), len(prepared.test)
        (18000, 1000, 1000)
    """
    scale, noise = choose(dataset, scale, noise)
    generator = dataset_generator()
    order = torch.randperm(len(dataset.rows), generator=generator)
    rows = dataset.rows[order]
    held_out = min(LARGEST_TEST, len(rows) // 10)
    test, validation, train = rows[:held_out], rows[held_out : 2 * held_out], rows[2 * held_out :]
    spread = Spread.of(dataset.rows, dataset.row_numbers)
    warnings = remarks(sampled(dataset.rows), spread, dataset.columns, scaled=scale != "none")
    fitted = rows if scale_by_all else train
    deviation = fitted.std(0)
    _require_varying(deviation, fitted.abs().amax(0), dataset)
    standard = (fitted - fitted.mean(0)) / deviation
    correlation = torch.cov(standard.T).reshape(len(deviation), len(deviation))
    shape = Shape(len(fitted), fitted.mean(0), deviation, correlation)
    scaler, dependent = fit_scaler(shape, scale, noise, dataset)

    def with_noise(part: Tensor) -> Tensor:
        scaled = scaler.scale(part)
        return (scaled + noise * torch.randn(scaled.shape, generator=generator, dtype=scaled.dtype)).float()

    return Prepared(
        dataset=dataset,
        train=scaler.scale(train).float(),
        validation=with_noise(validation),
        test=with_noise(test),
        scaler=scaler,
        noise=noise,
        test_index=order[:held_out],
        warnings=(*warnings, *dependent),
    )


def choose(dataset: Dataset, scale: str | None, noise: float | None) -> tuple[str, float]:
    """Return the scale and the noise, those of the data set for None.

    Raises:
        ValueError: if the scale is unknown, or the noise is negative or not finite.
    """
    scale = dataset.scale if scale is None else scale
    noise = dataset.noise if noise is None else noise
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be finite and at least 0, got {noise}")
    return scale, noise


def _require_varying(deviation: Tensor, largest: Tensor, dataset: Dataset) -> None:
    """Check that every column varies, given the largest absolute value of each."""
    constant = (deviation <= 1e-12 * largest).nonzero().flatten()
    if len(constant):
        names = ", ".join(repr(dataset.columns[column]) for column in constant.tolist())
        what = f"column {names} is" if len(constant) == 1 else f"columns {names} are"
        raise ValueError(
            f"{dataset.name}: every column must vary, but {what} constant in the training rows; leave out by --drop"
        )


@dataclass(frozen=True)
class Shape:
    """Statistics of the rows that a scaler is fitted to.

    Args:
        count: their number.
        mean: `[D]`, float64.
        deviation: `[D]`, float64.
        correlation: `[D, D]`, float64.
    """

    count: int
    mean: Tensor
    deviation: Tensor
    correlation: Tensor

    @classmethod
    def of(cls, moments: Moments, dataset: Dataset) -> Shape:
        """Return the statistics of rows of a data set that were seen block by block.

        Raises:
            ValueError: if a column is constant.
        """
        deviation = moments.deviation
        _require_varying(deviation, torch.maximum(moments.low.abs(), moments.high.abs()), dataset)
        correlation = moments.covariance / torch.outer(deviation, deviation)
        return cls(moments.count, moments.mean, deviation, correlation)


def fit_scaler(shape: Shape, scale: str, noise: float, dataset: Dataset) -> tuple[Scaler, list[str]]:
    """Fit the scaler, and say which columns are dependent; without noise and for whitening, refuse them.

    Args:
        shape: statistics of the rows.
        scale: one of `SCALES`.
        noise: standard deviation of the noise that is added after scaling.
        dataset: its name and columns are for messages.

    Returns:
        The scaler, and a sentence for each set of dependent columns.

    Raises:
        ValueError: if columns are linearly dependent that may not be.
    """
    deviation, features = shape.deviation, len(shape.deviation)
    variance, axes = torch.linalg.eigh(shape.correlation)
    dependent = dependencies(shape.correlation, shape.count, dataset.columns) if variance[0] <= SINGULAR else []
    if (noise == 0 or scale == "whiten") and variance[0] <= SINGULAR:
        why = "; ".join(dependent) or f"its {features} columns are linearly dependent or the rows are too few"
        raise ValueError(
            f"{dataset.name}: the covariance of the {shape.count} training rows is singular: {why}; leave columns out "
            "by --drop, or standardise and add noise by --scale standardise --noise 0.1"
        )
    if scale == "none":
        return Scaler(deviation.new_zeros(features), torch.eye(features, dtype=deviation.dtype)), dependent
    matrix = torch.diag(1 / deviation) if scale == "standardise" else axes * variance.rsqrt() / deviation[:, None]
    return Scaler(shape.mean, matrix), dependent
