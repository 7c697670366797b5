"""Bilinear functions: products of matrices, contractions, convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.jets.case import DTYPE, Case, curved, each, grid, one


def _vectors(x: Tensor) -> tuple[Tensor, ...]:
    """Per sample, products of two vectors that depend on x."""

    def of(row: Tensor) -> Tensor:
        a, b = row[:3], row[3:].sin()
        plane = torch.outer(a, b) + torch.ger(b, a) + torch.kron(a[:, None], b[None])
        return torch.dot(a, b) + torch.vdot(b, a) + torch.inner(a, b) + plane.mv(a) + torch.mv(plane, b)

    h = curved(x)
    return (
        each(h, of),
        torch.linalg.vecdot(h.view(-1, 2, 3), x.view(-1, 2, 3)),
        torch.inner(x[:, :3], torch.eye(3, dtype=DTYPE)),
    )


def _vectors_and_weights(x: Tensor, w: Tensor) -> Tensor:
    def of(row: Tensor) -> Tensor:
        outer = torch.outer(row, w) + torch.outer(w, row) + torch.ger(row, w) + torch.kron(w, row).view(6, 6)
        return torch.dot(row, w) + torch.vdot(w, row) + torch.inner(w, row) + outer.mv(w)

    return each(curved(x), of)


def _matrices(x: Tensor) -> tuple[Tensor, ...]:
    a, b = grid(x), x.square().view(-1, 3, 2)
    return (
        a @ b,
        torch.bmm(a, x.view(-1, 3, 2)),
        torch.matmul(b, a),
        torch.matmul(a, x[:, :3, None]),
        each(a, lambda h: h.mm(h.t())),
    )


def _matrices_and_weights(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    a = h.view(-1, 2, 3)
    return (
        a @ w,
        u @ a.mT,
        h @ w.reshape(6, 2),
        h.mm(w.view(6, 2)),
        torch.bmm(a, w.expand(x.shape[0], 3, 4)),
        u[0] @ a.mT,
        a @ u[1],
    )


def _ranks(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """Matrices and vectors of different numbers of axes."""
    h = grid(x)
    stacked = h[:, None] * torch.linspace(0.5, 1.5, 4, dtype=DTYPE)[:, None, None]  # [B, 4, 2, 3]
    return (
        stacked @ w,
        w.mT @ stacked.mT,
        stacked @ x[:, None, :3, None],
        (h @ x.view(-1, 3, 2)) @ h,
        each(h, lambda a: a @ a[0]),
    )


def _sums_of_products(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h, eye = curved(x), torch.eye(3, dtype=DTYPE)
    square = h[:, :1, None].expand(-1, 3, 3) + eye
    return (
        torch.addmm(x[:, :2] * 1.0, h, w, beta=0.5, alpha=2.0),
        torch.baddbmm(x.view(-1, 2, 3), x.sin().view(-1, 2, 3), square),
        torch.addmm(w[0], h, w),
        each(h, lambda row: torch.addmv(row[:2], w.t(), row.sin(), alpha=0.3)),
        each(h, lambda row: torch.addr(torch.ones(2, 2, dtype=DTYPE), row[:2], row[2:4], beta=0.7)),
        each(h, lambda row: torch.addr(w[:2], row[:2], w[0])),
        torch.baddbmm(eye, square, square),
    )


def _einsums(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    three = torch.einsum("bi,ijk,bk->bj", h, w, x.sin())
    return (
        three,
        torch.einsum("bi,bj->bij", h, x),
        torch.einsum("bi,ij->bj", h, w[:, 0]),
        torch.einsum("bi,bi->b", [h, h]),
    )


def _tensordots(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    both = each(h, lambda row: torch.tensordot(row, row.sin(), dims=1))
    return torch.tensordot(h, w, 1), torch.tensordot(w, h, dims=([0], [1])).t(), both


def _crosses(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    a, b = grid(x), x.view(-1, 2, 3)
    return (
        torch.linalg.cross(a, b),
        torch.cross(a, b.sin(), dim=2),
        torch.linalg.cross(a, w.expand(1, 2, 3)),
        torch.cross(w.expand_as(a), a, dim=-1),
    )


def _linears(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    inner = each(
        h,
        lambda row: (
            F.linear(w, row) + F.linear(row, w, row[:5]) + F.linear(row[None], w, b)[0] + F.linear(row, row[None])
        ),
    )
    return F.linear(h, w, b), F.linear(h[:, None], w), F.linear(h, w, bias=x[:, :1]), F.linear(h, w[0]), inner


def _kernels_of_jets(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """Convolutions by kernels that depend on x, for each sample by a group of its own."""
    h = curved(x)
    by_weight = F.conv1d(w[None].expand(1, -1, -1), h.reshape(-1, 1, 3)).transpose(0, 1).reshape(x.shape[0], -1)
    by_jet = each(h, lambda row: F.conv1d(row.sin().view(1, 1, 6), row[:3].view(1, 1, 3), padding=1))
    return by_weight, by_jet


def _convolution(d: int, transposed: bool) -> Case:
    function = getattr(F, f"conv{'_transpose' if transposed else ''}{d}d")
    size, shape = 2 if transposed else 3, ((2, 3) if transposed else (3, 2))
    options = {"stride": 2} if transposed else {"padding": 1}

    def of(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return (
            function(curved(x), w, b, **options),
            function(x.sin(), w),
            each(x, lambda sample: function(curved(sample), w, b)),
        )

    name = f"conv{'_transpose' if transposed else ''}{d}d"
    return one(name, of, (*shape, *[size] * d), (3,), shape=(2, *[size] * d))


CASES: list[Case] = [
    one("vectors", _vectors),
    one("vectors and weights", _vectors_and_weights, (6,)),
    one("matrices", _matrices),
    one("matrices and weights", _matrices_and_weights, (3, 4), (5, 3)),
    one("matrices of ranks", _ranks, (3, 2)),
    one("matmul vector", lambda x, w: curved(x) @ w, (6,)),
    one("matmul of a weight by a vector", lambda x, w: each(x.sin(), lambda row: w @ row), (2, 6)),
    one("rmatmul", lambda x, w: grid(x).__rmatmul__(w), (4, 2)),
    one("sums of products", _sums_of_products, (6, 2)),
    one("einsum", _einsums, (6, 2, 6)),
    one("tensordot", _tensordots, (6, 2)),
    one("cross", _crosses, (3,)),
    one("linear", _linears, (5, 6), (5,)),
    *(_convolution(d, transposed) for d in (1, 2, 3) for transposed in (False, True)),
    one(
        "conv groups", lambda x, w: F.conv2d(curved(x), w, stride=2, padding=1, groups=2), (2, 1, 3, 3), shape=(2, 4, 4)
    ),
    one("conv same", lambda x, w: F.conv2d(curved(x), w, padding="same", dilation=2), (2, 2, 2, 2), shape=(2, 4, 4)),
    one("kernels of jets", _kernels_of_jets, (1, 8)),
    one("bilinear layer", lambda x, w, b: F.bilinear(curved(x), x, w, b), (2, 6, 6), (2,)),
    one("bilinear layer, one jet", lambda x, w, b: F.bilinear(b.expand(x.shape[0], 4), x.sin(), w), (2, 4, 6), (4,)),
]
