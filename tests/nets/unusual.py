"""Networks with an operation that few have: derivatives inside, checkpoints, eigenvalues, sampling grids, sorting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.nets.net import Net


class ConservativeScore(nn.Module):
    """Minus the gradient of a scalar network, taken inside the forward: a score that is a gradient."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.potential = nn.Sequential(
            nn.Linear(dim, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_(True)
            energy = self.potential(x).sum()
            return -torch.autograd.grad(energy, x, create_graph=True)[0]


class FunctionalGradient(nn.Module):
    """The same by `torch.func`, one sample at a time under `vmap`."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(dim, 8), nn.Linear(8, 1)

    def energy(self, x: Tensor) -> Tensor:
        return self.lin2(torch.tanh(self.lin1(x))).squeeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(self.energy))(x)


class Checkpointed(nn.Module):
    """Blocks whose insides are computed again in the backward."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(dim, 8), nn.SiLU(), nn.Linear(8, dim)) for _ in range(2))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.out(self.norm(x))


class CoulombSpectrum(nn.Module):
    """A network of the eigenvalues of a matrix of pairs, in their order."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.register_buffer("eye", torch.eye(n))
        self.charges, self.net = nn.Parameter(torch.linspace(1.0, 2.0, n)), nn.Linear(n, 1)

    def forward(self, x: Tensor) -> Tensor:
        r2 = (x.unsqueeze(1) - x.unsqueeze(2)).pow(2).sum(-1)
        pairs = torch.outer(self.charges, self.charges) / torch.sqrt(r2 + 1.0)
        matrix = pairs * (1 - self.eye) + torch.diag(0.5 * self.charges.abs().pow(2.4))
        return self.net(torch.linalg.eigvalsh(matrix).tanh())


class SpatialTransformer(nn.Module):
    """An image sampled on a grid that a small network turns and stretches."""

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh())
        self.register_buffer("identity", torch.tensor([[0.8, 0.0, 0.1], [0.1, 0.7, 0.0]]))
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.identity + 0.1 * self.localization(x).view(-1, 2, 3)
        warped = F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)
        return F.softplus(self.conv(warped)).sum((1, 2, 3))


class SortPooling(nn.Module):
    """The particles in the order of one feature, the largest kept."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.out = nn.Linear(2, 3), nn.Linear(6 + 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.softplus(self.features(x))
        order = h[..., 0].argsort(dim=1)
        ordered = torch.gather(h, 1, order.unsqueeze(-1).expand_as(h))[:, -2:]
        top, _ = torch.topk(h[..., 1], k=2, dim=1)
        return self.out(torch.cat([ordered.flatten(1), top], dim=1))


class Unrolled(nn.Module):
    """Four stages of a Runge-Kutta step of a field, then the density of a Gaussian at its end."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.f, self.h = nn.Sequential(nn.Linear(dim, 6), nn.Tanh(), nn.Linear(6, dim)), 0.25
        self.rotation = nn.Parameter(torch.randn(dim, dim) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            k1 = self.f(x)
            k2 = self.f(x + 0.5 * self.h * k1)
            k3 = self.f(x + 0.5 * self.h * k2)
            k4 = self.f(x + self.h * k3)
            x = x + self.h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return 0.5 * (x @ torch.matrix_exp(self.rotation - self.rotation.t())).pow(2.0).sum(-1)


class LocalPatches(nn.Module):
    """A network of each patch by `unfold`, and the spectrum of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.spectrum = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, kernel_size=2, stride=1).transpose(1, 2)
        power = torch.fft.rfft(x, dim=-1).abs().square().mean((1, 2))
        return F.softplus(self.patch(patches)).mean((1, 2)) + power.add(1.0).log() @ self.spectrum


class Scaled(nn.Module):
    """Vectors of length one on a sphere, angles, and a temperature held as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.kappa, self.mu = 2.0, nn.Parameter(torch.randn(4, 3))
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        r = x.norm(p=2, dim=1, keepdim=True)
        cos = (x / r) @ F.normalize(self.mu, dim=1).t()
        turned = torch.atan2(x[:, 1], x[:, 0] + 3.0)
        von_mises = torch.logsumexp(self.kappa * cos + self.weight.log_softmax(0), dim=1)
        return 0.5 * (r.squeeze(1) - 1.0) ** 2 - von_mises + 0.3 * turned**2


def net(name: str, build: object, *shape: int, **options: object) -> Net:
    return Net(name, "unusual", build, shape, **options)


NETS = [
    net("conservative-score", ConservativeScore, 3, kind="score"),
    net("functional-gradient", FunctionalGradient, 3, kind="score"),
    net("checkpointed", Checkpointed, 4),
    net("coulomb-spectrum", CoulombSpectrum, 3, 3),
    net("spatial-transformer", SpatialTransformer, 1, 4, 4),
    net("sort-pooling", SortPooling, 5, 2, step=3e-3),
    net("unrolled-runge-kutta", Unrolled, 3),
    net("local-patches", LocalPatches, 1, 4, 4),
    net("von-mises-fisher", Scaled, 3),
]
