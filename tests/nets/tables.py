"""Energies and scores of a row of numbers: the ways in which people write a multilayer perceptron, and around it."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from tests.nets.net import Net, labels


def mlp(dim: int, out: int = 1, hidden: int = 8, act: type[nn.Module] = nn.Softplus) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, out))


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc1(x))
        x = F.softplus(self.fc2(x), beta=2.0)
        return self.fc3(x).view(-1)


class Normalised(nn.Module):
    """Standardise with buffers, then a network built by names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("std", 0.5 + torch.rand(4))
        self.model = nn.Sequential(
            OrderedDict(inp=nn.Linear(4, 8), act=nn.SiLU(), hidden=nn.Linear(8, 8), act2=nn.SiLU(), out=nn.Linear(8, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.mean) / self.std)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 8), nn.Linear(8, 4)
        self.hidden = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for layer in self.hidden:
            h = h + F.silu(layer(h))
        return self.out(h)


class InPlace(nn.Module):
    """In-place activations and sums: what saves memory in training loops."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 1)})
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.layers["a"](x))
        h2 = self.layers["b"](h)
        h2 += h
        h2.mul_(0.7).add_(0.1)
        return self.layers["c"](h2.tanh_())


class LayerNormMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((4, 8), (8, 8)):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU(), nn.Dropout(p=0.0)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Sine(nn.Module):
    def __init__(self, inp: int, out: int, omega: float = 30.0, first: bool = False) -> None:
        super().__init__()
        self.omega, self.linear = omega, nn.Linear(inp, out)
        bound = 1 / inp if first else math.sqrt(6 / inp) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Sine(3, 8, 5.0, first=True), Sine(8, 8, 5.0), nn.Linear(8, 1))

    def forward(self, coords: Tensor) -> Tensor:
        return self.net(coords)


class FourierFeatures(nn.Module):
    """Random frequencies in a buffer, and Gaussian bumps next to them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("B", torch.randn(3, 6))
        self.net = mlp(12)

    def forward(self, x: Tensor) -> Tensor:
        projected = 2 * math.pi * 0.3 * x @ self.B
        return self.net(torch.cat([torch.sin(projected), torch.cos(projected)], dim=-1)).squeeze(1)


class LoRALinear(nn.Module):
    """A frozen map and a low-rank one beside it."""

    def __init__(self, inp: int, out: int, rank: int = 2, alpha: float = 4.0) -> None:
        super().__init__()
        self.base = nn.Linear(inp, out).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(rank, inp)), nn.Parameter(torch.zeros(out, rank))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scaling


class ICNN(nn.Module):
    """Convex in its input: the weights between layers pass through a softplus."""

    def __init__(self, dim: int = 4, hidden: int = 8) -> None:
        super().__init__()
        self.wx = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(3))
        self.wz = nn.ParameterList(nn.Parameter(torch.randn(hidden, hidden) - 2) for _ in range(2))
        self.final = nn.Parameter(torch.randn(1, hidden))
        self.alpha = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        z = F.softplus(self.wx[0](x))
        for layer, w in zip(self.wx[1:], self.wz, strict=True):
            z = F.softplus(F.linear(z, F.softplus(w)) + layer(x))
        return F.linear(z, F.softplus(self.final)) + self.alpha.square() * (x * x).sum(1, keepdim=True)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(3, 1)
        self.plain, self.gate, self.glu = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        t = torch.sigmoid(self.gate(h) - 1.0)
        h = torch.tanh(self.plain(h)) * t + h * (1.0 - t)
        return self.out(F.glu(self.glu(h), dim=-1))


