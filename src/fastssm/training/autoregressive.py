"""The autoregressive model of the composite loss as one energy network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssm import composite_log_prob
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

    def include(self, rows: Tensor) -> None:
        """Set the bounds to the range of the rows, extended by a quarter on either side."""
        low, high = rows.aminmax(dim=0)
        margin = 0.25 * (high - low)
        self.bounds.copy_(torch.stack((low - margin, high + margin)))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the energies `[B, 1]` without gradients; the composite loss trains the networks."""
        low, high = x.aminmax(dim=0)
        bounds = torch.stack((torch.minimum(self.bounds[0], low), torch.maximum(self.bounds[1], high)))
        log_prob = composite_log_prob(self.context_net, self.head, x, bounds, points=POINTS)
        return -log_prob[:, None].to(x.dtype)
