"""Double backward in float64 where no function is left whose third derivative PyTorch lacks or gets wrong.

It imports nothing of fastssm. The formulas are those of the papers, and finite differences of function values
(differences.py) confirm every gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from tests import oracle
from tests.nets.net import Net, Problem

QUESTIONS = ("ssm", "vr", "exact", "terms", "score")
EXACT = 16  # the largest dimension whose exact loss is asked for


def questions(net: Net) -> tuple[str, ...]:
    return tuple(q for q in QUESTIONS if q != "exact" or net.dim <= EXACT)


def answer(net: Net, question: str) -> tuple[Tensor, list[Tensor]]:
    """Return a number, and its gradients in every parameter and in x."""
    problem = net.problem()
    model, x, cond = problem.model, problem.x.requires_grad_(), problem.cond
    with written_out():
        if question == "score":
            output = model(x, *cond)
            value = contracted([-oracle.derivative(output, x) if net.energy else output])
        elif question == "terms":
            projected, along, score = oracle.terms(model, x, problem.v, energy=net.energy, cond=cond)
            value = contracted([projected, along.mean(0), score.square().sum(1), score])
        else:
            value = oracle.losses(model, x, problem.v, question, energy=net.energy, cond=cond).mean()
        return value, oracle.gradients(value, leaves(problem))


def leaves(problem: Problem) -> list[Tensor]:
    return [p for p in problem.model.parameters() if p.requires_grad] + [problem.x]


def contracted(tensors: Sequence[Tensor]) -> Tensor:
    """Return one number that every entry has a part of, linearly and squared."""
    flat = torch.cat([t.flatten() for t in tensors])
    return (flat * torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)).sum() + 0.1 * flat.square().sum()


# --- what PyTorch gets wrong ---


def standardised(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """Divide the deviation from the mean over some axes by its root mean square."""
    axes = tuple(axes)
    count = torch.Size(x.shape[axis] for axis in axes).numel()
    deviation = x - x.sum(axes, keepdim=True) / count
    return deviation / ((deviation * deviation).sum(axes, keepdim=True) / count + eps) ** 0.5


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    out = standardised(x, range(x.ndim - len(shape), x.ndim), eps)
    out = out if weight is None else weight * out
    return out if bias is None else bias + out


def per_channel(x: Tensor, axes: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    out = standardised(x, axes, eps).movedim(1, -1)
    out = out if weight is None else weight * out
    return (out if bias is None else bias + out).movedim(-1, 1)


def instance_norm(
    x: Tensor,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    assert use_input_stats
    return per_channel(x, range(2, x.ndim), weight, bias, eps)


_batch_norm = F.batch_norm


def batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Leave running statistics alone: nothing here looks at them after training."""
    if not training:
        return _batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    return per_channel(x, [0, *range(2, x.ndim)], weight, bias, eps)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Average the values with weights `exp(scale q.k)`, those that the mask allows."""
    assert dropout_p == 0.0
    if enable_gqa:
        groups = q.shape[-3] // k.shape[-3]
        k, v = (t.unsqueeze(-3).expand(*t.shape[:-2], groups, *t.shape[-2:]).flatten(-4, -3) for t in (k, v))
    logits = torch.einsum("...qd,...kd->...qk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.arange(q.shape[-2])[:, None] >= torch.arange(k.shape[-2])
    if attn_mask is not None:
        allowed = attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf
        logits = logits + (0.0 if attn_mask.dtype == torch.bool else attn_mask.clamp_min(-1e300))
        logits = torch.where(allowed, logits, -torch.inf)
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return torch.einsum("...qk,...kd->...qd", weights / weights.sum(-1, keepdim=True), v)


def multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor,
    bias_k: None,
    bias_v: None,
    add_zero_attn: bool,
    dropout_p: float,
    out_weight: Tensor,
    out_bias: Tensor,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Project, attend in every head, project; axes are `[length, batch, width]`."""
    assert bias_k is bias_v is None
    assert not add_zero_attn
    three = zip((query, key, value), in_weight.chunk(3), in_bias.chunk(3), strict=True)
    q, k, v = ((torch.einsum("lbi,oi->blo", t, w) + b).unflatten(-1, (heads, -1)).movedim(-2, 1) for t, w, b in three)
    allowed = torch.ones(q.shape[0], 1, q.shape[2], k.shape[2], dtype=torch.bool)
    for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
        if mask is not None:  # True, or minus infinity, forbids
            allowed = allowed & ~(mask if mask.dtype == torch.bool else mask == -torch.inf)
    out = attention(q, k, v, allowed, dropout_p if training else 0.0).movedim(1, -2).flatten(-2)
    return (torch.einsum("bli,oi->blo", out, out_weight) + out_bias).transpose(0, 1), None


def cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    return ((a[..., :, None, :] - b[..., None, :, :]).abs() ** p).sum(-1) ** (1.0 / p)


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    return x.exp().cumsum(dim).log()


REPLACED = (
    (F, "layer_norm", layer_norm),
    (F, "instance_norm", instance_norm),
    (F, "batch_norm", batch_norm),
    (F, "scaled_dot_product_attention", attention),
    (F, "multi_head_attention_forward", multi_head),
    (torch, "cdist", cdist),
    (torch, "logcumsumexp", logcumsumexp),
)


@contextmanager
def written_out() -> Iterator[None]:
    """Put the functions above in the places where modules look for PyTorch's."""
    with ExitStack() as stack:
        for owner, name, function in REPLACED:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield
