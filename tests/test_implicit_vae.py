"""What the experiment with implicit encoders rests on: estimates by kernels as papers write them, and likelihoods."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import annealing
from experiments import implicit_vae
from experiments.autoregressive import LinearContext, Mixture, Model, conditional_score
from tests import covering

M, D = 9, 2


def samples() -> Tensor:
    torch.manual_seed(3)
    return torch.randn(2, M, D, dtype=torch.float64) * torch.tensor([1.0, 3.0])


def kernel_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernel's matrix, and its derivatives in the first samples by autograd, `[M, M, D]`."""
    distances = sorted(float((a - b).square().sum()) for a in z for b in z)
    width = distances[(len(distances) - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a - b).square().sum() / (2 * width)).exp()

    slopes = [[torch.func.grad(kernel)(a, b) for b in z] for a in z]
    matrix = torch.stack([torch.stack([kernel(a, b) for b in z]) for a in z])
    return matrix, torch.stack([torch.stack(row) for row in slopes])


def stein(z: Tensor) -> Tensor:
    """Return the minimiser of Stein's identity with a ridge: `(K + ridge) G = -sum_k dK(z_i, z_k) / dz_k`."""
    matrix, slopes = kernel_of(z)
    right = torch.stack([sum(slopes[k, i] for k in range(M)) for i in range(M)])
    return torch.linalg.lstsq(matrix + implicit_vae.RIDGE * torch.eye(M, dtype=z.dtype), -right).solution


def spectral(z: Tensor) -> Tensor:
    """Return `sum_j beta_j psi_j(z_n)`, with `beta_j = -mean_n dpsi_j(z_n) / dz_n` and Nystrom's eigenfunctions."""
    matrix, slopes = kernel_of(z)
    left, values, _ = torch.linalg.svd(matrix)
    kept = next(j for j in range(1, M + 1) if values[:j].sum() >= implicit_vae.KEPT * values.sum())
    found = torch.zeros(M, D, dtype=torch.float64)
    for j in range(kept):
        scale = math.sqrt(M) / values[j]
        psi = [scale * sum(left[m, j] * matrix[n, m] for m in range(M)) for n in range(M)]
        slope = [scale * sum(left[m, j] * slopes[n, m] for m in range(M)) for n in range(M)]
        beta = -sum(slope) / M
        found += torch.stack([beta * value for value in psi])
    return found


@covering.each("name", ("stein", "spectral"))
def test_estimates_by_kernels_are_those_of_the_papers(name: str) -> None:
    groups = samples()
    found = implicit_vae.kernel_score(groups, name == "spectral")
    wanted = torch.stack([{"stein": stein, "spectral": spectral}[name](z) for z in groups])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def correlated(dim: int, rows: int) -> tuple[nn.Parameter, Tensor]:
    """Return a matrix, which is not triangular, and its products with noise of mean 0 and covariance 1 exactly."""
    torch.manual_seed(2)
    noise = torch.randn(rows, dim, dtype=torch.float64)
    noise = math.sqrt(rows) * torch.linalg.svd(noise - noise.mean(0), full_matrices=False).U
    matrix = nn.Parameter(torch.eye(dim, dtype=torch.float64) + 0.2 * torch.randn(dim, dim, dtype=torch.float64))
    return matrix, noise @ matrix.mT


def test_composite_entropy_has_the_gradient_of_a_gaussian_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """H = log |det A| + a constant, so that dH/dA is the inverse transpose; the conditional scores alone miss it."""
    monkeypatch.setattr(implicit_vae, "LESSONS", 0)
    matrix, z = correlated(3, 50)
    whole = LinearContext(torch.zeros(3).double(), (matrix @ matrix.mT).detach())
    estimator = implicit_vae.Composite(0)
    estimator.context, estimator.head = lambda codes, x: whole(codes), Mixture(1).double()
    (found,) = torch.autograd.grad(estimator.entropy(z[None], None), matrix, retain_graph=True)
    torch.testing.assert_close(found, torch.linalg.inv(matrix.detach()).mT, rtol=1e-9, atol=1e-9)

    alone = conditional_score(Model(whole, estimator.head), z.detach())
    (missed,) = torch.autograd.grad(-(alone * z).sum(1).mean(), matrix)
    torch.testing.assert_close(missed[-1], found[-1], rtol=1e-9, atol=1e-9)  # nothing comes after the last code
    assert ((missed - found)[:-1].norm(dim=1) > 0.1).all()


def test_composite_learns_that_gradient_given_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """From new codes at every step, whose means follow the digits."""
    monkeypatch.setattr(implicit_vae, "WIDTH", 32)
    matrix, z = correlated(implicit_vae.LATENT, 2048)
    torch.manual_seed(0)
    estimator = implicit_vae.Composite(4)

    def gradient(codes: Tensor) -> Tensor:
        x = torch.randn(len(codes), 4)
        return torch.autograd.grad(estimator.entropy((codes + x.repeat(1, 2))[None].float(), x), matrix)[0]

    for _ in range(100):
        gradient(torch.randn(256, implicit_vae.LATENT).double() @ matrix.mT)
    wanted = torch.linalg.inv(matrix.detach()).mT
    error = (gradient(z) - wanted).norm() / wanted.norm()
    assert error < 0.25, error


def test_the_context_of_a_code_sees_the_digit_and_the_codes_before_it() -> None:
    torch.manual_seed(0)
    context = implicit_vae.CodeContext(3, 5).double()
    z, x = torch.randn(1, implicit_vae.LATENT).double(), torch.randn(1, 5).double()
    codes, digit = (jac[0].abs().sum(1)[:, 0] for jac in torch.autograd.functional.jacobian(context, (z, x)))
    assert torch.equal(codes > 0, torch.ones_like(codes).tril(-1) > 0)
    assert (digit > 0).all()


def test_annealing_finds_the_likelihood_of_a_quadrature() -> None:
    """Of two codes and 20 pixels: log p(x) by a grid, within five errors and a tenth of a nat."""
    torch.manual_seed(1)
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 20)).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(4.0)
        axis = torch.linspace(-6.0, 6.0, 301, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        x = torch.bernoulli(decoder(torch.randn(5, 2, dtype=torch.float64)).sigmoid())
        logits = decoder(grid)
        likelihood = torch.stack([torch.distributions.Bernoulli(logits=logits).log_prob(row).sum(1) for row in x], 1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(1)[:, None]
        exact = (likelihood + prior).logsumexp(0) + 2 * math.log(12 / 300)
    chains = 60
    steps = annealing.annealed(decoder, x, 2, 4, 60).steps
    found = annealing.annealed(decoder, x, 2, chains, 60, steps)
    log = found.weights.logsumexp(0) - math.log(chains)
    error = (found.weights - log).exp().std(0) / math.sqrt(chains)
    assert 0.3 < found.acceptance < 1.0
    assert (error < 0.2).all()
    assert ((log - exact).abs() < 5 * error + 0.01).all(), (log, exact, error)


def test_pictures_of_clothes_begin_after_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = (torch.arange(5001 * 784) % 251).to(torch.uint8)
    path = tmp_path / "pictures.gz"
    path.write_bytes(gzip.compress(bytes(range(240, 256)) + levels.numpy().tobytes(), 1))
    monkeypatch.setattr(implicit_vae, "FASHION", path)
    found = implicit_vae.fashion()
    torch.testing.assert_close(found, levels[: 5000 * 784].view(5000, 784).float() / 255)
    monkeypatch.setattr(implicit_vae, "FASHION", tmp_path / "none.gz")
    with pytest.raises(SystemExit, match="apt install dataset-fashion-mnist"):
        implicit_vae.fashion()
