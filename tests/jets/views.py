"""Linear functions that move entries: views, parts, joined and expanded tensors, indices."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.jets.case import BATCH, DTYPE, Case, curved, each, grid, one

INDEX = torch.tensor([[0, 3, 3]]).expand(BATCH, 3)


def _reshaped(x: Tensor) -> Tensor:
    h = curved(x).view(-1, 2, 3).transpose(1, 2).permute(0, 2, 1).unsqueeze(1).squeeze(1)
    return torch.reshape(h, (x.shape[0], 6)) + h.flatten(1) + h.contiguous().view_as(x) + h.reshape_as(x)


def _moved(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x).unflatten(1, (3, 2))
    return (
        h.movedim(1, 2),
        h.moveaxis(2, 1).sin(),
        h.swapaxes(1, 2),
        h.swapdims(-1, -2).sin(),
        h.mT,
        h.transpose(-1, 1).exp(),
    )


def _of_matrices(x: Tensor) -> Tensor:
    """Per sample, what PyTorch has for one matrix."""

    def of(h: Tensor) -> Tensor:
        corners = h.fliplr().sum(0)[:2] + h.flipud()[0, :2] + torch.rot90(h)[1] + h.ravel()[2:4] * torch.diag(h[:, :2])
        return corners + h.T[0] + h.t()[1] + torch.trace(h) + torch.diag(h[0, :2]).sum(1)

    return each(grid(x), of)


def _split(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    parts = [*h.chunk(2, 1), *h.split(4, 1), *h.unbind(1), *torch.unsafe_chunk(h, 2, 1), *torch.unsafe_split(h, 4, 1)]
    parts += [
        *h.tensor_split(4, dim=1),
        *torch.split_with_sizes(h, [1, 5], 1),
        *torch.hsplit(h, 3),
        *h.split([2, 4], 1),
    ]
    cube = h.view(-1, 1, 2, 3)
    parts += [p.transpose(0, 1) for p in torch.vsplit(cube[:, 0].transpose(0, 1), 2)] + [*torch.dsplit(cube[:, 0], 3)]
    return tuple(part.sin() for part in parts)


def _joined(x: Tensor) -> tuple[Tensor, ...]:
    h, ones = curved(x), torch.ones(x.shape[0], 1, dtype=DTYPE)
    t = h.t()
    return (
        torch.cat([h, ones, x], 1),
        torch.stack([x, h], 1),
        torch.stack([h, torch.ones_like(x)], -1),
        torch.concat([x, h], -1),
        torch.concatenate([h, h], dim=1),
        torch.hstack([h, x]),
        torch.vstack([t, x.t()]).t(),
        torch.row_stack([t, t]).t(),
        torch.dstack([h, x]),
        torch.column_stack([h, ones, x.sin()]),
    )


def _expanded(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    some = h[:, :1]
    a, b = torch.broadcast_tensors(some, torch.ones(6, dtype=DTYPE))
    return (
        h.unsqueeze(1).expand(-1, 4, -1),
        some.expand_as(x),
        torch.broadcast_to(some, x.shape),
        a * b,
        torch.ones(6, dtype=DTYPE).expand_as(x) * h,
        h.sum_to_size(x.shape[0], 1),
        torch.tile(h, (1, 2)),
        h.repeat(1, 2),
        h.repeat_interleave(2, 1),
        h.repeat_interleave(torch.tensor([1, 0, 2, 1, 0, 1]), 1),
        h.type_as(x).sin(),
    )


def _indexed(x: Tensor) -> tuple[Tensor, ...]:
    h, index = curved(x), INDEX[: x.shape[0]]
    return (
        h[:, [0, 2, 2]],
        h[:, 1::2],
        h[:, 1],
        h[..., -1].sin(),
        h[:, None, 2:4],
        h[:, torch.tensor([[0, 1], [5, 5]])],
        h.select(1, 2),
        h.narrow(1, 3, 2),
        h.index_select(1, torch.tensor([0, 5, 0])),
        h.gather(1, index),
        torch.take_along_dim(h, index, 1),
        h[torch.arange(x.shape[0])[:, None], index],
        h.unfold(1, 3, 2),
        h[:, torch.tensor([True, False, True, True, False, False])],
    )


def _embedded(x: Tensor, table: Tensor) -> Tensor:
    """Look rows of a table up, and let data weigh them."""
    return table[torch.tensor([0, 2, 1, 2, 0, 1])] * curved(x)[:, :, None]


def _diagonals(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return h.tril(), h.triu(1), h.diagonal(dim1=1, dim2=2), torch.linalg.diagonal(h), curved(x).diag_embed(), h.tril(-1)


def _added_in_places(x: Tensor) -> tuple[Tensor, ...]:
    h, three = curved(x), torch.zeros(x.shape[0], 3, dtype=DTYPE)
    index, places = torch.tensor([0, 1, 2, 0, 1, 1]), torch.tensor([[0, 1, 1, 5, 5, 5]]).expand(x.shape[0], 6)
    order = torch.tensor([[2, 0, 1, 5, 4, 3]]).expand(x.shape[0], 6)
    return (
        three.index_add(1, index, h),
        h[:, :3].index_add(1, index, x.sin(), alpha=2),
        torch.zeros_like(x).scatter_add(1, places, h),
        x.sin().scatter_add(1, places, h),
        h.index_copy(1, torch.tensor([4, 1]), x[:, :2].cos()),
        h.scatter(1, order[:, :2], x[:, :2].cos()),
        h.index_add(1, index[:3], torch.ones(x.shape[0], 3, dtype=DTYPE)),
        torch.zeros_like(x).scatter(1, order, h),
    )


CASES: list[Case] = [
    one("reshaped", _reshaped),
    one("moved", _moved),
    one("of matrices", _of_matrices),
    one(
        "adjoint",
        lambda x: each(
            torch.view_as_complex(x.sin().view(-1, 3, 2)),
            lambda row: (row[None].H @ row[None] + row[:, None].mH).abs().square(),
        ),
    ),
    one("split", _split),
    one("joined", _joined),
    one("expanded", _expanded),
    one("indexed", _indexed),
    one("embedded", _embedded, (3, 4)),
    one("diagonals", _diagonals),
    one("added in places", _added_in_places),
    one(
        "index_add weights",
        lambda x, w: w.expand(x.shape[0], 6).index_add(1, torch.tensor([0, 5]), curved(x)[:, :2]),
        (6,),
    ),
    one("iteration", lambda x: torch.stack(list(curved(x).t())).t()),
    one("iteration of samples", lambda x: torch.stack([row.sin().sum() + row[0] for row in curved(x)])),
    one("roll flip", lambda x: curved(x).roll(1, 1) * 2.0 + curved(x).flip(1) + curved(x).roll((1, 2), (-1, 1))),
    one(
        "neg pos clone",
        lambda x: +(-curved(x)).clone() + curved(x).neg() * x + torch.negative(x.sin()) + torch.positive(x),
    ),
    one(
        "views of weights",
        lambda x, w: w.view(2, 3).t().expand(x.shape[0], 3, 2) * x.view(-1, 3, 2) + curved(x).view(-1, 3, 2),
        (6,),
    ),
    one("cat weight", lambda x, w: torch.cat([curved(x), w.expand(x.shape[0], 3)], -1), (3,)),
    one("stack weight", lambda x, w: torch.stack([w.expand_as(x), curved(x)], 2), (6,)),
]
