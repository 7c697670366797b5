"""Score networks of images: U-Nets with times, labels, attention and skips, and patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.net import Net, labels, times


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    half = dim // 2
    freqs = torch.exp(-math.log(100.0) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
    args = t[:, None] * freqs[None]
    return torch.cat([torch.sin(args), torch.cos(args)], dim=-1)


class ResnetBlock(nn.Module):
    """GroupNorm, swish, convolution, twice, with the time added between."""

    def __init__(self, inp: int, out: int, temb: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, inp, eps=1e-6), nn.Conv2d(inp, out, 3, padding=1)
        self.temb_proj = nn.Linear(temb, out)
        self.norm2, self.conv2 = nn.GroupNorm(2, out, eps=1e-6), nn.Conv2d(out, out, 3, padding=1)
        self.dropout = nn.Dropout(0.0)
        self.nin_shortcut = nn.Conv2d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Attention of all positions, by matrix products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        n = self.norm(x)
        q, k, v = self.q(n), self.k(n), self.v(n)
        weights = torch.einsum("bchw,bcij->bhwij", q, k) * (int(c) ** (-0.5))
        weights = F.softmax(weights.reshape(b, h, w, h * w), dim=-1).reshape(b, h, w, h, w)
        return x + self.proj_out(torch.einsum("bhwij,bcij->bchw", weights, v))


class DDPM(nn.Module):
    """Down, attention at the low resolution, up by nearest neighbours, skips joined."""

    def __init__(self, ch: int = 4) -> None:
        super().__init__()
        self.ch = ch
        self.temb = nn.Sequential(nn.Linear(ch, ch * 2), nn.SiLU(), nn.Linear(ch * 2, ch * 2))
        self.conv_in = nn.Conv2d(1, ch, 3, padding=1)
        self.down1 = ResnetBlock(ch, ch, ch * 2)
        self.downsample = nn.Conv2d(ch, ch, 3, stride=2)
        self.mid1, self.attn, self.mid2 = ResnetBlock(ch, ch, ch * 2), AttnBlock(ch), ResnetBlock(ch, ch, ch * 2)
        self.upsample = nn.Conv2d(ch, ch, 3, padding=1)
        self.up1 = ResnetBlock(2 * ch, ch, ch * 2)
        self.norm_out, self.conv_out = nn.GroupNorm(2, ch), nn.Conv2d(ch, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.temb(timestep_embedding(t, self.ch))
        hs = [self.conv_in(x)]
        hs.append(self.down1(hs[-1], temb))
        h = self.downsample(F.pad(hs[-1], (0, 1, 0, 1)))
        h = self.mid2(self.attn(self.mid1(h, temb)), temb)
        h = self.upsample(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, hs.pop()], dim=1), temb)
        return self.conv_out(F.silu(self.norm_out(h + hs.pop())))


class GaussianFourierProjection(nn.Module):
    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(dim // 2) * scale, requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        proj = t[:, None] * self.W[None, :] * 2 * math.pi
        return torch.cat([proj.sin(), proj.cos()], dim=-1)


class Dense(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inp, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)[..., None, None]


class ScoreNet(nn.Module):
    """Transposed convolutions on the way up, and division by the noise at the end."""

    def __init__(self, embed: int = 6, ch: int = 4, sigma: float = 5.0) -> None:
        super().__init__()
        self.sigma = sigma
        self.embed = nn.Sequential(GaussianFourierProjection(embed), nn.Linear(embed, embed))
        self.conv1, self.dense1, self.gnorm1 = nn.Conv2d(1, ch, 3, bias=False), Dense(embed, ch), nn.GroupNorm(2, ch)
        self.conv2, self.dense2 = nn.Conv2d(ch, ch, 3, stride=2, bias=False), Dense(embed, ch)
        self.gnorm2 = nn.GroupNorm(2, num_channels=ch)
        self.tconv2 = nn.ConvTranspose2d(ch, ch, 3, stride=2, bias=False)
        self.dense3, self.tgnorm2 = Dense(embed, ch), nn.GroupNorm(4, ch)
        self.tconv1 = nn.ConvTranspose2d(ch + ch, 1, 3)
        self.act = lambda x: x * torch.sigmoid(x)

    def marginal_prob_std(self, t: Tensor) -> Tensor:
        return torch.sqrt((self.sigma ** (2 * t) - 1.0) / 2.0 / math.log(self.sigma))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embed = self.act(self.embed(t))
        h1 = self.conv1(x)
        h1 += self.dense1(embed)
        h1 = self.act(self.gnorm1(h1))
        h2 = self.conv2(h1)
        h2 += self.dense2(embed)
        h2 = self.act(self.gnorm2(h2))
        h = self.tconv2(h2)
        h += self.dense3(embed)
        h = self.act(self.tgnorm2(h))
        h = self.tconv1(torch.cat([h, h1], dim=1))
        return h / self.marginal_prob_std(t)[:, None, None, None]


class ResBlockBigGAN(nn.Module):
    """Downsampling in both branches, and their sum divided by the square root of two."""

    def __init__(self, inp: int, out: int, temb: int, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.norm1, self.norm2 = nn.GroupNorm(2, inp), nn.GroupNorm(2, out)
        self.conv1, self.conv2 = nn.Conv2d(inp, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut, self.film = nn.Conv2d(inp, out, 1), nn.Linear(temb, 2 * out)

    def resample(self, x: Tensor) -> Tensor:
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.avg_pool2d(x, kernel_size=2, stride=2)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        scale, shift = torch.chunk(self.film(F.silu(temb)).unsqueeze(-1).unsqueeze(-1), 2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return (self.shortcut(self.resample(x)) + h) / 2**0.5


class NCSNpp(nn.Module):
    """Bilinear resampling inside the blocks, and a pyramid of the input joined at the low resolution."""

    def __init__(self, ch: int = 4) -> None:
        super().__init__()
        self.embed = nn.Sequential(GaussianFourierProjection(ch), nn.Linear(ch, ch), nn.SiLU())
        self.conv_in, self.conv_out = nn.Conv2d(1, ch, 3, padding=1), nn.Conv2d(ch, 1, 3, padding=1)
        self.down, self.up = ResBlockBigGAN(ch, ch, ch), ResBlockBigGAN(ch, ch, ch, up=True)
        self.pyramid = nn.Conv2d(1, ch, 1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        temb = self.embed(torch.log(sigma))
        h = self.conv_in(2 * x - 1.0)
        low = self.down(h, temb) + self.pyramid(F.avg_pool2d(x, 2))
        h = (self.up(low, temb) + h) / math.sqrt(2.0)
        return self.conv_out(F.silu(h)) / sigma.view(-1, 1, 1, 1)


class ConditionalInstanceNormPlus(nn.Module):
    """Instance norm whose lost means come back, standardised over channels, with weights by label."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.instance_norm = nn.InstanceNorm2d(channels, affine=False, track_running_stats=False)
        self.embed = nn.Embedding(classes, channels * 3)
        self.embed.weight.data[:, : 2 * channels].normal_(1, 0.02)
        self.embed.weight.data[:, 2 * channels :].zero_()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        means = torch.mean(x, dim=(2, 3))
        m, v = torch.mean(means, dim=-1, keepdim=True), torch.var(means, dim=-1, keepdim=True)
        means = (means - m) / torch.sqrt(v + 1e-5)
        gamma, alpha, beta = self.embed(y).chunk(3, dim=-1)
        h = self.instance_norm(x) + means[..., None, None] * alpha[..., None, None]
        return gamma.view(-1, self.channels, 1, 1) * h + beta.view(-1, self.channels, 1, 1)


