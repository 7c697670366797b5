"""Mean, covariance and range of rows that are seen a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    r"""Statistics of rows `[n, D]` in float64, gathered block by block in constant memory.

    Blocks are joined as in Chan, Golub and LeVeque (1979), which loses no digits to a large mean:

        mean = m_a + (m_b - m_a) n_b / n,    S = S_a + S_b + (m_b - m_a)(m_b - m_a)^T n_a n_b / n

    where `S` is the sum of the products of deviations from the mean.

    Args:
        features: D.

    Attributes:
        count: number of rows so far.
        mean: `[D]`.
        low: minimum of each column `[D]`.
        high: maximum of each column `[D]`.
        low_row: number of the row with each minimum `[D]`.
        high_row: number of the row with each maximum `[D]`.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = torch.zeros(features, dtype=torch.float64)
        self._scatter = torch.zeros(features, features, dtype=torch.float64)
        self.low = torch.full((features,), torch.inf, dtype=torch.float64)
        self.high = torch.full((features,), -torch.inf, dtype=torch.float64)
        self.low_row = torch.zeros(features, dtype=torch.int64)
        self.high_row = torch.zeros(features, dtype=torch.int64)

    def add(self, rows: Tensor, numbers: Tensor | None = None) -> None:
        """Add a block.

        Args:
            rows: the rows `[n, D]`.
            numbers: their numbers `[n]`; counted on from 0 if None.
        """
        if not len(rows):
            return
        rows, before = rows.double(), self.count
        numbers = torch.arange(before, before + len(rows)) if numbers is None else numbers
        self._extend(rows, numbers)
        self.count += len(rows)
        mean = rows.mean(0)
        centred, shift = rows - mean, mean - self.mean
        self.mean = self.mean + shift * (len(rows) / self.count)
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(shift, shift) * (before * len(rows) / self.count)

    def _extend(self, rows: Tensor, numbers: Tensor) -> None:
        low, high = rows.min(0), rows.max(0)
        lower, higher = low.values < self.low, high.values > self.high
        self.low_row = torch.where(lower, numbers[low.indices], self.low_row)
        self.high_row = torch.where(higher, numbers[high.indices], self.high_row)
        self.low, self.high = torch.minimum(low.values, self.low), torch.maximum(high.values, self.high)

    @property
    def covariance(self) -> Tensor:
        """Return the unbiased covariance `[D, D]`."""
        return self._scatter / (self.count - 1)

    @property
    def deviation(self) -> Tensor:
        """Return the standard deviations `[D]`."""
        return self.covariance.diagonal().sqrt()
