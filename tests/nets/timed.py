"""Scores and energies of a row of numbers with a time, a noise level or an observation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.net import Net, columns, times


class FourierTime(nn.Module):
    """Gaussian Fourier features of the time, added after the first layer; divided by the noise."""

    def __init__(self, dim: int = 3, width: int = 8) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(width // 2) * 2)
        self.time, self.inp = nn.Linear(width, width), nn.Linear(dim, width)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * self.freqs * 2 * math.pi
        emb = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)))
        h = F.silu(self.inp(x) + emb)
        h = F.silu(self.hidden(h) + emb)
        return self.out(h) / t.sqrt()[:, None]


class SinusoidalMLP(nn.Module):
    """Sines and cosines of the time joined to x at every layer."""

    def __init__(self, dim: int = 3, emb: int = 4, width: int = 8) -> None:
        super().__init__()
        self.emb = emb
        sizes = [dim, width, width]
        self.layers = nn.ModuleList(nn.Linear(s + emb, width) for s in sizes)
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        freq = torch.exp(-math.log(1000) * torch.arange(self.emb // 2, dtype=x.dtype) / (self.emb // 2 - 1))
        e = torch.cat((torch.sin(10 * t[:, None] * freq[None]), torch.cos(10 * t[:, None] * freq[None])), -1)
        h = x
        for layer in self.layers:
            h = F.gelu(layer(torch.cat([h, e], dim=-1)))
        return self.last(h)


class FiLM(nn.Module):
    """Scale and shift of each layer from the condition."""

    def __init__(self, dim: int = 4, cond: int = 3, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, width), nn.Linear(width, width)])
        self.films = nn.ModuleList([nn.Linear(cond, 2 * width), nn.Linear(cond, 2 * width)])
        self.energy = nn.Linear(width, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for layer, film in zip(self.layers, self.films, strict=True):
            gamma, beta = film(c).chunk(2, dim=-1)
            x = torch.tanh((1 + gamma) * layer(x) + beta)
        return self.energy(x)


class AdaNormMLP(nn.Module):
    """Residual blocks whose LayerNorm is shifted and scaled by the time, closed by a gate."""

    def __init__(self, dim: int = 3, width: int = 8) -> None:
        super().__init__()
        self.inp, self.time = nn.Linear(dim, width), nn.Sequential(nn.Linear(1, width), nn.SiLU())
        self.norm, self.ada = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.inp(x)
        shift, scale, gate = self.ada(self.time(t.unsqueeze(-1))).chunk(3, dim=-1)
        h = h + gate * self.mlp(torch.addcmul(shift, self.norm(h), 1 + scale))
        return self.out(h)


class EDM(nn.Module):
    """A denoiser with the scalings of Karras and others, turned into a score."""

    def __init__(self, dim: int = 3, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.map_layer = nn.Linear(1, 8)
        self.net = nn.Sequential(nn.Linear(dim + 8, 8), nn.SiLU(), nn.Linear(8, dim))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.reshape(-1, 1)
        total = sigma**2 + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        c_in, c_noise = 1 / total.sqrt(), sigma.log() / 4
        F_x = self.net(torch.cat([c_in * x, self.map_layer(c_noise).cos()], dim=1))
        return (c_skip * x + c_out * F_x - x) / sigma**2


class TimeEnergy(nn.Module):
    """An energy of x and time by an inner product, boundary conditions built in."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + 2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.view(-1, 1)
        inner = (self.net(torch.hstack([x, torch.sin(t), torch.cos(t)])) * x).sum(dim=-1)
        return (1 - t.squeeze(1)) * inner + t.squeeze(1) * 0.5 * x.square().sum(-1)


class HyperNetwork(nn.Module):
    """Weights of the first layer made from the condition, applied by `bmm`."""

    def __init__(self, dim: int = 3, cond: int = 2, width: int = 6) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.hyper = nn.Sequential(nn.Linear(cond, 8), nn.Tanh(), nn.Linear(8, width * dim + width))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        params = self.hyper(c)
        w, b = params[:, : self.width * self.dim].view(-1, self.width, self.dim), params[:, self.width * self.dim :]
        return self.out(F.softplus(torch.bmm(w, x[:, :, None])[:, :, 0] + b))


class Posterior(nn.Module):
    """An energy of parameters given an observation and a time: two embeddings joined in the middle."""

    def __init__(self, dim: int = 3, obs: int = 2, width: int = 6) -> None:
        super().__init__()
        self.theta_net, self.x_net = nn.Linear(dim, width), nn.Sequential(nn.Linear(obs, width), nn.ELU())
        self.t_net = nn.Linear(2, width)
        self.joint = nn.Sequential(nn.Linear(3 * width, 8), nn.ELU(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, dim))

    def forward(self, theta: Tensor, x_o: Tensor, t: Tensor) -> Tensor:
        emb = self.t_net(torch.stack([torch.sin(t), torch.cos(t)], dim=-1))
        return self.joint(torch.cat([F.silu(self.theta_net(theta)), self.x_net(x_o), emb], dim=-1))


def net(name: str, build: object, dim: int = 3, **options: object) -> Net:
    return Net(name, "timed", build, (dim,), **options)


TIMED_SCORE = {"kind": "score", "cond": (times,)}
NETS = [
    net("fourier-time", FourierTime, **TIMED_SCORE),
    net("sinusoidal-time", SinusoidalMLP, **TIMED_SCORE),
    net("film", FiLM, 4, cond=(columns(3),)),
    net("adaptive-layer-norm", AdaNormMLP, **TIMED_SCORE),
    net("edm-preconditioned", EDM, **TIMED_SCORE),
    net("time-energy", TimeEnergy, cond=(times,)),
    net("hypernetwork", HyperNetwork, cond=(columns(2),)),
    net("posterior", Posterior, kind="score", cond=(columns(2), times), step=1e-5),
]
