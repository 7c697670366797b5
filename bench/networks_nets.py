"""Networks of ``bench.networks``, as people write them, and the same with every derivative right under autograd.

PyTorch's third derivative of layer normalisation is wrong and that of attention is missing, so plain autograd needs
both written out (``written=True``). The modules have the same parameters in the same order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WrittenLayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, from means and a power."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + self.eps) ** -0.5 * self.weight + self.bias


def written_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention from products and a softmax."""
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1) @ v


def layer_norm(width: int, written: bool) -> nn.Module:
    return WrittenLayerNorm(width) if written else nn.LayerNorm(width)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation of groups of four channels."""
    return nn.GroupNorm(max(1, channels // 4), channels)


class Residual(nn.Module):
    """A pre-activation residual block with group normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def conv_energy(written: bool, channels: int = 32, blocks: int = 3, side: int = 28) -> nn.Module:
    """A ResNet energy of square images, halved after every block but the last."""
    parts: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1)]
    for block in range(blocks):
        parts += ([nn.AvgPool2d(2)] if block else []) + [Residual(channels)]
    features = channels * (side // 2 ** (blocks - 1)) ** 2
    return nn.Sequential(*parts, nn.SiLU(), nn.Flatten(), nn.Linear(features, 1))


class Layer(nn.Module):
    """A pre-norm layer of a transformer."""

    def __init__(self, width: int, heads: int, written: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attend = written_attention if written else F.scaled_dot_product_attention
        self.before, self.between = layer_norm(width, written), layer_norm(width, written)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each token."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.before(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.between(x))


class Transformer(nn.Module):
    """An energy of a sequence of tokens."""

    def __init__(self, written: bool, tokens: int, features: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.ModuleList(Layer(width, heads, written) for _ in range(layers))
        self.norm, self.head = layer_norm(width, written), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies `[B, 1]`."""
        h = self.embed(x) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h).mean(1))


class TimedResidual(nn.Module):
    """A residual block that adds an embedding of the time."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.before, self.between = (
            group_norm(inputs),
            group_norm(outputs),
        )
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Add the branch."""
        h = self.first(F.silu(self.before(x))) + self.time(embedding)[:, :, None, None]
        return self.skip(x) + self.second(F.silu(self.between(h)))


class UNet(nn.Module):
    """A score of images at a time, on two scales."""

    def __init__(self, written: bool, channels: int) -> None:
        super().__init__()
        self.channels, wide = channels, 4 * channels
        self.embed = nn.Sequential(nn.Linear(channels, wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.fine = TimedResidual(channels, channels, wide)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.coarse = TimedResidual(2 * channels, 2 * channels, wide)
        self.up = TimedResidual(3 * channels, channels, wide)
        self.norm, self.leave = group_norm(channels), nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score at times `[B]`."""
        half = self.channels // 2
        angles = t[:, None] * torch.exp(-math.log(1e4) / half * torch.arange(half, dtype=t.dtype, device=t.device))
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        fine = self.fine(self.enter(x), embedding)
        coarse = self.coarse(self.down(fine), embedding)
        joined = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)
        return self.leave(F.silu(self.norm(self.up(joined, embedding))))


def norm_mlp(written: bool, d: int, width: int, layers: int) -> nn.Module:
    """An energy with layer normalisation before every activation."""
    parts: list[nn.Module] = []
    for inputs in (d, *[width] * (layers - 1)):
        parts += [nn.Linear(inputs, width), layer_norm(width, written), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(width, 1))


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: in the file.
        build: returns the network, written out or as people write it.
        shape: of one sample.
        B: samples.
        kind: "energy" or "score".
        timed: whether the network takes a time, one per sample.
    """

    name: str
    build: Callable[[bool], nn.Module]
    shape: tuple[int, ...]
    B: int
    kind: str = "energy"
    timed: bool = False


CONV, TRANSFORMER, UNET, MLP, SMALL, FINE, COARSE = (
    *("conv energy", "transformer energy", "U-Net score", "LayerNorm MLP energy"),
    *("small conv energy", "tiny conv energy 16x16", "tiny conv energy 8x8"),
)
NETWORKS = {
    n.name: n
    for n in (
        Network(CONV, conv_energy, (1, 28, 28), 16),
        Network(TRANSFORMER, partial(Transformer, tokens=16, features=49, width=64, heads=4, layers=4), (16, 49), 16),
        Network(UNET, partial(UNet, channels=32), (1, 28, 28), 8, "score", timed=True),
        Network(MLP, partial(norm_mlp, d=100, width=512, layers=3), (100,), 512),
        Network(SMALL, partial(conv_energy, channels=8, blocks=2, side=14), (1, 14, 14), 4096),
        Network(FINE, partial(conv_energy, channels=4, blocks=2, side=16), (1, 16, 16), 16),
        Network(COARSE, partial(conv_energy, channels=4, blocks=2, side=8), (1, 8, 8), 16),
    )
}
TINY = {  # the same, so small that a test takes no time
    CONV: replace(NETWORKS[CONV], build=partial(conv_energy, channels=4, side=8), shape=(1, 8, 8), B=3),
    TRANSFORMER: replace(
        NETWORKS[TRANSFORMER],
        build=partial(Transformer, tokens=3, features=5, width=8, heads=2, layers=2),
        shape=(3, 5),
        B=3,
    ),
    UNET: replace(NETWORKS[UNET], build=partial(UNet, channels=4), shape=(1, 8, 8), B=2),
    MLP: replace(NETWORKS[MLP], build=partial(norm_mlp, d=5, width=8, layers=2), shape=(5,), B=4),
    SMALL: replace(NETWORKS[SMALL], build=partial(conv_energy, channels=2, blocks=2, side=8), shape=(1, 8, 8)),
    FINE: replace(NETWORKS[FINE], build=partial(conv_energy, channels=2, blocks=2, side=4), shape=(1, 4, 4), B=3),
    COARSE: replace(NETWORKS[COARSE], build=partial(conv_energy, channels=2, blocks=1, side=2), shape=(1, 2, 2), B=3),
}
