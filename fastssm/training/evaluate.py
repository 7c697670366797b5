"""The exact score matching loss of held-out rows: the model's, and that of the Gaussian it has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastssm import exact_loss
from fastssm.training.distributed import Ranks

ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Mean:
    """A mean over rows and its standard error."""

    value: float
    error: float


@torch.no_grad()
def exact_mean(net: nn.Module, rows: Tensor, kind: str, backend: str, ranks: Ranks) -> Mean:
    """Return the mean over `rows` of `tr J + |s|^2 / 2`, each rank computing its share.

    Args:
        net: the energy or score network.
        rows: `[n, D]`.
        kind: `"energy"` or `"score"`.
        backend: a fastssm backend.
        ranks: who computes which rows.

    Returns:
        The mean over all rows and its standard error.
    """
    share = rows[ranks.share(len(rows))]
    losses = [
        exact_loss(net, part, kind=kind, backend=backend, reduction="none").double()
        for part in torch.split(share, ROWS_AT_A_TIME)
        if len(part)
    ]
    return _mean(torch.cat([rows.new_zeros(0, dtype=torch.float64), *losses]), len(rows), ranks)


def gaussian_baseline(train: Tensor, noise: float, rows: Tensor) -> Mean:
    """Return the exact loss on `rows` of the Gaussian that fits the training rows and their noise.

    `mean_n( -tr P + |P (x_n - mu)|^2 / 2 )`, `P = (cov(train) + noise^2 I)^-1`.

    Args:
        train: the training rows `[n, D]`, without noise.
        noise: deviation of the noise that `rows` carry.
        rows: `[m, D]`.

    Returns:
        The mean over `rows` and its standard error. On whitened rows it is about -D / 2.
    """
    train, rows = train.double(), rows.double()
    features = train.shape[1]
    covariance = torch.cov(train.T).reshape(features, features)
    precision = torch.linalg.inv(covariance + noise**2 * torch.eye(features, dtype=train.dtype, device=train.device))
    scores = (rows - train.mean(0)) @ precision
    return _mean(0.5 * scores.square().sum(1) - precision.trace(), len(rows), Ranks(rows.device))


def _mean(losses: Tensor, count: int, ranks: Ranks) -> Mean:
    mean = ranks.sum(losses.sum()) / count
    variance = ranks.sum((losses - mean).square().sum()) / max(1, count - 1)
    return Mean(mean.item(), (variance / count).sqrt().item())
