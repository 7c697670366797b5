"""Functions that reduce axes: softmax and its kin, norms, variances, extremes, sorted values; matrices as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.jets.case import DTYPE, Case, curved, each, grid, one


def _softmaxes(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        torch.softmax(h * 2.0, -1),
        F.softmax(h, 1),
        h.softmax(2),
        torch.log_softmax(h, 1),
        F.log_softmax(h, -1),
        h.log_softmax(-2).sin(),
        F.softmin(h, 1),
        F.softmin(x, -1),
        torch.softmax(x, 1).square(),
        torch.special.softmax(h, 1).exp(),
        torch.special.log_softmax(h, 2).sin(),
        torch.log_softmax(x, 1),
    )


def _logsumexps(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        torch.logsumexp(h, 1),
        h.logsumexp((1, 2), keepdim=True),
        torch.logsumexp(h, -1, keepdim=True).sin(),
        torch.special.logsumexp(h, (-2, -1)),
        torch.logsumexp(x, 1).square(),
    )


def _norms(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    vector, inf = torch.linalg.vector_norm, float("inf")
    return (
        h.norm(dim=1),
        torch.norm(h, dim=-1, keepdim=True),
        vector(h, dim=(1, 2)),
        vector(h, 2, (-1, -2), keepdim=True).sin(),
        torch.norm(h, 1, 1),
        vector(h, 1, dim=-1, keepdim=True).sin(),
        vector(h, inf, 1),
        vector(h, ord=inf, dim=-1, keepdim=True).sin(),
        each(h, torch.norm),
        each(x, torch.linalg.norm),
        torch.linalg.norm(x, dim=1).square(),
        torch.norm(h, "fro", (1, 2)),
    )


def _distances(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    return (
        F.cosine_similarity(h, x.sin() + 0.3, dim=1),
        F.cosine_similarity(h.view(-1, 2, 3), w[3:], dim=-1),
        F.pairwise_distance(h, w.expand_as(x)),
        F.pairwise_distance(x.sin(), h, keepdim=True),
        F.normalize(h, dim=1),
        F.normalize(grid(x), dim=-1),
        F.pairwise_distance(h, x.sin(), p=1.0),
    )


def _all_distances(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        torch.cdist(h, w),
        torch.cdist(x.view(-1, 3, 2).mT, h.sin()),
        torch.cdist(w.expand(x.shape[0], 4, 3), h).sin(),
    )


def _variances(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        h.var(1),
        h.std(2, unbiased=False),
        torch.var(h, 1, correction=1, keepdim=True),
        torch.std(h, (1, 2)),
        h.var(-1, keepdim=True).sin(),
        each(h, torch.var),
        each(h, lambda a: torch.std(a, False)),
        torch.var(h, dim=(-1, -2), correction=0, keepdim=True).sin(),
    )


def _extremes(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        h.square().amax(1),
        h.amin((1, 2)),
        h.amax(-1, keepdim=True).sin(),
        h.amin((2, 1), keepdim=True),
        h.max(1).values,
        torch.min(h, 2)[0],
        h.max(-1, keepdim=True)[0].sin(),
        torch.min(h, -2, keepdim=True).values,
        each(h, torch.max),
        each(h, torch.min),
        each(h, torch.amax),
    )


def _of_two(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h, fixed = curved(x), torch.tensor(0.1, dtype=DTYPE)
    return (
        torch.maximum(h, x.flip(1)),
        torch.min(h, x.roll(1, 1)),
        torch.maximum(h, fixed),
        torch.fmax(h, w),
        torch.fmin(w, x),
        torch.minimum(x, w),
        torch.max(h, x.sin()).square(),
        torch.maximum(w, h) * w,
        torch.minimum(h[:, :, None], x[:, None, :]),
        torch.minimum(fixed, x),
    )


def _sorted(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    values, index = h.sort(1, descending=True)
    return (
        h.sort(1).values,
        values.gather(1, index),
        h.topk(2, 1)[0],
        torch.topk(x.sin(), 3, largest=False).values,
        torch.sort(h).values.sin(),
    )


def _products(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return h.prod(1), torch.prod(h, -1, keepdim=True), each(h, torch.prod), curved(x).prod(1).sin()


def _pooled(dimensions: int) -> Case:
    function = getattr(F, f"max_pool{dimensions}d")

    def of(x: Tensor) -> tuple[Tensor, ...]:
        largest, index = function(x.sin(), 3, 1, 1, return_indices=True)
        flat = curved(x).flatten(-dimensions).gather(-1, index.flatten(-dimensions))
        return function(curved(x), 2), largest, flat, function(x.sin(), 2, stride=1, dilation=2)

    return one(f"max_pool{dimensions}d", of, shape=(2, *[4] * dimensions))


def _regular(x: Tensor) -> Tensor:
    return 0.3 * curved(x).reshape(-1, 3, 3) + x.view(-1, 3, 3) / 5 + 2.0 * torch.eye(3, dtype=DTYPE)


def _matrices(x: Tensor) -> tuple[Tensor, ...]:
    a = _regular(x)
    sign, size = torch.linalg.slogdet(a)
    return (
        torch.linalg.inv(a),
        a.inverse().sin(),
        sign * size,
        torch.slogdet(a)[1].sin(),
        torch.logdet(a),
        torch.linalg.det(a),
        a.det().log(),
    )


def _solved(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    a, right = _regular(x), curved(x).reshape(-1, 3, 3)
    fixed = w + 3.0 * torch.eye(3, dtype=DTYPE)
    lower = w.tril() + 3.0 * torch.eye(3, dtype=DTYPE)
    solve = torch.linalg.solve
    return (
        solve(a, right),
        solve(fixed, right),
        solve(a, w),
        solve(a, right[..., 0]),
        solve(fixed, x[:, :3, None]).sin(),
        torch.linalg.solve_triangular(lower, right, upper=False),
        each(right[..., 0], lambda row: solve(fixed, row)),
    )


def _in_dtypes(x: Tensor) -> tuple[Tensor, ...]:
    """Compute in float64 what comes in float32."""
    h, wide = grid(x).float(), torch.float64
    softmaxes = [
        torch.softmax(h, 1, wide),
        F.softmax(h, -1, dtype=wide),
        h.softmax(1, dtype=wide),
        F.softmin(h, 1, dtype=wide),
    ]
    softmaxes += [torch.log_softmax(h, 1, wide), F.log_softmax(h, -1, dtype=wide)]
    sums = [h.sum(1, dtype=wide), h.mean(-1, dtype=wide), h.cumsum(1, dtype=wide), h.prod(1, dtype=wide)]
    parts = [*softmaxes, *sums, torch.linalg.vector_norm(h, dim=1, dtype=wide), torch.norm(h, dim=1, dtype=wide)]
    assert all(part.dtype == wide for part in parts)
    return tuple(part.sin() for part in parts)


CASES: list[Case] = [
    one("softmaxes", _softmaxes),
    one("in dtypes", _in_dtypes, rtol=1e-5),
    one("logsumexps", _logsumexps),
    one(
        "logcumsumexp",
        lambda x: (torch.logcumsumexp(curved(x), 1), x.sin().logcumsumexp(-1)),
        written=lambda x: (curved(x).exp().cumsum(1).log(), x.sin().exp().cumsum(1).log()),
    ),
    one("norms", _norms),
    one("distances", _distances, (6,)),
    one("all distances", _all_distances, (4, 3)),
    one("variances", _variances),
    one("extremes", _extremes),
    one("extremes of two", _of_two, (6,)),
    one("sorted", _sorted),
    one("products of entries", _products),
    one("glu", lambda x: (F.glu(curved(x), 1), F.glu(grid(x).mT, -1))),
    *(_pooled(d) for d in (1, 2, 3)),
    one("whole matrices", _matrices, shape=(9,)),
    one("solved", _solved, (3, 3), shape=(9,)),
]
