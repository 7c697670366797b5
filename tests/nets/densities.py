"""Mixtures, products of experts, ensembles, kernels and quadratic forms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from tests.nets.net import Net, columns


class GaussianMixture(nn.Module):
    """Full covariances by their Cholesky factors, weighed in a `logsumexp`."""

    def __init__(self, dim: int = 3, components: int = 4) -> None:
        super().__init__()
        self.logits, self.loc = nn.Parameter(torch.zeros(components)), nn.Parameter(torch.randn(components, dim))
        self.raw = nn.Parameter(torch.randn(components, dim, dim) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        L = torch.tril(self.raw, -1) + torch.diag_embed(F.softplus(torch.diagonal(self.raw, dim1=-2, dim2=-1)))
        delta = x[:, None, :] - self.loc
        z = torch.einsum("kij,bkj->bki", L, delta)
        log_det = torch.diagonal(L, dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * z.square().sum(-1) + log_det - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return -torch.logsumexp(F.log_softmax(self.logits, 0) + log_prob, dim=1)


class MixtureDistribution(nn.Module):
    """The same by `torch.distributions`."""

    def __init__(self, dim: int = 3, components: int = 4) -> None:
        super().__init__()
        self.logits, self.loc = nn.Parameter(torch.zeros(components)), nn.Parameter(torch.randn(components, dim))
        self.log_scale = nn.Parameter(torch.zeros(components, dim))

    def forward(self, x: Tensor) -> Tensor:
        each = distributions.Independent(distributions.Normal(self.loc, self.log_scale.exp()), 1)
        mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=self.logits), each)
        return -mixture.log_prob(x)


class Quadratic(nn.Module):
    """`x^T A x` with a positive definite matrix, and a quartic well."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.A, self.b, self.g = (nn.Parameter(torch.randn(shape)) for shape in ((dim, dim), (dim,), ()))

    def forward(self, x: Tensor) -> Tensor:
        precision = self.A @ self.A.t() + 0.1 * torch.eye(len(self.b), dtype=x.dtype)
        quadratic = 0.5 * torch.einsum("bi,ij,bj->b", x, precision, x)
        return quadratic - x @ self.b + self.g**2 * ((x.pow(2) - 1) ** 2).sum(1)


class LowRankGaussian(nn.Module):
    """The log-density of a Gaussian through a Cholesky factor and a triangular solve."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.mu, self.W = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.randn(dim, 2))
        self.log_sigma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        covariance = self.W @ self.W.T + torch.diag(self.log_sigma.exp().square())
        L = torch.linalg.cholesky(covariance)
        z = torch.linalg.solve_triangular(L, (x - self.mu).T, upper=False)
        return 0.5 * z.pow(2).sum(0) + L.diagonal().log().sum()


class StudentExperts(nn.Module):
    """A product of Student-t experts of filters: a field of experts without its images."""

    def __init__(self, dim: int = 4, experts: int = 6) -> None:
        super().__init__()
        self.filters, self.log_alpha = nn.Linear(dim, experts, bias=False), nn.Parameter(torch.zeros(experts))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.exp(self.log_alpha) * torch.log1p(0.5 * self.filters(x) ** 2)).sum(-1)


class FieldOfExperts(nn.Module):
    """The same with convolutions over an image."""

    def __init__(self) -> None:
        super().__init__()
        self.J, self.alpha = nn.Parameter(torch.randn(5, 1, 3, 3) * 0.5), nn.Parameter(torch.zeros(1, 5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        responses = F.conv2d(x, self.J - self.J.mean((2, 3), keepdim=True))
        return (self.alpha.exp() * torch.log(1 + responses.square())).sum((1, 2, 3)) + 0.05 * x.flatten(1).norm(
            dim=1
        ) ** 2


class RBM(nn.Module):
    """The free energy of a Gaussian restricted Boltzmann machine."""

    def __init__(self, visible: int = 4, hidden: int = 7) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(hidden, visible) * 0.5)
        self.v_bias, self.h_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        self.log_var = nn.Parameter(torch.zeros(visible))

    def forward(self, v: Tensor) -> Tensor:
        scaled = v / self.log_var.exp()
        hidden_term = F.softplus(F.linear(scaled, self.W, self.h_bias)).sum(1)
        return 0.5 * ((v - self.v_bias) ** 2 / self.log_var.exp()).sum(1) - hidden_term


class RBF(nn.Module):
    """Weighted bumps of squared distances."""

    def __init__(self, dim: int = 3, centers: int = 6) -> None:
        super().__init__()
        self.centers, self.log_gamma = nn.Parameter(torch.randn(centers, dim)), nn.Parameter(torch.zeros(centers))
        self.linear = nn.Linear(centers, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.size(0), *self.centers.shape)
        distances = (x.unsqueeze(1).expand(size) - self.centers.unsqueeze(0).expand(size)).pow(2).sum(-1)
        return self.linear(torch.exp(-torch.exp(self.log_gamma) * distances)) + 0.5 * (x**2).sum(-1, keepdim=True)


class KernelExponentialFamily(nn.Module):
    """A kernel of learned features at inducing points, with a base density."""

    def __init__(self, dim: int = 3, points: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(dim, 6), nn.Softplus(), nn.Linear(6, 4))
        self.inducing, self.alpha = nn.Parameter(torch.randn(points, dim)), nn.Parameter(torch.randn(points))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.features(x), self.features(self.inducing)
        squared = a.pow(2).sum(1, keepdim=True) + b.pow(2).sum(1) - 2 * a @ b.t()
        return -(torch.exp(-0.5 * squared) @ self.alpha) + 0.25 * x.square().add(0.1).pow(1.1).sum(1)


class Ensemble(nn.Module):
    """The mean of members held in a list."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 6), act, nn.Linear(6, 1)) for act in (nn.Tanh(), nn.SiLU(), nn.Softplus())
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members], dim=0).mean(dim=0)