class Maxout(nn.Module):
    """The largest of several affine maps: a score, as its derivatives jump."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(4, 6 * 3), nn.Linear(6, 4 * 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lin1(x).view(-1, 6, 3).max(-1)
        a, b = self.lin2(h).chunk(2, 1)
        return torch.maximum(a, b).clamp(-5.0, 5.0)


class ChebyshevKAN(nn.Module):
    """Chebyshev polynomials of a squashed input by their recurrence, with weights of each pair."""

    def __init__(self, dims: tuple[int, ...] = (3, 5, 1), degree: int = 3) -> None:
        super().__init__()
        self.degree = degree
        pairs = itertools.pairwise(dims)
        self.coeffs = nn.ParameterList(nn.Parameter(torch.randn(a, b, degree + 1) / (a * degree)) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for c in self.coeffs:
            x = torch.tanh(x)
            T = [torch.ones_like(x), x]
            for n in range(2, self.degree + 1):
                T.append(2 * x * T[n - 1] - T[n - 2])
            x = torch.einsum("bid,iod->bo", torch.stack(T, dim=-1), c)
        return x


class SplineKAN(nn.Module):
    """Cubic B-splines by the recursion of Cox and de Boor, next to a SiLU path."""

    def __init__(self, dim: int = 3, out: int = 3, grid: int = 4, order: int = 3) -> None:
        super().__init__()
        self.order = order
        step = 4.0 / grid
        self.register_buffer("grid", (torch.arange(-order, grid + order + 1) * step - 2.0).expand(dim, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out, dim) * 0.5)
        self.spline_weight = nn.Parameter(torch.randn(out, dim, grid + order) * 0.5)

    def b_splines(self, x: Tensor) -> Tensor:
        x, grid = x.unsqueeze(-1), self.grid
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)])
            bases = left * bases[:, :, :-1] + right * bases[:, :, 1:]
        return bases

    def forward(self, x: Tensor) -> Tensor:
        spline = F.linear(self.b_splines(x).flatten(1), self.spline_weight.flatten(1))
        return F.linear(F.silu(x), self.base_weight) + spline


class CosineHead(nn.Module):
    """The largest cosine similarity to prototypes, softly, and a penalty on the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.prototypes = mlp(4, 6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        sim = F.cosine_similarity(z.unsqueeze(1), self.prototypes.unsqueeze(0), dim=-1)
        return -torch.logsumexp(5.0 * sim, dim=1) + 0.1 * torch.linalg.vector_norm(x, dim=1)


class ClassConditional(nn.Module):
    """One energy per class, picked by the label (JEM), and an embedding of the label."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(classes, 5)
        self.body, self.logits = mlp(4 + 5, 8), nn.Linear(8, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.logits(self.body(torch.cat((x, self.label_emb(y)), dim=1)))
        return -torch.gather(logits, 1, y[:, None]).squeeze(1)


class RecurrentRefine(nn.Module):
    """Several gradient-like steps with shared weights, the last state's energy by a bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.step = nn.Linear(6, 6, bias=False), nn.Linear(4, 6), nn.Parameter(torch.tensor(0.5))
        self.bilinear = nn.Bilinear(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros(x.shape[0], 6, dtype=x.dtype, device=x.device)
        for _ in range(3):
            z = z + self.step * (torch.tanh(self.w(z) + self.u(x)) - z)
        return self.bilinear(z, x)


class Orthogonal(nn.Module):
    """Weights with orthonormal columns, a learned slope for each unit (LSUV swish)."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = parametrizations.orthogonal(nn.Linear(4, 4, bias=False), orthogonal_map="householder")
        self.l2, self.beta = parametrizations.weight_norm(nn.Linear(4, 1)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.l1(x)
        return self.l2(h * torch.sigmoid(F.softplus(self.beta) * h) / 1.1)


class UnusedHead(nn.Module):
    """A head that the energy does not use, and a bias that only shifts it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.energy, self.classifier = mlp(4, 8), nn.Linear(8, 1), nn.Linear(8, 3)
        self.c = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return -self.energy(self.trunk(x)) - self.c


class BatchNormMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Envelope(nn.Module):
    """A network, a quadratic envelope, and weights by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, act=nn.GELU)
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.tensor(0.3)), "mu": nn.Parameter(torch.zeros(4))})

    def forward(self, x: Tensor) -> Tensor:
        return torch.squeeze(self.net(x), -1) + self.scales["a"] * (x - self.scales["mu"]).square().sum(1)


class SlopeScore(nn.Module):
    """Activations of phones: PReLU with a slope for each unit, hard swish, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward(x)


def net(name: str, build: object, dim: int = 4, **options: object) -> Net:
    return Net(name, "tables", build, (dim,), **options)


NETS = [
    net("sequential", lambda: mlp(4)),
    net("sequential-score", lambda: mlp(4, 4, act=nn.ELU), kind="score", step=1e-5),
    net("wrapper", Wrapper),
    net("own-forward", Functional),
    net("normalised", Normalised),
    net("residual", Residual, kind="score"),
    net("in-place", InPlace),
    net("layer-norm-mlp", LayerNormMLP),
    net("batch-norm-mlp", BatchNormMLP, kind="score", settle=3, train=False),
    net("siren", Siren, 3),
    net("siren-in-sequential", lambda: nn.Sequential(Sine(3, 8, 4.0, first=True), Sine(8, 8, 4.0), nn.Linear(8, 1)), 3),
    net("selu", lambda: mlp(4, 4, act=nn.SELU), kind="score", step=1e-5),
    net("averaged-model", lambda: AveragedModel(mlp(4, act=nn.Tanh))),
    net("envelope", Envelope),
    net("phone-activations", SlopeScore, kind="score", step=1e-5),
    net("fourier-features", FourierFeatures, 3),
    net(
        "lora",
        lambda: nn.Sequential(LoRALinear(4, 8), nn.Softplus(), LoRALinear(8, 8), nn.Softplus(), LoRALinear(8, 1)),
    ),
    net("icnn", ICNN),
    net("highway-glu", Highway),
    net("maxout", Maxout, kind="score", step=1e-5),
    net("kan-chebyshev", ChebyshevKAN, 3),
    net("kan-splines", SplineKAN, 3, kind="score", step=1e-4),
    net("cosine-prototypes", CosineHead),
    net("class-conditional", ClassConditional, cond=(labels(4),)),
    net("recurrent-bilinear", RecurrentRefine),
    net("orthogonal-weights", Orthogonal),
    net("unused-head", UnusedHead),
]
