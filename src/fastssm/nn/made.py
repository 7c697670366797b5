"""A masked autoregressive network: for every coordinate, features of the coordinates before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastssm.nn.mlp import check_sizes, make_activation


class MaskedLinear(nn.Linear):
    """An affine map with some weights fixed at zero: `z = (mask * W) h + b`.

    Args:
        mask: `[out, in]`, one where a weight is free.

    Example:
        >>> MaskedLinear(torch.zeros(1, 2))(torch.ones(3, 2)).shape
        torch.Size([3, 1])

    Source: Germain et al. 2015.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Return `(mask * W) h + b`."""
        return F.linear(h, self.weight * self.mask, self.bias)


class MADEContext(nn.Module):
    """For every coordinate, features `c_d` of the coordinates before it, all in one pass of a masked network.

    `c_d = g_d(x_j : j before d)`, so the Jacobian of `c_d` in `x_d` and all later coordinates is zero.

    Args:
        features: D, the number of coordinates.
        context: C, the number of features of each.
        widths: hidden widths; every hidden unit sees the first 1, 2, ... or D - 1 coordinates, cyclically.
        activation: a name of the activation table or a function returning a module.
        order: the coordinates from first to last; `0, 1, ..., D - 1` if None.

    Shape:
        `x` is `[B, ...]` with D values per sample; the output is `[B, D, C]`, in the coordinates' own places.

    Raises:
        TypeError: for sizes that are no integers.
        ValueError: for sizes below one, unknown names, or an order that is no permutation.

    Example:
        >>> context = MADEContext(3, 8, [32, 32])
        >>> context(torch.randn(5, 3)).shape
        torch.Size([5, 3, 8])

    Source: Germain et al. 2015, "MADE: masked autoencoder for distribution estimation".
    """

    def __init__(
        self,
        features: int,
        context: int,
        widths: Sequence[int],
        activation: str | Callable[[], nn.Module] = "silu",
        *,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        widths = check_sizes(widths, features=features, context=context)
        self.features, self.context, self.order = features, context, _checked_order(features, order)
        place = torch.empty(features, dtype=torch.long)
        place[list(self.order)] = torch.arange(1, features + 1)
        degrees = [place, *(1 + torch.arange(width) % max(1, features - 1) for width in widths)]
        layers: list[nn.Module] = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear((after[:, None] >= before).float()), make_activation(activation)]
        last = place.repeat_interleave(context)[:, None] > degrees[-1]
        self.layers = nn.Sequential(*layers, MaskedLinear(last.float()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features `[B, D, C]` at `x`."""
        if math.prod(x.shape[1:]) != self.features:
            raise ValueError(
                f"the context net takes {self.features} value(s) per sample, x of shape {tuple(x.shape)} has "
                f"{math.prod(x.shape[1:])}; pass data of that width, or build the net for it."
            )
        flat = x.reshape(x.shape[0], self.features)
        out: Tensor = self.layers(flat).view(x.shape[0], self.features, self.context)
        return out

    def extra_repr(self) -> str:
        """Show the sizes and the order."""
        return f"features={self.features}, context={self.context}, order={list(self.order)}"


def _checked_order(features: int, order: Sequence[int] | None) -> tuple[int, ...]:
    given = tuple(range(features)) if order is None else tuple(int(d) for d in order)
    if sorted(given) != list(range(features)):
        raise ValueError(
            f"order must hold each coordinate 0 ... {features - 1} once, got {list(given)}; leave it out for the "
            "natural order."
        )
    return given
