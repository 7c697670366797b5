"""Wave functions of electrons, potentials of atoms, and messages along the edges of a graph."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.net import Net, times


class FermiNet(nn.Module):
    """Streams of one and of two electrons, envelopes, and a sum of products of two determinants; `-2 log |psi|`."""

    def __init__(self, up: int = 2, down: int = 2, h1: int = 6, h2: int = 4, dets: int = 2) -> None:
        super().__init__()
        self.n, self.spins, self.dets = up + down, (up, down), dets
        self.register_buffer("atoms", torch.tensor([[0.0, 0.0, -0.7], [0.0, 0.0, 0.7]]))
        one, two = 4 * 2, 4
        self.V = nn.ModuleList([nn.Linear(3 * one + 2 * two, h1), nn.Linear(3 * h1 + 2 * h2, h1)])
        self.W = nn.ModuleList([nn.Linear(two, h2)])
        self.orbitals = nn.ModuleList(nn.Linear(h1, dets * n) for n in self.spins)
        self.sigma = nn.ParameterList(nn.Parameter(torch.ones(2, dets * n)) for n in self.spins)
        self.pi = nn.ParameterList(nn.Parameter(torch.ones(2, dets * n)) for n in self.spins)

    def features(self, h: Tensor, g: Tensor) -> Tensor:
        up = self.spins[0]
        means = [h[:, :up].mean(1, keepdim=True), h[:, up:].mean(1, keepdim=True)]
        pairs = [g[:, :, :up].mean(2), g[:, :, up:].mean(2)]
        return torch.cat([h, *(m.expand(-1, self.n, -1) for m in means), *pairs], dim=-1)

    def forward(self, r: Tensor) -> Tensor:
        r = r.view(-1, self.n, 3)
        ra = r[:, :, None] - self.atoms
        ra_len = ra.norm(dim=-1, keepdim=True)
        rr = r[:, :, None] - r[:, None, :]
        eye = torch.eye(self.n, dtype=r.dtype)[..., None]
        rr_len = torch.norm(rr + eye, dim=-1, keepdim=True) * (1.0 - eye)
        h, g = torch.cat([ra, ra_len], -1).flatten(2), torch.cat([rr, rr_len], -1)
        h = torch.tanh(self.V[0](self.features(h, g)))
        g = torch.tanh(self.W[0](g))
        h = h + torch.tanh(self.V[1](self.features(h, g)))
        signs, logs = [], []
        for spin, part in enumerate((slice(0, self.spins[0]), slice(self.spins[0], self.n))):
            decay = torch.exp(-torch.abs(self.sigma[spin] * ra_len[:, part]))
            orbitals = self.orbitals[spin](h[:, part]) * (self.pi[spin] * decay).sum(2)
            matrix = orbitals.unflatten(-1, (self.dets, -1)).transpose(1, 2)
            sign, log = torch.linalg.slogdet(matrix)
            signs.append(sign)
            logs.append(log)
        log = logs[0] + logs[1]
        top = log.max(dim=-1, keepdim=True)[0].detach()
        psi = torch.sum(signs[0] * signs[1] * torch.exp(log - top), dim=-1)
        return -2 * (torch.log(torch.abs(psi)) + top.squeeze(-1))


class JastrowSlater(nn.Module):
    """A determinant of Gaussians, a cusp of each pair, and a network of the pair distances."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.n, self.idx = n, torch.triu_indices(n, n, offset=1)
        self.centers, self.zeta = nn.Parameter(torch.randn(n, 3)), nn.Parameter(torch.ones(n))
        self.cusp = nn.Parameter(torch.tensor(1.0))
        self.jastrow = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1, bias=False))

    def forward(self, r: Tensor) -> Tensor:
        i, j = self.idx
        distances = (r[:, i] - r[:, j]).norm(dim=-1)
        squared = (r.unsqueeze(2) - self.centers).pow(2).sum(-1)
        orbitals = torch.exp(-self.zeta.abs() * squared)
        asymptotic = -0.25 / (self.cusp.abs() * (1 + self.cusp.abs() * distances))
        correlation = self.jastrow(distances.unsqueeze(-1)).squeeze(-1)
        return -2 * (torch.linalg.slogdet(orbitals).logabsdet + (asymptotic + correlation).sum(dim=-1))


