"""Normalisations, and attention.

With `y = (x - <x>) r`, `r = (<(x - <x>)^2> + eps)^(-1/2)` and `a_m = <y t_m>`, where `t_m` are the tangents less their
means: `y'_m = r (t_m - y a_m)` and `y'' = r (k - y <y k>) - r^2 sum_m (2 a_m t_m + y (<t_m^2> - 3 a_m^2))`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule, as_jet
from fastssm.jets.linear import add
from fastssm.jets.products import matmul, mul
from fastssm.jets.reductions import softmax
from fastssm.jets.rules import rule


def standardised(x: Jet, axes: tuple[int, ...], eps: float, *, centred: bool = True) -> Jet:
    """Return `(x - <x>) / sqrt(<(x - <x>)^2> + eps)` over axes counted from behind; without `centred` no mean."""
    tape = x.tape

    def mean(rows: Tensor) -> Tensor:
        return rows.mean(axes, keepdim=True)

    def centre(rows: Tensor) -> Tensor:
        return rows - mean(rows) if centred else rows

    z, t = centre(x.value), centre(x.tangents)
    r = torch.rsqrt(mean(z * z) + eps)
    y = z * r
    a = mean(y * t)

    def curve(k: Tensor | None) -> Tensor:
        spread = mean(t * t) - 3.0 * a * a
        bent = tape.total(a * t * 2.0) + y * tape.total(spread)
        if k is None:
            return -(r * r) * bent
        k = centre(k)
        return r * (k - y * mean(y * k) - r * bent)

    return tape.jet(y, r * (t - y * a), (x,), curve)


def _scaled(y: Any, weight: Any, bias: Any) -> Jet:
    y = y if weight is None else mul(y, weight)
    return y if bias is None else add(y, bias)


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


@rule("layer_norm")
def layer_norm(
    input: Jet, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Jet:
    """Layer normalisation."""
    return _scaled(standardised(input, _last(normalized_shape), eps), weight, bias)


@rule("rms_norm")
def rms_norm(input: Jet, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Jet:
    """Root-mean-square normalisation."""
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _scaled(standardised(input, _last(normalized_shape), eps, centred=False), weight, None)


@rule("group_norm")
def group_norm(input: Jet, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Jet:
    """Group normalisation."""
    shape: tuple[int, ...] = tuple(input.shape)
    grouped = as_jet(input.reshape(shape[0], num_groups, -1))
    y = standardised(grouped, (-1,), eps).reshape(shape)
    return _scaled(y, _channels(weight, len(shape)), _channels(bias, len(shape)))


def _channels(t: Tensor | None, rank: int) -> Tensor | None:
    return None if t is None else t.reshape(-1, *[1] * (rank - 2))


@rule("instance_norm")
def instance_norm(
    input: Jet,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Jet:
    """Instance normalisation by the statistics of every sample, or by the running ones."""
    if not use_input_stats:
        return _by_running(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:
        raise NoRule("jets do not update running statistics; use track_running_stats=False or model.eval()")
    y = standardised(input, tuple(range(2 - input.ndim, 0)), eps)
    return _scaled(y, _channels(weight, input.ndim), _channels(bias, input.ndim))


@rule("batch_norm")
def batch_norm(
    input: Jet,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Jet:
    """Batch normalisation by its running statistics."""
    if training:
        raise NoRule("batch normalisation in train mode couples the samples of a batch; call model.eval()")
    return _by_running(input, running_mean, running_var, weight, bias, eps)


def _by_running(input: Jet, mean: Tensor | None, var: Tensor | None, weight: Any, bias: Any, eps: float) -> Jet:
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return _scaled(input, _channels(scale, input.ndim), _channels(shift, input.ndim))


@rule("scaled_dot_product_attention")
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Jet:
    """`softmax(scale q k^T + mask) v`, with dropout of the softmax."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores: Any = matmul(query * factor, torch.transpose(key, -2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    empty = None
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
        hidden = ~attn_mask if boolean else attn_mask == -math.inf
        empty = hidden.all(-1, keepdim=True)
    weights: Any = softmax(scores, -1)
    if empty is not None:  # PyTorch gives zero where a query may look at no key
        weights = torch.masked_fill(weights, empty, 0.0)
    return matmul(torch.dropout(weights, dropout_p, dropout_p > 0.0), value)


@rule("multi_head_attention_forward")
def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention of `[L, B, E]`, or of one sequence `[L, E]`."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise NoRule("jets have no rule for multi-head attention with bias_kv, add_zero_attn or static keys")
    single = query.ndim == 2
    if single:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    if use_separate_proj_weight:
        maps: Sequence[Any] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        maps = in_proj_weight.chunk(3)
    shifts: Sequence[Any] = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    projected = [torch.nn.functional.linear(t, w, b) for t, w, b in zip((query, key, value), maps, shifts, strict=True)]
    heads = [t.reshape(t.shape[0], t.shape[1], num_heads, -1).permute(1, 2, 0, 3) for t in projected]  # [B, h, L, d]
    scores: Any = matmul(heads[0] * (1.0 / math.sqrt(heads[0].shape[-1])), heads[1].transpose(-2, -1))
    mask = _mask(attn_mask, key_padding_mask, scores, num_heads)
    scores = scores if mask is None else scores + mask
    weights: Any = torch.dropout(softmax(scores, -1), dropout_p, training and dropout_p > 0.0)
    out = matmul(weights, heads[2]).permute(2, 0, 1, 3).flatten(2)
    out = torch.nn.functional.linear(out, out_proj_weight, out_proj_bias)
    out = out.squeeze(1) if single else out
    if not need_weights:
        return out, None
    weights = weights.mean(1) if average_attn_weights else weights
    return out, weights.squeeze(0) if single else weights


def _mask(attn_mask: Tensor | None, padding: Tensor | None, scores: Any, num_heads: int) -> Tensor | None:
    """Return what is added to the scores `[B, h, L, S]`."""
    found: Tensor | None = None
    if attn_mask is not None:
        mask = _added(attn_mask, scores.dtype)
        found = mask if mask.ndim == 2 else mask.reshape(-1, num_heads, *mask.shape[1:])
    if padding is not None:
        added = _added(padding, scores.dtype)[:, None, None, :]
        found = added if found is None else found + added
    return found


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
