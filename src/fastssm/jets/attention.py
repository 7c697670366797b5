"""Attention, from products and a softmax, written for operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fastssm.jets.jet import NoRule
from fastssm.jets.operand import apply, closed, composed

Tensors = Any  # an operand: a jet or another tensor


@composed("scaled_dot_product_attention")
def attention(
    query: Tensors,
    key: Tensors,
    value: Tensors,
    attn_mask: Tensors | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensors:
    """`softmax(scale q k^T + mask) v`, with dropout of the softmax."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor).matmul(key.transpose(-2, -1))
    empty = None
    if is_causal:  # where every query sees the first key
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.value.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    elif attn_mask is not None:
        added = attn_mask.value.dtype != torch.bool
        shown = attn_mask.value != -math.inf if added else attn_mask.value
        empty = ~shown.any(-1, keepdim=True)
        scores = scores + attn_mask if added else scores.masked_fill(~shown, -math.inf)
        scores = scores.masked_fill(empty, 0.0)
    weights = apply(torch.softmax, scores, -1)
    if empty is not None:  # PyTorch gives zero where a query may look at no key
        weights = weights.masked_fill(empty, 0.0)
    return apply(torch.dropout, weights, dropout_p, dropout_p > 0.0).matmul(value)


@composed("multi_head_attention_forward")
def multi_head_attention(
    query: Tensors,
    key: Tensors,
    value: Tensors,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensors | None,
    in_proj_bias: Tensors | None,
    bias_k: Tensors | None,
    bias_v: Tensors | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensors,
    out_proj_bias: Tensors | None,
    training: bool = True,
    key_padding_mask: Tensors | None = None,
    need_weights: bool = True,
    attn_mask: Tensors | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensors | None = None,
    k_proj_weight: Tensors | None = None,
    v_proj_weight: Tensors | None = None,
    static_k: Tensors | None = None,
    static_v: Tensors | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensors, Tensors | None]:
    """Multi-head attention of `[L, B, E]`, or of one sequence `[L, E]`."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise NoRule("jets have no rule for multi-head attention with bias_kv, add_zero_attn or static keys")
    single = query.ndim == 2
    if single:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    maps: Sequence[Any] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        maps = in_proj_weight.chunk(3)
    shifts: Sequence[Any] = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    projected = [apply(F.linear, t, w, b) for t, w, b in zip((query, key, value), maps, shifts, strict=True)]
    heads = [t.reshape(t.shape[0], t.shape[1], num_heads, -1).permute(1, 2, 0, 3) for t in projected]  # [B, h, L, d]
    mask = _mask(attn_mask, key_padding_mask, heads[0].value.dtype, num_heads)
    dropped, weights = dropout_p if training else 0.0, None
    if need_weights:
        scores = (heads[0] * (1.0 / math.sqrt(heads[0].shape[-1]))).matmul(heads[1].transpose(-2, -1))
        scores = scores if mask is None else scores + mask
        weights = apply(torch.dropout, apply(torch.softmax, scores, -1), dropped, dropped > 0.0)
        mixed = weights.matmul(heads[2])
    else:  # PyTorch too gives zero here where a query may look at no key, and NaN above
        mixed = apply(F.scaled_dot_product_attention, *heads, mask, dropped)
    out = apply(F.linear, mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    out = out.squeeze(1) if single else out
    if weights is None:
        return out, None
    weights = weights.mean(1) if average_attn_weights else weights
    return out, weights.squeeze(0) if single else weights


def _mask(attn_mask: Tensors | None, padding: Tensors | None, dtype: torch.dtype, num_heads: int) -> Tensors | None:
    """Return what is added to the scores `[B, h, L, S]`."""
    found: Tensors | None = None
    if attn_mask is not None:
        mask = _added(attn_mask, dtype)
        found = mask if mask.ndim == 2 else mask.reshape(-1, num_heads, *mask.shape[1:])
    if padding is not None:
        added = _added(padding, dtype).unsqueeze(1).unsqueeze(1)
        found = added if found is None else found + added
    return found


def _added(mask: Tensors, dtype: torch.dtype) -> Tensors:
    hidden = mask.value
    if hidden.dtype != torch.bool:
        return mask
    return closed(torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, -math.inf))
