"""Normalizing flows as energies, and the fields of continuous ones."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from tests.nets.net import Net, times


class RealNVP(nn.Module):
    """Affine couplings with alternating masks: minus the log-density."""

    def __init__(self, dim: int = 4, hidden: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.register_buffer("mask", torch.stack([torch.arange(dim) % 2 == i % 2 for i in range(layers)]).float())

        def make(*last: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim), *last)

        self.s = nn.ModuleList(make(nn.Tanh()) for _ in range(layers))
        self.t = nn.ModuleList(make() for _ in range(layers))

    def f(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det_J, z = x.new_zeros(x.shape[0]), x
        for i in reversed(range(len(self.t))):
            z_ = self.mask[i] * z
            s = self.s[i](z_) * (1 - self.mask[i])
            t = self.t[i](z_) * (1 - self.mask[i])
            z = (1 - self.mask[i]) * (z - t) * torch.exp(-s) + z_
            log_det_J -= s.sum(dim=1)
        return z, log_det_J

    def forward(self, x: Tensor) -> Tensor:
        z, logp = self.f(x)
        return 0.5 * (z**2).sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi) - logp


class NICE(nn.Module):
    """Additive couplings of halves, a diagonal scale and a logistic base density."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(dim // 2, 8), nn.Softplus(), nn.Linear(8, dim // 2)) for _ in range(3)
        )
        self.log_scale = nn.Parameter(torch.zeros(1, dim))

    def forward(self, x: Tensor) -> Tensor:
        for net in self.nets:
            x1, x2 = x.chunk(2, dim=1)
            x = torch.cat([x2 + net(x1), x1], dim=1)
        z = x * torch.exp(self.log_scale)
        log_prob = -(F.softplus(z) + F.softplus(-z)).sum(1)
        return -(log_prob + self.log_scale.sum())


class MaskedLinear(nn.Linear):
    def __init__(self, inp: int, out: int, mask: Tensor) -> None:
        super().__init__(inp, out)
        self.register_buffer("mask", mask.float())

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.mask * self.weight, self.bias)


class MAF(nn.Module):
    """A masked autoregressive network for means and scales, orders reversed between layers."""

    def __init__(self, dim: int = 3, hidden: int = 6) -> None:
        super().__init__()
        order = torch.arange(1, dim + 1)
        degrees = torch.arange(hidden) % (dim - 1) + 1
        self.nets = nn.ModuleList(
            nn.Sequential(
                MaskedLinear(dim, hidden, degrees[:, None] >= order),
                nn.SiLU(),
                MaskedLinear(hidden, 2 * dim, (order[:, None] > degrees).repeat(2, 1)),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        log_det = 0.0
        for made in self.nets:
            mu, alpha = torch.split(made(x), x.shape[-1], dim=-1)
            x = (x - mu) * torch.exp(alpha)
            log_det = log_det + alpha.sum(-1)
            x = x.flip(dims=(1,))
        base = distributions.Normal(torch.zeros_like(x), torch.ones_like(x), validate_args=False)
        return -(base.log_prob(x).sum(dim=-1) + log_det)


class Glow(nn.Module):
    """Activation norm, an invertible matrix, an affine coupling with a sigmoid."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(dim, dim))[0])
        self.net = nn.Sequential(nn.Linear(dim // 2, 8), nn.SiLU(), nn.Linear(8, dim))

    def forward(self, x: Tensor) -> Tensor:
        z = (x + self.loc) * self.log_scale.exp()
        z = z @ self.weight.t()
        a, b = z[:, : z.shape[1] // 2], z[:, z.shape[1] // 2 :]
        raw, shift = self.net(a).chunk(2, 1)
        scale = torch.sigmoid(raw + 2.0)
        z = torch.cat([a, (b + shift) * scale], 1)
        log_det = torch.log(scale).sum(1) + torch.slogdet(self.weight)[1] + self.log_scale.sum()
        return z.square().sum(1) / 2 - log_det


class Planar(nn.Module):
    """Planar flows: the logarithm of an absolute value."""

    def __init__(self, dim: int = 3, layers: int = 3) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.randn(layers, dim) * 0.3), nn.Parameter(torch.randn(layers, dim))
        self.b = nn.Parameter(torch.zeros(layers))

    def forward(self, z: Tensor) -> Tensor:
        log_det = torch.zeros(z.shape[0], dtype=z.dtype)
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            uw = torch.dot(u, w)
            u_hat = u + (F.softplus(uw) - 1 - uw) * w / w.pow(2).sum()
            act = torch.tanh(z @ w + b)
            psi = (1 - act**2)[:, None] * w
            log_det += torch.log(torch.abs(1 + psi @ u_hat) + 1e-8)
            z = z + u_hat * act.unsqueeze(-1)
        return 0.5 * z.pow(2).sum(-1) - log_det


class SplineFlow(nn.Module):
    """Monotone rational-quadratic splines whose bins come from `searchsorted` and `gather`."""

    def __init__(self, dim: int = 3, bins: int = 4, bound: float = 3.0) -> None:
        super().__init__()
        self.bound, self.bins = bound, bins
        self.widths, self.heights = (nn.Parameter(torch.randn(dim, bins)) for _ in range(2))
        self.slopes = nn.Parameter(torch.randn(dim, bins + 1))

    def knots(self, raw: Tensor) -> Tensor:
        sizes = 0.01 + (1 - 0.01 * self.bins) * F.softmax(raw, dim=-1)
        return 2 * self.bound * F.pad(torch.cumsum(sizes, dim=-1), (1, 0)) - self.bound

    def forward(self, x: Tensor) -> Tensor:
        at, to, slopes = self.knots(self.widths), self.knots(self.heights), 0.01 + F.softplus(self.slopes)
        x = x.clamp(-0.999 * self.bound, 0.999 * self.bound)
        k = (torch.searchsorted(at, x.detach().t().contiguous(), right=True) - 1).clamp(0, self.bins - 1)
        x0, x1, y0, y1 = (t.gather(1, i).t() for t in (at, to) for i in (k, k + 1))
        d0, d1 = slopes.gather(1, k).t(), slopes.gather(1, k + 1).t()
        s, theta = (y1 - y0) / (x1 - x0), (x - x0) / (x1 - x0)
        both = theta * (1 - theta)
        below = s + (d1 + d0 - 2 * s) * both
        z = y0 + (y1 - y0) * (s * theta.pow(2) + d0 * both) / below
        slope = s.pow(2) * (d1 * theta.pow(2) + 2 * s * both + d0 * (1 - theta).pow(2)) / below.pow(2)
        return (0.5 * z.pow(2) - torch.log(slope)).sum(dim=1)


class Gaussianization(nn.Module):
    """A mixture of logistic distribution functions of each coordinate, and a rotation by Householder vectors."""

    def __init__(self, dim: int = 3, components: int = 4) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.linspace(-2, 2, components).repeat(dim, 1))
        self.log_scales, self.logits = (nn.Parameter(torch.zeros(dim, components)) for _ in range(2))
        self.reflection = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        v = F.normalize(self.reflection, dim=0)
        x = x - 2 * (x @ v)[:, None] * v
        u = (x[..., None] - self.means) / self.log_scales.exp()
        log_pdf = F.logsigmoid(u) + F.logsigmoid(-u) - self.log_scales + F.log_softmax(self.logits, -1)
        return -torch.logsumexp(log_pdf, dim=-1).sum(-1)


# --- fields of continuous flows ---


class ConcatField(nn.Module):
    def __init__(self, dim: int = 3, hidden: int = 8) -> None:
        super().__init__()
        dims = [dim, hidden, hidden, dim]
        self.layers = nn.ModuleList(nn.Linear(a + 1, b) for a, b in itertools.pairwise(dims))
        self.activation = nn.Softplus()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            tt = torch.ones_like(x[:, :1]) * t[:, None]
            x = layer(torch.cat([tt, x], 1))
            if i < len(self.layers) - 1:
                x = self.activation(x)
        return x


class ConcatSquashLinear(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self._layer = nn.Linear(inp, out)
        self._hyper_bias, self._hyper_gate = nn.Linear(1, out, bias=False), nn.Linear(1, out)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self._layer(x) * torch.sigmoid(self._hyper_gate(t.view(-1, 1))) + self._hyper_bias(t.view(-1, 1))


class SquashField(nn.Module):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ConcatSquashLinear(dim, 8), ConcatSquashLinear(8, 8), ConcatSquashLinear(8, dim)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dx = x
        for k, layer in enumerate(self.layers):
            dx = layer(t, dx)
            if k < len(self.layers) - 1:
                dx = torch.tanh(dx)
        return dx


class HyperField(nn.Module):
    """Weights of a sum of planar fields made from the time, applied by batched products."""

    def __init__(self, dim: int = 3, width: int = 5) -> None:
        super().__init__()
        self.dim, self.width, self.block = dim, width, dim * width
        self.hyper_net = nn.Sequential(
            nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3 * self.block + width)
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        params = self.hyper_net(t.reshape(-1, 1))
        w, u, gate, b = params.split([self.block, self.block, self.block, self.width], dim=1)
        w, u = w.reshape(-1, self.width, self.dim), u.reshape(-1, self.dim, self.width)
        u = u * torch.sigmoid(gate.reshape(-1, self.dim, self.width))
        h = torch.tanh(torch.bmm(w, z.unsqueeze(2)) + b.unsqueeze(2))
        return torch.bmm(u, h).squeeze(2) / self.width


class PotentialFlow(nn.Module):
    """OT-Flow: a residual network with the antiderivative of tanh, a low-rank quadratic form and a linear term."""

    def __init__(self, dim: int = 3, m: int = 8) -> None:
        super().__init__()
        self.opening, self.hidden = nn.Linear(dim + 1, m), nn.Linear(m, m)
        self.w = nn.Linear(m, 1, bias=False)
        self.A = nn.Parameter(torch.randn(2, dim + 1) * 0.3)
        self.c = nn.Linear(dim + 1, 1)

    def sigma(self, x: Tensor) -> Tensor:
        return torch.abs(x) + torch.log(1 + torch.exp(-2.0 * torch.abs(x)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = F.pad(x, (0, 1)) + F.pad(t[:, None], (x.shape[1], 0))
        u = self.sigma(self.opening(x))
        u = u + 0.5 * self.sigma(self.hidden(u))
        symmetric = torch.matmul(torch.t(self.A), self.A)
        return self.w(u) + 0.5 * torch.sum(torch.matmul(x, symmetric) * x, dim=1, keepdim=True) + self.c(x)


def net(name: str, build: object, dim: int, **options: object) -> Net:
    return Net(name, "flows", build, (dim,), **options)


FIELD = {"kind": "score", "cond": (times,)}
NETS = [
    net("realnvp", RealNVP, 4),
    net("nice", NICE, 4),
    net("maf", MAF, 3),
    net("glow", Glow, 4),
    net("planar-flow", Planar, 3),
    net("spline-flow", SplineFlow, 3, step=1e-3),
    net("gaussianization", Gaussianization, 3),
    net("ffjord-concat", ConcatField, 3, **FIELD),
    net("ffjord-concat-squash", SquashField, 3, **FIELD),
    net("cnf-hypernet", HyperField, 3, **FIELD),
    net("ot-flow-potential", PotentialFlow, 3, cond=(times,)),
]
