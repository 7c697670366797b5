"""Normalisations, attention and dropout; the oracle has them by primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.jets.case import DTYPE, Case, curved, grid, one
from tests.nets import oracle

OPEN = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
CLOSED = OPEN & torch.tensor([[True], [False], [True]])  # the second query may look at no key
HIDDEN = torch.tensor([[False], [True], [False], [False]]).expand(4, 3)  # all of one sample
PENALTY = torch.linspace(-1.0, 0.7, 9, dtype=DTYPE).view(3, 3)
PADDING = torch.tensor([[False, False, True], [False] * 3, [True, False, False], [False] * 3, [False, True, False]])


def _normed(layer: Callable[..., nn.Module], *shape: int, **options: Any) -> dict[str, Any]:
    return {"function": lambda x, net: net(curved(x)), "shape": shape, "module": layer, **options}


def running(x: Tensor, net: Any) -> Tensor:
    """Normalise by running statistics."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    out = (curved(x) - net.running_mean.view(shape)) / (net.running_var.view(shape) + net.eps) ** 0.5
    return out if net.weight is None else out * net.weight.view(shape) + net.bias.view(shape)


def _settled(layer: Callable[..., nn.Module], *sizes: Any, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net: Any = layer(*sizes, **options)
        net.running_mean += torch.linspace(-0.5, 0.4, sizes[0])
        net.running_var += torch.linspace(0.1, 0.9, sizes[0])
        return net  # type: ignore[no-any-return]

    return make


def _rms(x: Tensor, net: Any) -> Tensor:
    h = curved(x)
    eps = torch.finfo(h.dtype).eps if net.eps is None else net.eps
    return net.weight * h / ((h * h).sum(-1, keepdim=True) / h.shape[-1] + eps) ** 0.5  # type: ignore[no-any-return]


def _group(x: Tensor, net: Any) -> Tensor:
    h = curved(x)
    y = oracle.standardised(h.reshape(len(h), net.num_groups, -1), (2,), net.eps).reshape(h.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return y if net.weight is None else y * net.weight.view(shape) + net.bias.view(shape)


NORMS = {
    "layer_norm": _normed(lambda: nn.LayerNorm(6), 6),
    "layer_norm of two axes": _normed(lambda: nn.LayerNorm((3, 2)), 2, 3, 2),
    "layer_norm without weights": _normed(lambda: nn.LayerNorm(3, elementwise_affine=False), 2, 3),
    "layer_norm of data": {"function": lambda x: F.layer_norm(x, (6,))},
    "rms_norm": _normed(lambda: nn.RMSNorm(6), 6, written=_rms),
    "rms_norm with eps": _normed(lambda: nn.RMSNorm(3, eps=0.1), 2, 3, written=_rms),
    "group_norm": _normed(lambda: nn.GroupNorm(2, 4), 4, 3, 2, written=_group),
    "group_norm of vectors": _normed(lambda: nn.GroupNorm(3, 6, affine=False), 6, written=_group),
    "instance_norm 1d": _normed(lambda: nn.InstanceNorm1d(2, affine=True), 2, 5),
    "instance_norm 2d": _normed(lambda: nn.InstanceNorm2d(2), 2, 3, 3),
    "instance_norm 3d": _normed(lambda: nn.InstanceNorm3d(2, affine=True, eps=0.1), 2, 2, 2, 2),
    "instance_norm running": _normed(
        _settled(nn.InstanceNorm2d, 2, affine=True, track_running_stats=True), 2, 3, 2, train=False, written=running
    ),
    "batch_norm 1d": _normed(_settled(nn.BatchNorm1d, 6), 6, train=False, written=running),
    "batch_norm sequence": _normed(_settled(nn.BatchNorm1d, 2, affine=False), 2, 3, train=False, written=running),
    "batch_norm 2d": _normed(_settled(nn.BatchNorm2d, 2), 2, 3, 3, train=False, written=running),
    "batch_norm 3d": _normed(_settled(nn.BatchNorm3d, 2), 2, 2, 2, 2, train=False, written=running),
}


# --- attention ---


def _heads(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[B, 2, 3, 2]` of `x [B, 3, 4]`."""
    q, k, v = (curved(x) @ w).unflatten(-1, (3, 2, 2)).movedim(2, 0)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attention(x: Tensor, w: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(*_heads(x, w), **options)


def _grouped(x: Tensor, w: Tensor) -> Tensor:
    q, k, v = _heads(x, w)
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


def _cross(x: Tensor, w: Tensor, keys: Tensor) -> Tensor:
    """Queries of x at keys and values that do not depend on it, and the other way round."""
    q, k, v = _heads(x, w)
    seen = keys.expand(x.shape[0], 2, 3, 2)
    return F.scaled_dot_product_attention(q, seen, seen) + F.scaled_dot_product_attention(seen, k, v.sin())


def _closed(x: Tensor, w: Tensor) -> Tensor:
    """Attention where one query may look at no key: its result is zero, as PyTorch has it."""
    q, k, v = _heads(x, w)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * CLOSED.to(DTYPE)
    return weights / (weights.sum(-1, keepdim=True) + ~CLOSED.any(-1, keepdim=True)) @ v


def _dropped(x: Tensor, w: Tensor) -> Tensor:
    """Attention with the mask of its dropout written out, drawn as PyTorch's formula draws it."""
    q, k, v = _heads(x, w)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    mask = torch.dropout(torch.ones_like(weights), 0.4, True)
    return weights / weights.sum(-1, keepdim=True) * mask @ v


def _attended(name: str, written: Callable[..., Any] | None = None, **options: Any) -> Case:
    return one(f"attention {name}".strip(), partial(_attention, **options), (4, 12), shape=(3, 4), written=written)


ATTENTION = [
    _attended(""),
    _attended("scale", scale=0.9),
    _attended("causal", is_causal=True),
    _attended("boolean mask", attn_mask=OPEN),
    _attended(
        "boolean mask of heads",
        attn_mask=OPEN.expand(2, 3, 3) ^ torch.tensor([0, 1]).bool()[:, None, None] & torch.eye(3).bool().roll(1, 0),
    ),
    _attended("additive mask", attn_mask=PENALTY),
    _attended("additive mask with minus infinity", attn_mask=PENALTY.masked_fill(~OPEN, -torch.inf)),
    _attended("fully masked row", _closed, attn_mask=CLOSED),
    _attended(
        "fully masked row, additive", _closed, attn_mask=torch.zeros(3, 3, dtype=DTYPE).masked_fill(~CLOSED, -torch.inf)
    ),
    _attended("dropout", _dropped, dropout_p=0.4),
    one("attention of groups", _grouped, (4, 12), shape=(3, 4)),
    one("attention across", _cross, (4, 12), (3, 2), shape=(3, 4)),
]


def _multi_head(x: Tensor, net: nn.Module, **options: Any) -> Tensor:
    h = curved(x)
    options = {name: option(x.shape[0]) if callable(option) else option for name, option in options.items()}
    return net(h, h, h, **options)[0]  # type: ignore[no-any-return]


def _with_weights(x: Tensor, net: Any, average: bool = True) -> tuple[Tensor, ...]:
    h = curved(x)
    return tuple(net(h, h.sin(), h.cos(), average_attn_weights=average))


def _weights_written(
    x: Tensor, net: Any, average: bool = True, h: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, ...]:
    """The same with the weights, which the oracle's function leaves out."""
    h = (curved(x), curved(x).sin(), curved(x).cos()) if h is None else h
    given = zip(h, net.in_proj_weight.chunk(3), net.in_proj_bias.chunk(3), strict=True)
    q, k, v = ((t @ w.t() + b).unflatten(-1, (2, 2)).transpose(1, 2) for t, w, b in given)
    weights = torch.softmax(q @ k.mT / 2**0.5, -1)
    out = (weights @ v).transpose(1, 2).flatten(2) @ net.out_proj.weight.t() + net.out_proj.bias
    return out, weights.mean(1) if average else weights


def _hidden_written(x: Tensor, net: Any) -> Tensor:
    """Attention where the keys of one sample are all hidden: only the last bias is left of it."""
    out, _ = _weights_written(x, net, h=(curved(x),) * 3)
    return torch.where(HIDDEN[: x.shape[0], :, None], net.out_proj.bias, out)


def _sequence_first(x: Tensor, net: nn.Module) -> Tensor:
    return _multi_head(x.transpose(0, 1), net).transpose(0, 1)


def _one_sequence(x: Tensor, net: Any) -> Tensor:
    """A sequence without a batch axis for each sample."""
    return torch.stack([net(row, row, row, need_weights=False)[0] for row in curved(x)])


def _one_sequence_written(x: Tensor, net: Any) -> Tensor:
    return torch.stack([net(row[None], row[None], row[None], need_weights=False)[0][0] for row in curved(x)])


def _separate_written(x: Tensor, net: Any, keys: Tensor) -> Tensor:
    q, k, v = (
        (t @ w.t() + b).unflatten(-1, (2, 2)).transpose(1, 2)
        for t, w, b in zip(
            (curved(x), keys.expand(x.shape[0], 3, 5), x.sin()[..., :3]),
            (net.q_proj_weight, net.k_proj_weight, net.v_proj_weight),
            net.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    out = torch.softmax(q @ k.mT / 2**0.5, -1) @ v
    return out.transpose(1, 2).flatten(2) @ net.out_proj.weight.t() + net.out_proj.bias  # type: ignore[no-any-return]


def _separate(x: Tensor, keys: Tensor, net: Any) -> Tensor:
    return net(curved(x), keys.expand(x.shape[0], 3, 5), x.sin()[..., :3], need_weights=False)[0]  # type: ignore[no-any-return]


def attention_layer(**options: Any) -> Callable[[], nn.Module]:
    return partial(nn.MultiheadAttention, 4, 2, **({"batch_first": True} | options))


MULTI_HEAD = {
    "": {"function": _multi_head},
    "sequence first": {"function": _sequence_first, "module": attention_layer(batch_first=False)},
    "padding": {"function": partial(_multi_head, key_padding_mask=lambda batch: PADDING[:batch])},
    "mask": {"function": partial(_multi_head, attn_mask=~OPEN)},
    "additive mask": {
        "function": partial(_multi_head, attn_mask=torch.zeros(3, 3, dtype=DTYPE).masked_fill(~OPEN, -torch.inf))
    },
    "mask and padding": {
        "function": partial(_multi_head, attn_mask=~OPEN, key_padding_mask=lambda batch: PADDING[1 : batch + 1])
    },
    "causal": {
        "function": partial(_multi_head, attn_mask=torch.ones(3, 3).triu(1).bool(), is_causal=True, need_weights=False)
    },
    "mask of heads": {
        "function": partial(_multi_head, attn_mask=lambda batch: ~OPEN.expand(2 * batch, 3, 3)),
        "written": partial(_multi_head, attn_mask=~OPEN),
    },
    "nothing to look at": {
        "function": partial(_multi_head, key_padding_mask=lambda batch: HIDDEN[:batch], need_weights=False),
        "written": _hidden_written,
    },
    "weights": {"function": _with_weights, "written": _weights_written},
    "weights of heads": {
        "function": partial(_with_weights, average=False),
        "written": partial(_weights_written, average=False),
    },
    "one sequence": {"function": _one_sequence, "written": _one_sequence_written},
    "keys of other widths": {
        "function": _separate,
        "written": lambda x, keys, net: _separate_written(x, net, keys),
        "weights": ((3, 5),),
        "module": attention_layer(kdim=5, vdim=3),
    },
    "eval": {
        "function": partial(_multi_head, need_weights=False),
        "train": False,
        "module": attention_layer(dropout=0.5),
    },
}


# --- dropout: one mask of a sample for all of its rows ---


def _mask(function: Callable[..., Tensor], h: Tensor, p: float) -> Tensor:
    return function(torch.ones_like(h), p, True)


def _dropout(x: Tensor) -> Tensor:
    h = F.dropout(curved(x), 0.4)
    h = torch.dropout(h * x, 0.3, True) + F.dropout(h, training=False) + F.dropout(h, 0.0)
    return F.dropout(h.sin(), 0.5, inplace=True)


def _dropout_written(x: Tensor) -> Tensor:
    h = curved(x)
    h = h * _mask(F.dropout, h, 0.4)
    h = h * x * _mask(F.dropout, h, 0.3) + h + h
    return h.sin() * _mask(F.dropout, h, 0.5)


def _channels(function: Callable[..., Tensor]) -> dict[str, Any]:
    return {
        "function": lambda x: function(curved(x), 0.5) + x,
        "written": lambda x: curved(x) * _mask(function, x, 0.5) + x,
    }


CASES: list[Case] = [
    *(Case(name, **given) for name, given in NORMS.items()),
    *ATTENTION,
    *(
        Case(f"multi-head {name}".strip(), **({"shape": (3, 4), "module": attention_layer()} | given))
        for name, given in MULTI_HEAD.items()
    ),
    Case("dropout", _dropout, written=_dropout_written),
    Case("dropout1d", shape=(3, 2), **_channels(F.dropout1d)),
    Case("dropout2d", shape=(3, 2, 2), **_channels(F.dropout2d)),
    Case("dropout3d", shape=(3, 2, 2, 1), **_channels(F.dropout3d)),
    one(
        "embedded tokens",
        lambda x, w: F.layer_norm(F.embedding(torch.tensor([2, 0, 1]), w) + curved(x)[..., None], (4,)),
        (3, 4),
        shape=(3,),
    ),
    one("normed products", lambda x, w: F.layer_norm(grid(x) @ w, (3,), w[0], w[1]), (3, 3)),
]