class DeepSet(nn.Module):
    """A sum over particles, then a network of the sum; symmetric in the particles."""

    def __init__(self, dim: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.rho = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.omega = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        pooled = self.phi(x.reshape(b * n, d)).view(b, n, -1).sum(dim=1)
        return self.rho(pooled).squeeze(-1) + self.omega * (x**2).sum((-2, -1))


class EquivariantSet(nn.Module):
    """Every particle's own map plus one of the mean: a score for sets."""

    def __init__(self, dim: int = 2, hidden: int = 6) -> None:
        super().__init__()
        widths = [dim, hidden, hidden, dim]
        pairs = list(itertools.pairwise(widths))
        self.gamma = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.mixing = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for i, (own, of_mean) in enumerate(zip(self.gamma, self.mixing, strict=True)):
            x = own(x) - of_mean(x.mean(dim=-2, keepdim=True))
            if i < len(self.gamma) - 1:
                x = F.elu(x)
        return x


class SchNet(nn.Module):
    """Filters from distances smeared over Gaussians, messages summed by `index_add`, a cosine cutoff."""

    def __init__(self, atoms: int = 4, width: int = 6, gaussians: int = 5, cutoff: float = 3.75) -> None:
        super().__init__()
        self.cutoff = cutoff
        source, target = torch.meshgrid(torch.arange(atoms), torch.arange(atoms), indexing="ij")
        self.register_buffer("edges", torch.stack([source, target])[:, source != target])
        self.register_buffer("species", torch.tensor([0, 1, 1, 2])[:atoms])
        self.register_buffer("offset", torch.linspace(0.0, cutoff, gaussians))
        self.coeff = -0.5 / (cutoff / (gaussians - 1)) ** 2
        self.embedding = nn.Embedding(3, width)
        self.filters = nn.Sequential(nn.Linear(gaussians, width), nn.Softplus(), nn.Linear(width, width))
        self.lin1, self.lin2 = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.out = nn.Sequential(nn.Linear(width, 4), nn.Softplus(), nn.Linear(4, 1))
        self.shift = math.log(2.0)

    def forward(self, pos: Tensor) -> Tensor:
        i, j = self.edges
        distance = (pos[:, i] - pos[:, j]).pow(2).sum(-1).sqrt()
        smeared = torch.exp(self.coeff * (distance[..., None] - self.offset) ** 2)
        window = 0.5 * (torch.cos(distance * math.pi / self.cutoff) + 1.0) * (distance < self.cutoff).to(pos.dtype)
        filters = self.filters(smeared) * window[..., None]
        h = self.embedding(self.species).expand(pos.shape[0], -1, -1)
        messages = self.lin1(h)[:, j] * filters
        h = h + self.lin2(torch.zeros_like(h).index_add(1, i, messages))
        atomic = self.out(F.softplus(h) - self.shift)
        return torch.sum(atomic, dim=1).squeeze(-1)


class EGNN(nn.Module):
    """Coordinates moved along differences, with `scatter_add` over edges: an equivariant score."""

    def __init__(self, n: int = 4, hidden: int = 6) -> None:
        super().__init__()
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        self.rows, self.cols = torch.tensor(pairs).unbind(1)
        self.h0 = nn.Parameter(torch.randn(n, hidden) * 0.5)
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden + 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.coord_mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        self.att_mlp = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        row, col, coord = self.rows, self.cols, x
        h = self.h0.unsqueeze(0).repeat(x.size(0), 1, 1)
        for _ in range(2):
            diff = coord[:, row] - coord[:, col]
            radial = torch.sum(diff**2, -1, keepdim=True)
            diff = diff / (torch.sqrt(radial + 1e-8) + 1)
            edge_t = t[:, None, None].expand(-1, len(row), 1)
            m = self.edge_mlp(torch.cat([h[:, row], h[:, col], radial, edge_t], dim=-1))
            m = m * self.att_mlp(m)
            where = row[None, :, None]
            trans = diff * self.coord_mlp(m)
            coord = coord + torch.zeros_like(coord).scatter_add(1, where.expand_as(trans), trans) / (len(row) ** 0.5)
            agg = torch.zeros_like(h).scatter_add_(1, where.expand_as(m), m)
            h = h + self.node_mlp(torch.cat([h, agg], dim=-1))
        vel = coord - x
        return vel - vel.mean(dim=1, keepdim=True)


class GraphConv(nn.Module):
    """A normalised adjacency of fixed edges, then pooling over nodes by the log of a sum."""

    def __init__(self, nodes: int = 5, width: int = 6) -> None:
        super().__init__()
        adjacency = torch.eye(nodes) + torch.roll(torch.eye(nodes), 1, 0) + torch.roll(torch.eye(nodes), -1, 0)
        degree = adjacency.sum(1).rsqrt()
        self.register_buffer("adj", degree[:, None] * adjacency * degree, persistent=False)
        self.w1, self.w2 = nn.Parameter(torch.randn(2, width) * 0.5), nn.Parameter(torch.randn(width, width) * 0.4)
        self.readout = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(torch.matmul(self.adj, x @ self.w1))
        h = F.silu(torch.einsum("nm,bmi,io->bno", self.adj, h, self.w2)) + h
        return self.readout(torch.logsumexp(h, dim=1))


class PairPotential(nn.Module):
    """Lennard-Jones with learned parameters, an inverse square root softened, and a harmonic trap."""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.register_buffer("mask", ~torch.eye(n, dtype=torch.bool))
        self.log_eps, self.log_sigma = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor(-0.5))
        self.charges, self.k = nn.Parameter(torch.randn(n)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        r2 = (x[:, :, None, :] - x[:, None, :, :]).square().sum(-1).masked_fill(~self.mask, 1.0) + 0.5
        ratio = (self.log_sigma.exp().square() / r2) ** 3
        lj = 4 * self.log_eps.exp() * (ratio * ratio - ratio)
        coulomb = self.charges[:, None] * self.charges[None, :] * torch.rsqrt(r2)
        centred = x - x.mean(1, keepdim=True)
        return 0.5 * ((lj + coulomb) * self.mask).sum(dim=(1, 2)) + 0.5 * self.k * centred.pow(2).sum(dim=(1, 2))


class DistanceKernel(nn.Module):
    """Minus the log of a kernel sum over `torch.cdist` to learned points."""

    def __init__(self, dim: int = 3, points: int = 5) -> None:
        super().__init__()
        self.points, self.bandwidth = nn.Parameter(torch.randn(points, dim)), nn.Parameter(torch.tensor(0.8))

    def forward(self, x: Tensor) -> Tensor:
        d = torch.cdist(x, self.points)
        return -torch.logsumexp(-d.pow(2) / (2 * self.bandwidth**2) - 0.1 * d, dim=1)


class GraphAttention(nn.Module):
    """Attention along edges, normalised over neighbours by gather and scatter."""

    def __init__(self, n: int = 5, width: int = 4) -> None:
        super().__init__()
        ring = torch.arange(n)
        self.src, self.dst = torch.cat([ring, (ring + 1) % n, ring]), torch.cat([(ring + 1) % n, ring, ring])
        self.lin, self.att = nn.Linear(2, width), nn.Parameter(torch.randn(2 * width))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x)
        source = h.index_select(1, self.src)
        edge = torch.cat((source, h.index_select(1, self.dst)), -1)
        weight = torch.exp(torch.tanh(edge @ self.att))
        index = self.dst.expand(len(x), -1)
        total = x.new_zeros(len(x), x.shape[1]).scatter_add(1, index, weight)
        alpha = weight / total.gather(1, index)
        h = torch.zeros_like(h).index_add_(1, self.dst, alpha.unsqueeze(-1) * source)
        return self.out(F.mish(h)).sum((1, 2))


def net(name: str, build: object, *shape: int, **options: object) -> Net:
    return Net(name, "physics", build, shape, **options)


NETS = [
    net("ferminet", FermiNet, 12, spread=1.0, step=2e-3),
    net("jastrow-slater", JastrowSlater, 3, 3, spread=1.0, step=5e-3),
    net("deep-set", DeepSet, 4, 2),
    net("deep-set-score", EquivariantSet, 4, 2, kind="score", step=1e-5),
    net("schnet", SchNet, 4, 3, spread=1.2, step=6e-3),
    net("egnn", EGNN, 4, 3, kind="score", cond=(times,)),
    net("graph-convolution", GraphConv, 5, 2),
    net("graph-attention", GraphAttention, 5, 2),
    net("pair-potential", PairPotential, 4, 3),
    net("cdist-kernel", DistanceKernel, 3),
]
