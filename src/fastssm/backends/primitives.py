"""Functions whose third derivative PyTorch lacks or gets wrong, as the same functions made of primitives.

Score matching of an energy differentiates three times. PyTorch's third derivatives of layer, instance and train-mode
batch normalisation are wrong (pytorch/pytorch#175754, #186256), that of `logcumsumexp` is NaN, those of attention and
`cdist` do not exist, and of `hardsigmoid` there is no second one. Inside `primitives()` calls of them compute the same
numbers from means, products and softmax, whose derivatives are right.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastssm.checks import widened
from fastssm.compiling import traceable
from fastssm.errors import UnsupportedError


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the last axes."""
    return native_layer_norm(input, normalized_shape, weight, bias, eps)[0]


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with the means and the reciprocals of the standard deviations."""
    shape = tuple(normalized_shape)
    if not shape or input.shape[input.ndim - len(shape) :] != shape:
        raise RuntimeError(f"layer_norm needs an input that ends in {list(shape)}, got {list(input.shape)}.")
    out, mean, scale = _standardised(input, tuple(range(-len(shape), 0)), eps)
    return _affine(out, weight, bias).to(input.dtype), mean, scale


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the axes after the channels, of every sample by itself."""
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, input.ndim))
    _check_values_per_channel(math.prod(input.shape[2:]), input)
    out, mean, _scale = _standardised(input, axes, eps)
    _update_running(input, mean, (0, *axes), running_mean, running_var, momentum, of_each_sample=True)
    return _affine(out, _channels(weight, input), _channels(bias, input)).to(input.dtype)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the batch and the axes after the channels."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = (0, *range(2, input.ndim))
    _check_values_per_channel(input.numel() // max(1, input.shape[1]), input)
    out, mean, _scale = _standardised(input, axes, eps)
    _update_running(input, mean, axes, running_mean, running_var, momentum, of_each_sample=False)
    return _affine(out, _channels(weight, input), _channels(bias, input)).to(input.dtype)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(scale q k^T + mask) v`, with dropout of the softmax."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError("scaled_dot_product_attention takes attn_mask or is_causal=True, not both.")
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = torch.softmax(scores, -1)
    if attn_mask is not None:  # PyTorch gives zero where a query may look at no key
        weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    return torch.dropout(weights, dropout_p, dropout_p > 0.0) @ value


def multi_head_attention_forward(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention by the code path that returns the weights, made of products and a softmax."""
    given = _MULTI_HEAD.bind(*args, **kwargs)
    wanted = given.arguments.get("need_weights", True)
    given.arguments["need_weights"] = True
    out, weights = F.multi_head_attention_forward(*given.args, **given.kwargs)
    return out, weights if wanted else None


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: object = None) -> Tensor:
    """The p-norms of the differences of all pairs of rows."""
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    distances: Tensor = torch.linalg.vector_norm(difference, p, -1)
    return distances


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """The logarithm of the sum of exponentials up to each entry, each over a row of its own."""
    x = input.movedim(dim, -1)
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).triu(1)
    rows = x.unsqueeze(-2).expand(*x.shape, x.shape[-1]).masked_fill(later, -math.inf)
    return torch.logsumexp(rows, -1).movedim(-1, dim)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`min(max(x + 3, 0), 6) / 6`, which PyTorch differentiates once only."""
    out = F.hardtanh(input + 3.0, 0.0, 6.0) / 6.0
    return input.copy_(out) if inplace else out


def _standardised(input: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = widened(input)
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    scale = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    return centred * scale, mean, scale


def _affine(out: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _channels(t: Tensor | None, input: Tensor) -> Tensor | None:
    """Return a tensor with an entry for each channel, to be broadcast against the input."""
    return None if t is None else t.reshape(-1, *[1] * (input.ndim - 2))


def _check_values_per_channel(count: int, input: Tensor) -> None:
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}")


@torch.no_grad()
def _update_running(
    input: Tensor,
    mean: Tensor,
    axes: tuple[int, ...],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    *,
    of_each_sample: bool,
) -> None:
    """Update running statistics as PyTorch does, with the unbiased variance."""
    x = widened(input)
    within = axes[1:] if of_each_sample else axes
    if running_mean is not None:
        running_mean.lerp_(mean.mean(0).flatten().to(running_mean.dtype), momentum)
    if running_var is not None:
        var = x.var(within, unbiased=True)
        running_var.lerp_((var.mean(0) if of_each_sample else var).to(running_var.dtype), momentum)


def _torch_instance_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> Tensor:
    """`torch.instance_norm`, whose arguments are in another order."""
    return instance_norm(input, mean, var, weight, bias, *rest)


def _torch_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> Tensor:
    """`torch.batch_norm`, whose arguments are in another order."""
    return batch_norm(input, mean, var, weight, bias, *rest)


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_FUNCTIONAL: dict[Any, Callable[..., Any]] = {
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
    F.hardsigmoid: hardsigmoid,
    F.layer_norm: layer_norm,
    F.multi_head_attention_forward: multi_head_attention_forward,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    torch.cdist: cdist,
    Tensor.logcumsumexp: logcumsumexp,
}
_OPERATORS: dict[str, Callable[..., Any]] = {  # of torch and torch.ops.aten
    "hardsigmoid": hardsigmoid,
    "layer_norm": layer_norm,
    "native_layer_norm": native_layer_norm,
    "instance_norm": _torch_instance_norm,
    "batch_norm": _torch_batch_norm,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "cdist": cdist,
    "logcumsumexp": logcumsumexp,
}
_REFUSED = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_cdist_forward",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise UnsupportedError(
            f"the network calls the operator {name}, whose third derivative PyTorch lacks or gets wrong; call a "
            "function of torch.nn.functional instead."
        )

    return refuse


def _every_form(name: str) -> Iterator[object]:
    """Yield the forms in which Python can call an operator: `torch.f`, `torch.ops.aten.f` and its overloads."""
    yield from filter(None, [getattr(torch, name, None)])
    packet = getattr(torch.ops.aten, name, None)
    if packet is not None:
        yield packet
        yield from (getattr(packet, overload) for overload in packet.overloads())


_REPLACED = {
    **{form: stand_in for name, stand_in in _OPERATORS.items() for form in _every_form(name)},
    **{form: _refusing(name) for name in _REFUSED for form in _every_form(name)},
    **_FUNCTIONAL,
}


class primitives(TorchFunctionMode):  # a context manager, as `torch.no_grad`
    """Compute the functions of this module from primitives inside this block.

    Raises:
        UnsupportedError: at a call of an internal operator that has no right third derivative either.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, or what stands in for it."""
        function = _REPLACED[func] if func in _REPLACED else traceable(func)
        return function(*args, **(kwargs or {}))