class RefineNet(nn.Module):
    """The first noise-conditional score network: levels as labels, dilation, chained pooling."""

    def __init__(self, ch: int = 4, levels: int = 5) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.logspace(0, -1, levels))
        self.begin, self.end = nn.Conv2d(1, ch, 3, padding=1), nn.Conv2d(ch, 1, 3, padding=1)
        self.norms = nn.ModuleList(ConditionalInstanceNormPlus(ch, levels) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(ch, ch, 3, padding=d, dilation=d) for d in (1, 2))
        self.pool = nn.AvgPool2d(5, stride=1, padding=2)
        self.act = nn.ELU()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.begin(2 * x - 1.0)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            h = h + conv(self.act(norm(h, y)))
        path = self.pool(h)
        h = h + path + self.pool(path)
        h = self.end(self.act(self.norms[-1](h, y)))
        return h / self.sigmas.index_select(0, y).view(x.shape[0], 1, 1, 1)


class PatchTransformer(nn.Module):
    """Patches by a strided convolution, one attention block, patches put back by views."""

    def __init__(self, dim: int = 8, patch: int = 2, size: int = 4) -> None:
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.embed = nn.Conv2d(1, dim, kernel_size=patch, stride=patch)
        self.pos = nn.Parameter(torch.randn(1, self.grid**2, dim) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.time, self.head = nn.Linear(1, dim), nn.Linear(dim, patch * patch)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.pos + self.time(t.view(-1, 1, 1))
        h = self.norm1(tokens)
        tokens = tokens + self.attn(h, h, h, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm2(tokens))
        out = self.head(tokens).view(x.shape[0], self.grid, self.grid, self.patch, self.patch)
        return out.permute(0, 1, 3, 2, 4).reshape(x.shape)


class DenoiserEnergy(nn.Module):
    """Half the squared distance to a denoised image: an energy made of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = DDPM()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * torch.sum((x - self.unet(x, t)) ** 2, dim=[1, 2, 3])


class ReLUUNet(nn.Module):
    """Max pooling, in-place ReLU, transposed convolution: legal for a score."""

    def __init__(self, ch: int = 4) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, ch, 3, padding=1), nn.ReLU(inplace=True))
        self.mid = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(ch, ch, 3, padding=1), nn.LeakyReLU(0.2, inplace=True))
        self.up = nn.ConvTranspose2d(ch, ch, 2, 2)
        self.dec = nn.Conv2d(2 * ch, 1, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enc(x)
        return self.dec(torch.cat((self.up(self.mid(skip)), skip), dim=1))


def net(name: str, build: object, size: int = 4, **options: object) -> Net:
    return Net(name, "unets", build, (1, size, size), **{"kind": "score", "cond": (times,), **options})


NETS = [
    net("ddpm-unet", DDPM),
    net("ddpm-unet-energy", DenoiserEnergy, kind="energy"),
    net("score-net-transposed", ScoreNet, size=7),
    net("ncsnpp", NCSNpp),
    net("ncsn-refine-labels", RefineNet, cond=(labels(5),), step=1e-5),
    net("patch-transformer", PatchTransformer),
    net("relu-unet", ReLUUNet, cond=(), step=1e-5),
]
