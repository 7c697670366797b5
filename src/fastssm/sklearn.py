"""Estimators for scikit-learn: a density, and a detector of outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fastssm import exact_loss
from fastssm.data import Dataset, prepare
from fastssm.training import Model, Ranks, TrainConfig, choose_device, fit

try:
    from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError("fastssm.sklearn needs scikit-learn 1.6 or later; pip install 'scikit-learn>=1.6'") from None

LEAST_ROWS = 10  # one tenth is held out for validation, and one tenth to rank anomalies
ROWS = 4096
Floats = np.ndarray[Any, Any]

__all__ = ["OutlierDetector", "ScoreMatchingDensity"]


class ScoreMatchingDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """An energy network trained by score matching, as an estimator of a density.

    Args:
        loss: a name of `fastssm.training.OBJECTIVES` that trains energies; "composite" gives a normalised density.
        hidden: widths of the hidden layers.
        activation: a name of `fastssm.activations`.
        steps: largest number of steps of Adam.
        batch: rows per step.
        lr: peak learning rate.
        patience: steps without a better validation loss after which the training stops.
        noise: standard deviation of the Gaussian noise on the scaled rows. The density is that of the noisy rows.
        scale: "standardise", "whiten" or "none".
        backend: which fastssm backend runs the loss.
        device: "cpu", "cuda" or "auto".
        random_state: seed of the weights, the batches and the directions.

    Attributes:
        model_: the trained `fastssm.Model`.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns, of a table of pandas.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import PowerTransformer
        >>> density = make_pipeline(PowerTransformer(), ScoreMatchingDensity(steps=50, hidden=(16,), random_state=0))
        >>> density.fit(load_wine().data).score_samples(load_wine().data).shape
        (178,)

    Source: Song et al. 2019, "Sliced score matching".
    """

    def __init__(
        self,
        *,
        loss: str = "sliced",
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "softplus",
        steps: int = 2000,
        batch: int = 256,
        lr: float = 3e-3,
        patience: int = 500,
        noise: float = 0.1,
        scale: str = "standardise",
        backend: str = "auto",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.loss = loss
        self.hidden = hidden
        self.activation = activation
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.patience = patience
        self.noise = noise
        self.scale = scale
        self.backend = backend
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train on rows.

        Args:
            X: `[n, D]`, at least ten rows, without missing values.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: if the rows or a parameter do not fit.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=LEAST_ROWS)
        columns = tuple(map(str, getattr(self, "feature_names_in_", [f"x{i}" for i in range(rows.shape[1])])))
        constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
        if len(constant):
            raise ValueError(
                f"every column must vary, but {columns[constant[0]]!r} is constant, one of {len(constant)}; remove "
                "such columns, for instance by sklearn.feature_selection.VarianceThreshold"
            )
        dataset = Dataset("X", torch.tensor(rows), columns, scale=self.scale, noise=float(self.noise))
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        ranks = Ranks(choose_device(self.device))
        model = fit(self._config(int(seed)), prepare(dataset, scale_by_all=True), ranks)
        self.model_ = model.to(model.device, torch.float64)
        self.deviation_ = rows.std(0)
        return self

    def _config(self, seed: int) -> TrainConfig:
        return TrainConfig(
            "X",
            loss=self.loss,
            hidden=tuple(self.hidden),
            activation=self.activation,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            patience=self.patience,
            evaluate_every=max(1, min(100, self.steps // 4)),
            noise=float(self.noise),
            scale=self.scale,
            backend=self.backend,  # type: ignore[arg-type]
            seed=seed,
        )

    def score_samples(self, X: Any) -> Floats:
        """Return the log density of every row, up to a constant that is zero for `loss="composite"`.

        Args:
            X: `[n, D]`.

        Returns:
            `[n]`; higher is more likely.
        """
        return np.asarray(self._model.log_density_unnormalised(self._rows(X)))

    def score(self, X: Any, y: Any = None) -> float:
        """Return how well the density fits rows; higher is better.

        The mean log density for `loss="composite"`. Others know it up to a constant that differs from model to model,
        so it is minus the exact score matching loss, in units of the standard deviations of the training rows, by which
        models of the same training rows can be compared.

        Args:
            X: `[n, D]`.
            y: ignored.

        Returns:
            The score.
        """
        rows = self._rows(X)
        if self._model.normalised:
            return float(np.mean(self._model.log_prob(rows)))
        net = self._standardised()
        scaled = torch.tensor(rows / self.deviation_)
        parts = [exact_loss(net, part, kind="energy", reduction="sum") for part in torch.split(scaled, ROWS)]
        return -float(torch.stack(parts).sum()) / len(rows)

    @torch.no_grad()
    def _standardised(self) -> nn.Module:
        """Return the energy as a network of rows divided by their standard deviations."""
        model, features = self._model.to("cpu"), self.n_features_in_
        deviation = torch.tensor(self.deviation_)
        first = nn.Linear(features, features, dtype=torch.float64)
        first.weight.copy_((deviation[:, None] * model.scaler.matrix).T)
        first.bias.copy_(-model.scaler.mean @ model.scaler.matrix)
        return nn.Sequential(first, model.evaluated).requires_grad_(False)

    def sample(self, n_samples: int = 1, random_state: Any = None, *, steps: int = 1000) -> Floats:
        """Draw rows from the density.

        Args:
            n_samples: number of rows.
            random_state: seed.
            steps: steps of each Markov chain.

        Returns:
            `[n_samples, D]`.
        """
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return np.asarray(self._model.sample(n_samples, steps=steps, seed=seed))

    @property
    def _model(self) -> Model:
        check_is_fitted(self)
        model: Model = self.model_
        return model

    def _rows(self, X: Any) -> Floats:
        check_is_fitted(self)
        rows: Floats = validate_data(self, X, dtype=np.float64, reset=False)
        return rows


class OutlierDetector(OutlierMixin, ScoreMatchingDensity):  # type: ignore[misc]
    """A detector of outliers: rows of low density, by an energy network trained by score matching.

    All arguments but these two are those of `ScoreMatchingDensity`.

    Args:
        contamination: the share of the training rows that are taken for outliers, from 0 to 0.5.
        loss: as for `ScoreMatchingDensity`; "annealed-denoising" learns the density far from the rows too, where the
            outliers are.

    Attributes:
        offset_: log density, up to the constant, below which a row is an outlier.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(300, 3))
        >>> detector = OutlierDetector(steps=100, hidden=(16,), random_state=0).fit(rows)
        >>> detector.predict([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
        array([ 1, -1])
    """

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        loss: str = "annealed-denoising",
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "softplus",
        steps: int = 2000,
        batch: int = 256,
        lr: float = 3e-3,
        patience: int = 500,
        noise: float = 0.1,
        scale: str = "standardise",
        backend: str = "auto",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            loss=loss,
            hidden=hidden,
            activation=activation,
            steps=steps,
            batch=batch,
            lr=lr,
            patience=patience,
            noise=noise,
            scale=scale,
            backend=backend,
            device=device,
            random_state=random_state,
        )
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train on rows, and set the threshold."""
        if not 0.0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be above 0 and at most 0.5, got {self.contamination}.")
        super().fit(X)
        self.offset_ = float(np.percentile(self.score_samples(X), 100.0 * self.contamination))
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return the log density of every row minus the threshold: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Floats:
        """Return 1 for every row that belongs, and -1 for an outlier."""
        return np.where(self.decision_function(X) >= 0, 1, -1)
