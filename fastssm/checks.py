"""What callers may pass: every refusal says what is required, what came, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastssm.networks import Network, wrapper_of

REDUCTIONS = ("mean", "sum", "none")
KINDS = ("auto", "energy", "score")
_WRAPPER_RECIPE = (
    "{name} averages gradients only for what it wraps, and a fused loss reads the weights inside it: gradients would "
    "never be averaged. Wrap the loss instead: loss = {name}(fastssm.SlicedScoreLoss(net)); loss(x).backward()."
)


def check_choice(name: str, value: object, choices: Sequence[str | None]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}.")


def check_model(model: object) -> None:
    """Raise unless the model is a module that no data-parallel wrapper hides."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in a module whose forward "
            "calls it."
        )
    check_not_wrapped(model)


def check_not_wrapped(module: nn.Module) -> None:
    """Raise ValueError, with the recipe, if a module is a data-parallel wrapper."""
    name = wrapper_of(module)
    if name is not None:
        raise ValueError(_WRAPPER_RECIPE.format(name="fully_shard" if name == "FSDPModule" else name))


def check_data(x: object) -> None:
    """Raise unless x is a dense floating-point tensor `[B, ...]` with at least one coordinate."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor(x).")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}; use x.float().")
    if x.layout != torch.strided:
        raise TypeError(f"x must be dense, got layout {x.layout}; use x.to_dense().")
    if x.ndim < 2 or (x[:1].numel() == 0 and 0 in x.shape[1:]):
        raise ValueError(
            f"x must be [B, ...], an axis of samples and at least one coordinate each, got shape {tuple(x.shape)}; "
            "for scalar data use x[:, None]."
        )


def check_cond(cond: object, x: Tensor) -> tuple[Tensor, ...]:
    """Return the conditioning arguments as a tuple of tensors, one row per sample."""
    if cond is None:
        return ()
    given = cond if isinstance(cond, tuple | list) else (cond,)
    for index, c in enumerate(given):
        if not isinstance(c, Tensor):
            raise TypeError(f"cond must be a tensor or a tuple of tensors, got {type(c).__name__} at position {index}.")
        if c.ndim and c.shape[0] != x.shape[0]:
            raise ValueError(
                f"cond must have one row per sample: x has {x.shape[0]} samples, cond[{index}] has shape "
                f"{tuple(c.shape)}."
            )
        _check_device(f"cond[{index}]", c, x)
    return tuple(given)


def check_weight(weight: object, x: Tensor) -> None:
    """Raise unless the weight is None or a floating-point tensor `[B]`."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor of shape [B], got {type(weight).__name__}.")
    if not weight.is_floating_point():
        raise TypeError(f"weight must be floating point, got {weight.dtype}; use weight.to(x.dtype).")
    if weight.shape != x.shape[:1]:
        raise ValueError(f"weight must have shape ({x.shape[0]},), one per sample, got {tuple(weight.shape)}.")
    _check_device("weight", weight, x)


def check_directions(v: object, x: Tensor, n_projections: int | None) -> Tensor:
    """Return explicit directions as `[M, B, D]`."""
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a torch.Tensor, got {type(v).__name__}.")
    if not v.is_floating_point():
        raise TypeError(f"v must be floating point, got {v.dtype}; use v.to(x.dtype).")
    if v.requires_grad:
        raise ValueError("v must not require grad: directions are not differentiated; pass v.detach().")
    full = v[None] if v.ndim == x.ndim else v
    if full.ndim != x.ndim + 1 or full.shape[1:] != x.shape:
        raise ValueError(
            f"v must have shape [M, *x.shape] or x.shape, x is {tuple(x.shape)}, got {tuple(v.shape)}; "
            "fastssm.directions.draw makes such directions."
        )
    if full.shape[0] == 0:
        raise ValueError("v must hold at least one direction, got M = 0.")
    if n_projections is not None and n_projections != full.shape[0]:
        raise ValueError(
            f"n_projections={n_projections} contradicts v, which holds {full.shape[0]} direction(s); leave one out."
        )
    _check_device("v", v, x)
    return full.reshape(full.shape[0], x.shape[0], -1)


def check_count(name: str, value: object) -> None:
    """Raise unless a value is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_generator(generator: object) -> None:
    """Raise unless the generator is None or a `torch.Generator`."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "use torch.Generator().manual_seed(seed)."
        )


def kind_of_output(output: Sequence[int], x: Sequence[int], kind: str) -> str:
    """Return "energy" or "score" from the shapes of a model's output and of its data, checked against `kind`."""
    dim, values = math.prod(x[1:]), math.prod(output[1:])
    whole = len(output) >= 1 and output[0] == x[0]
    fits = {"energy": whole and values == 1 and len(output) <= 2, "score": whole and values == dim and len(output) >= 2}
    if kind == "auto":
        if all(fits.values()):
            raise ValueError(
                'kind="auto" is ambiguous for one-dimensional data: one value per sample may be an energy or a score. '
                'Pass kind="energy" or kind="score".'
            )
        kind = "energy" if fits["energy"] else "score"
    if not fits[kind]:
        raise ValueError(
            f"an energy returns [B] or [B, 1] and a score one value per coordinate; for x of shape {tuple(x)} the "
            f"model returned {tuple(output)}, which is no {'energy or score' if not any(fits.values()) else kind}."
        )
    return kind


def check_network(network: Network, x: Tensor) -> None:
    """Raise unless the samples have as many values as a recognised network takes."""
    dim = math.prod(x.shape[1:])
    if (network.flattens or x.ndim == 2) and dim != network.in_features:
        raise ValueError(
            f"the network takes {network.in_features} value(s) per sample, x of shape {tuple(x.shape)} has {dim}; "
            "pass data of that width, or build the network for it."
        )


def check_weights(x: Tensor, tensors: Sequence[Tensor]) -> None:
    """Raise unless x and all weights share one device and one dtype."""
    for t in tensors:
        if t.device != x.device:
            raise ValueError(f"x is on {x.device} and the model on {t.device}; move one of them with .to(...).")
        if t.dtype != x.dtype:
            raise TypeError(f"x is {x.dtype} and the model {t.dtype}; convert one of them with .to(...).")


def _check_device(name: str, t: Tensor, x: Tensor) -> None:
    if t.ndim and t.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {t.device}; use {name}.to(x.device).")
