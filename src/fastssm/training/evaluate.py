"""Deterministic losses on held-out rows, of a model and of a fitted Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastssm import composite_loss, exact_loss
from fastssm.options import BackendName, NetworkKind
from fastssm.training.autoregressive import Autoregressive
from fastssm.training.distributed import Ranks
from fastssm.training.facts import Facts

CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Mean:
    """A mean over rows and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Measure:
    """A loss that is measured on held-out rows.

    Args:
        name: name of the loss; lower is better.
        rows: function of a network, rows `[n, D]`, the kind of network and a backend; returns the loss of each row.
        gaussian: function of rows minus the mean of a Gaussian, and its covariance; returns the loss of each row.
    """

    name: str
    rows: Callable[[nn.Module, Tensor, NetworkKind, BackendName], Tensor]
    gaussian: Callable[[Tensor, Tensor], Tensor]

    @torch.no_grad()
    def mean(self, net: nn.Module, rows: Tensor, kind: NetworkKind, backend: BackendName, ranks: Ranks) -> Mean:
        """Return the mean over all rows and its standard error; each rank computes its share."""
        chunks = [chunk for chunk in torch.split(rows[ranks.share(len(rows))], CHUNK_ROWS) if len(chunk)]
        losses = [self.rows(net, chunk, kind, backend).double() for chunk in chunks]
        return _mean(torch.cat([rows.new_zeros(0, dtype=torch.float64), *losses]), len(rows), ranks)

    def baseline(self, facts: Facts, rows: Tensor) -> Mean:
        """Return the mean loss of a Gaussian fitted to the training rows with noise.

        Args:
            facts: those of the training rows.
            rows: held-out rows `[m, D]`, with noise.

        Returns:
            The mean over `rows` and its standard error.
        """
        covariance = facts.covariance + facts.noise**2 * torch.eye(facts.features, dtype=torch.float64)
        return _mean(self.gaussian(rows.double() - facts.mean, covariance), len(rows), Ranks(rows.device))


def _exact_gaussian(centred: Tensor, covariance: Tensor) -> Tensor:
    """Return `-tr P + |P x|^2 / 2` with `P` the inverse covariance; about -D / 2 on whitened rows."""
    precision = torch.linalg.inv(covariance)
    losses: Tensor = 0.5 * (centred @ precision).square().sum(1) - precision.trace()
    return losses


def _composite_gaussian(centred: Tensor, covariance: Tensor) -> Tensor:
    """Return `sum_d( -1 / v_d + (x_d - m_d)^2 / (2 v_d^2) )` with mean and variance given the preceding coordinates.

    With the Cholesky factor L of the covariance, `v_d = L_dd^2` and `(x_d - m_d) / L_dd = (L^-1 x)_d`.
    """
    factor = torch.linalg.cholesky(covariance)
    deviation = factor.diagonal()
    scores = torch.linalg.solve_triangular(factor, centred.T, upper=False).T / deviation
    losses: Tensor = (scores.square() / 2 - deviation**-2).sum(1)
    return losses


def _exact(net: nn.Module, rows: Tensor, kind: NetworkKind, backend: BackendName) -> Tensor:
    return exact_loss(net, rows, kind=kind, backend=backend, reduction="none")


def _composite(net: nn.Module, rows: Tensor, kind: NetworkKind, backend: BackendName) -> Tensor:
    assert isinstance(net, Autoregressive)
    return composite_loss(net.context_net, net.head, rows, kind=kind, backend=backend, reduction="none")


EXACT = Measure("exact score matching loss", _exact, _exact_gaussian)
COMPOSITE = Measure("composite score matching loss", _composite, _composite_gaussian)


def _mean(losses: Tensor, count: int, ranks: Ranks) -> Mean:
    mean = ranks.sum(losses.sum()) / count
    variance = ranks.sum((losses - mean).square().sum()) / max(1, count - 1)
    return Mean(mean.item(), (variance / count).sqrt().item())