class BatchedEnsemble(nn.Module):
    """Members with their weights in one tensor, the smallest energy softly, and their spread."""

    def __init__(self, dim: int = 4, members: int = 3, hidden: int = 6) -> None:
        super().__init__()
        self.w1, self.b1 = (
            nn.Parameter(torch.randn(members, dim, hidden)),
            nn.Parameter(torch.zeros(members, 1, hidden)),
        )
        self.w2, self.b2 = nn.Parameter(torch.randn(members, hidden, 1)), nn.Parameter(torch.zeros(members, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.einsum("bd,mdh->mbh", x, self.w1) + self.b1)
        e = torch.baddbmm(self.b2, h, self.w2).squeeze(-1)
        return -torch.logsumexp(-e, 0) + 0.1 * e.std(dim=0)


class MixtureOfExperts(nn.Module):
    """Experts weighed by a softmax gate."""

    def __init__(self, dim: int = 4, experts: int = 3) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 6), nn.GELU(), nn.Linear(6, dim)) for _ in range(experts)
        )
        self.gate = nn.Linear(dim, experts)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.gate(x), dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.sum(weights.unsqueeze(-1) * outputs, dim=1)


class Piecewise(nn.Module):
    """Where, clamp, masks and comparisons: a wall, Huber's loss, and a part that is switched off."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(dim)), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        z = self.scale * x
        huber = torch.where(z.abs() < 1, 0.5 * z * z, z.abs() - 0.5).sum(-1)
        wall = F.relu(x.abs() - 1.0).pow(3).sum(-1) + (x.clamp(min=-0.5, max=0.5) ** 3).sum(-1)
        gated = F.softplus(self.fc(x)).masked_fill(x < 0, 0.0).mul(x**3).mean(-1)
        return huber + wall + gated + F.smooth_l1_loss(z, torch.zeros_like(z), reduction="none").sum(1)


class JointEnergy(nn.Module):
    """The logsumexp of logits as in JEM, tempered, plus the inner product with an observation."""

    def __init__(self, dim: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.f, self.temperature = nn.Sequential(nn.Linear(dim, 8), nn.SiLU(), nn.Linear(8, classes)), 1.5
        self.obs = nn.Linear(2, dim)

    def forward(self, x: Tensor, observed: Tensor) -> Tensor:
        inner = torch.bmm(x.unsqueeze(1), self.obs(observed).unsqueeze(2)).squeeze()
        return -self.temperature * self.f(x).div(self.temperature).logsumexp(1) + 0.5 * (x * x).sum(1) - inner


def net(name: str, build: object, *shape: int, **options: object) -> Net:
    return Net(name, "densities", build, shape, **options)


NETS = [
    net("gaussian-mixture", GaussianMixture, 3),
    net("mixture-distribution", MixtureDistribution, 3),
    net("quadratic-quartic", Quadratic, 4),
    net("low-rank-gaussian", LowRankGaussian, 4),
    net("student-experts", StudentExperts, 4),
    net("field-of-experts", FieldOfExperts, 1, 4, 4),
    net("rbm", RBM, 4),
    net("rbf", RBF, 3),
    net("kernel-exponential-family", KernelExponentialFamily, 3),
    net("ensemble", Ensemble, 4),
    net("batched-ensemble", BatchedEnsemble, 4),
    net("mixture-of-experts", MixtureOfExperts, 4, kind="score"),
    net("piecewise", Piecewise, 4, step=3e-4),
    net("joint-energy", JointEnergy, 4, cond=(columns(2),)),
]
