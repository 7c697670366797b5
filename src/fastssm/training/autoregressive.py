"""The autoregressive model of the composite loss as one network, whose output is an energy like any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssm import composite_log_prob
from fastssm.nn import MLP, MADEContext

CONTEXT = 16  # features that tell a conditional of the coordinates before it
POINTS = 256  # of the grid on which a conditional is normalised


class Autoregressive(nn.Module):
    """A context net and the conditional energy of one coordinate: `E(x) = -log p(x)`, normalised by quadrature.

    Args:
        features: D, the number of coordinates.
        widths: hidden widths of the conditional energy; the context net has the first two.
        activation: of both nets.

    Attributes:
        bounds: `[2, D]`, between which every coordinate's density lies, as far as it is known.
    """

    bounds: Tensor

    def __init__(self, features: int, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.context_net = MADEContext(features, CONTEXT, widths[:2], activation)
        self.head = MLP(1, widths, 1, activation, cond_dim=CONTEXT)
        self.register_buffer("bounds", torch.tensor([[-1.0], [1.0]]).repeat(1, features))

    def include(self, rows: Tensor) -> None:
        """Let the bounds be the range of the rows and a quarter of it on either side."""
        low, high = rows.aminmax(dim=0)
        margin = 0.25 * (high - low)
        self.bounds.copy_(torch.stack((low - margin, high + margin)))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the energies `[B, 1]`, without a graph: they are for looking at, the loss trains the nets."""
        low, high = x.aminmax(dim=0)
        bounds = torch.stack((torch.minimum(self.bounds[0], low), torch.maximum(self.bounds[1], high)))
        log_prob = composite_log_prob(self.context_net, self.head, x, bounds, points=POINTS)
        return -log_prob[:, None].to(x.dtype)
