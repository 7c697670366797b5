"""The autoregressive model of the composite loss as one energy network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssm.conditionals import Grid, pairs
from fastssm.nn import MLP, MADEContext

CONTEXT = 16  # features of the context, which encodes the preceding coordinates
POINTS = 256  # grid points for the normalisation of a conditional


class Autoregressive(nn.Module):
    """An autoregressive energy `E(x) = -log p(x)`, with conditionals normalised by quadrature.

    Args:
        features: D, the number of coordinates.
        widths: hidden widths of the conditional energy; the context net uses the first two.
        activation: activation of both networks.

    Attributes:
        bounds: `[2, D]`, lower and upper ends for the normalisation of each coordinate.
    """

    bounds: Tensor

    def __init__(self, features: int, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.context_net = MADEContext(features, CONTEXT, widths[:2], activation)
        self.head = MLP(1, widths, 1, activation, cond_dim=CONTEXT)
        self.register_buffer("bounds", torch.tensor([[-1.0], [1.0]]).repeat(1, features))

    def include(self, low: Tensor, high: Tensor) -> None:
        """Set the bounds to the range of the rows, extended by a quarter on either side."""
        margin = 0.25 * (high - low)
        self.bounds.copy_(torch.stack((low - margin, high + margin)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies `[B, 1]`, normalised between the bounds; outside, the same formula goes on.

        A row's energy does not depend on the others of its batch.
        """
        coordinates, contexts = pairs(self.context_net, x, "energy")
        coordinates, contexts = coordinates.view(len(x), -1), contexts.view(*x.shape, -1)
        low, high = self.bounds.double().tolist()
        total = x.new_zeros(len(x), dtype=torch.float64)
        for d in range(x.shape[1]):
            grid = Grid(self.head, contexts[:, d], low[d], high[d], POINTS, "energy")
            total = total - grid.log_prob(coordinates[:, d])
        return total[:, None].to(x.dtype)
