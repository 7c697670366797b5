"""Traces from few products: exact at low rank, unbiased, the papers' sums, and better where spectra decay."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastssm.diagnostics import jacobian_trace
from fastssm.directions import draw, gaussian
from fastssm.nn import MLP
from tests import covering, oracle

D = 6
METHODS = ("hutchinson", "hadamard", "hutch++", "xtrace")


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix_net(matrix: Tensor) -> nn.Module:
    net = nn.Linear(*matrix.shape, bias=False, dtype=matrix.dtype)
    net.weight.data = matrix
    return net


def decaying(dim: int, power: float) -> Tensor:
    torch.manual_seed(7)
    basis = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.arange(1, dim + 1).double() ** -power) @ basis.mT


@covering.each("method", ("hutch++", "xtrace"))
def test_it_is_exact_once_the_products_exceed_the_rank(method: str) -> None:
    """Ranks 0, 2 and D, of a matrix that is not symmetric."""
    torch.manual_seed(1)
    tall, wide = torch.randn(D, 2, dtype=torch.float64), torch.randn(2, D, dtype=torch.float64)
    full = torch.randn(D, D, dtype=torch.float64)
    for matrix, products in ((tall @ wide, 9), (tall @ wide, 12), (0 * full, 6), (full, 3 * D), (full, 40)):
        found = jacobian_trace(matrix_net(matrix), torch.randn(3, D).double(), method=method, n_products=products)
        torch.testing.assert_close(found, matrix.trace().expand(3), rtol=1e-9, atol=1e-9)


@covering.each("method", METHODS)
def test_it_is_unbiased(method: str) -> None:
    """20,000 estimates at one point of an energy, against the oracle."""
    torch.manual_seed(2)
    net, count = MLP(D, [8, 8], 1, "tanh", cond_dim=1).double(), 20_000
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    x, c = torch.randn(1, D, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    expected = oracle.terms(net, x, torch.eye(D).double()[:, None], energy=True, cond=[c]).along.sum().item()
    for products in (3, 4, 7):
        each = jacobian_trace(
            net, x.expand(count, D), cond=c, method=method, n_products=products, generator=generator()
        )
        error = each.std().item() / math.sqrt(count)
        assert error < 0.05 * abs(expected)
        assert abs(each.mean().item() - expected) < 5 * error, products


def test_xtrace_and_hutch_are_the_sums_of_their_papers() -> None:
    """Vector by vector, each with a basis of its own, from products with the whole matrix."""
    matrix, x = decaying(D, 1.0) + 0.1 * torch.ones(D, D).double().tril(), torch.randn(2, D, dtype=torch.float64)
    omega = gaussian((3, 2, D), x, generator())
    found = jacobian_trace(matrix_net(matrix), x, n_products=6, generator=generator())
    j = matrix.mT  # the products are with the transposed matrix
    for b in range(2):
        parts = []
        for i in range(3):
            others = torch.stack([j @ omega[k, b] for k in range(3) if k != i], 1)
            q = torch.linalg.qr(others)[0]
            outside = torch.eye(D).double() - q @ q.mT
            w = outside @ omega[i, b]
            w = w * math.sqrt(D - 2) / w.norm()
            parts.append((q.mT @ j @ q).trace() + w @ j @ w)
        torch.testing.assert_close(found[b], sum(parts) / 3)
    found = jacobian_trace(matrix_net(matrix), x, n_products=7, method="hutch++", generator=generator())
    own = generator()
    sketched, signs = gaussian((2, 2, D), x, own), draw("rademacher", (3, 2, D), dtype=x.dtype, generator=own)
    for b in range(2):
        q = torch.linalg.qr(torch.stack([j @ sketched[k, b] for k in range(2)], 1))[0]
        outside = torch.eye(D).double() - q @ q.mT
        rest = sum((outside @ signs[k, b]) @ j @ (outside @ signs[k, b]) for k in range(3)) / 3
        torch.testing.assert_close(found[b], (q.mT @ j @ q).trace() + rest)


def test_it_beats_random_directions_where_the_spectrum_decays() -> None:
    matrix, x = decaying(64, 2.0), torch.zeros(500, 64, dtype=torch.float64)
    errors = {
        method: (
            jacobian_trace(matrix_net(matrix), x, method=method, n_products=24, generator=generator()) - matrix.trace()
        )
        .square()
        .mean()
        .sqrt()
        .item()
        for method in METHODS
    }
    assert errors["xtrace"] < errors["hutch++"] < 0.2 * min(errors["hutchinson"], errors["hadamard"])


def test_images_half_precision_nan_and_nothing_touched() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), MLP(D, [8], 1, "tanh"))
    x = torch.randn(4, 2, 3)
    exact = oracle.terms(net.double(), x.double(), torch.eye(D).double()[:, None].expand(D, 4, D), energy=True).along
    net, whole = net.float(), exact.sum(0).float()
    found = jacobian_trace(net, x, n_products=3 * D, method="hutch++")
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again = jacobian_trace(net, x + 0.0, n_products=60, method="hutch++")
        torch.testing.assert_close(again, found)
    assert not found.requires_grad
    assert all(p.grad is None for p in net.parameters())
    broken = x.clone()
    broken[1] = math.nan
    for method in METHODS:
        assert jacobian_trace(net, broken, method=method).isnan().tolist() == [False, True, False, False]
        assert jacobian_trace(net, x[:0], method=method).shape == (0,)
    constant = nn.Linear(D, D)
    constant.weight.data.zero_()
    assert jacobian_trace(constant, torch.randn(3, D)).tolist() == [0.0] * 3
