"""Networks whose every layer needs jets, for what is not about one rule: tiles, dtypes, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvEnergy(nn.Module):
    """A small ResNet with GroupNorm over `[B, 2, 3, 3]`."""

    shape, kind = (2, 3, 3), "energy"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.last(F.silu(self.norm(h)))
        return self.out(F.softplus(h).mean((2, 3))).squeeze(1)


class AttentionEnergy(nn.Module):
    """A transformer layer written out, over `[B, 3, 4]`."""

    shape, kind = (3, 4), "energy"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.qkv, self.mix = nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 4))
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).view(-1, 3, 3, 2, 2).transpose(1, 3).unbind(2)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norms[1](x))
        return self.out(x).square().sum((1, 2))


class Score(nn.Module):
    """A score with a time for each sample and a scale for all, over `[B, 5]`."""

    shape, kind = (5,), "score"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor, t: Tensor | None = None, scale: Tensor | float = 1.0) -> Tensor:
        t = x.new_zeros(len(x)) if t is None else t
        h = self.norm(self.first(torch.cat([x, t[:, None].cos()], 1)))
        return self.last(F.silu(h) * scale) - x * torch.sigmoid(x)


class ConditionedEnergy(nn.Module):
    """The energy that goes with it."""

    shape, kind = (5,), "energy"

    def __init__(self) -> None:
        super().__init__()
        self.score, self.out = Score(), nn.Linear(5, 1)

    def forward(self, x: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return self.out(torch.tanh(self.score(x, t, scale)) * x)


class Counting(nn.Module):
    """A forward that changes a buffer, as spectral norm does, and draws numbers."""

    shape, kind = (3, 4), "energy"

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.energy = AttentionEnergy(dropout)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.energy(x)


NETWORKS: dict[str, Callable[[], Any]] = {"conv": ConvEnergy, "attention": AttentionEnergy, "score": Score}


def made(network: Callable[[], Any], dtype: torch.dtype = torch.float64) -> Any:
    """Return a network with drawn weights, the same each time."""
    torch.manual_seed(0)
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net.to(dtype)


def data(net: Any, batch: int, directions: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *net.shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randn(directions, batch, *net.shape, generator=generator, dtype=torch.float64).to(dtype)
