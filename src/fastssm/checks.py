"""What callers may pass: every refusal says what is required, what came, and what to do."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssm.options import Model
from fastssm.recognition import Network, Traced, parameters_of, wrapper_of

HALF = (torch.float16, torch.bfloat16)
_CAST = (*HALF, torch.float32)  # what autocast converts into one another
_WRAPPER_RECIPE = (
    "{name} averages gradients only for what it wraps, and a fused loss reads the weights inside it: gradients would "
    "never be averaged. Wrap the whole loss, and nothing inside it: "
    "loss = {advised}(fastssm.SlicedScoreLoss(net)); loss(x).backward(). With accelerate that is "
    "loss = accelerator.prepare(fastssm.SlicedScoreLoss(net)), and with Lightning Fabric "
    "loss = fabric.setup(fastssm.SlicedScoreLoss(net))."
)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}.")


def check_model(model: object) -> None:
    """Raise TypeError unless the model is a module or another function."""
    if isinstance(model, type):
        raise TypeError(
            f"model must be a torch.nn.Module or a function of x, got the type {model.__name__} itself; pass an "
            f"instance of it, {model.__name__}(...)."
        )
    if not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or a function of x, got {type(model).__name__}.")


def check_module(model: object) -> None:
    """Raise TypeError unless the model is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, because its parameters belong to this object, got "
            f"{type(model).__name__}; write it as a module, or pass a function to a loss that is a function, such as "
            "fastssm.sliced_loss."
        )


def modules_of(model: Model) -> list[nn.Module]:
    """Return a module and all inside it, or what a function refers to: bound, given by `partial`, or closed over.

    What a function reads from global variables is not seen.
    """
    found: list[nn.Module] = []
    waiting: list[object] = [model]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module):
            found += list(value.modules())
        elif callable(value) and id(value) not in seen:
            seen.add(id(value))
            waiting += _referred(value)
    return found


def _referred(function: Any) -> Iterator[object]:
    yield getattr(function, "__self__", None)
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield cell.cell_contents


def check_not_wrapped(modules: Iterable[nn.Module]) -> None:
    """Raise ValueError, with the recipe, if one of the modules is a data-parallel wrapper."""
    for name in filter(None, map(wrapper_of, modules)):
        advised = {"FSDPModule": "fully_shard", "DataParallel": "DistributedDataParallel"}.get(name, name)
        raise ValueError(_WRAPPER_RECIPE.format(name=name, advised=advised))


def check_data(x: object, name: str = "x") -> None:
    """Raise unless x, called `name`, is a dense floating-point tensor `[B, ...]` with at least one coordinate."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor({name}).")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; use {name}.float().")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got layout {x.layout}; use {name}.to_dense().")
    if x.ndim < 2 or (x.numel() == 0 and 0 in x.shape[1:]):
        raise ValueError(
            f"{name} must be [B, ...], an axis of samples and at least one coordinate each, got shape "
            f"{tuple(x.shape)}; for scalar data use {name}[:, None]."
        )


def check_cond(cond: object, x: Tensor) -> tuple[tuple[Tensor | None, ...], dict[str, Tensor | None]]:
    """Return the conditioning arguments by position and those by name; a row for all samples is repeated."""
    if cond is None:
        return (), {}
    if isinstance(cond, Mapping):
        for name in cond:
            if not isinstance(name, str):
                raise TypeError(f"the keys of cond must be names of arguments of the model, got {name!r}; use strings.")
        return (), {name: _check_condition(c, x, repr(name)) for name, c in cond.items()}
    given = cond if isinstance(cond, tuple | list) else (cond,)
    return tuple([_check_condition(c, x, index) for index, c in enumerate(given)]), {}


def _check_condition(c: object, x: Tensor, place: int | str) -> Tensor | None:
    if c is None:
        return None
    if not isinstance(c, Tensor):
        raise TypeError(
            "cond must be a tensor or a tuple of tensors, or a dict of them for arguments by name, got "
            f"{type(c).__name__} at position {place}; use torch.as_tensor."
        )
    if c.ndim and c.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"cond must have one row per sample, or one for all: x has {x.shape[0]} samples, cond[{place}] has shape "
            f"{tuple(c.shape)}."
        )
    _check_device(f"cond[{place}]", c, x)
    c = outside_inference(c)
    return c.expand(x.shape[0], *c.shape[1:]) if c.ndim and c.shape[0] != x.shape[0] else c


def check_rows(holds: Tensor, requirement: str, advice: str) -> None:
    """Raise ValueError unless a requirement holds for every sample, bool `[B]`; the message names the first failure.

    It waits for the device; compiled code asserts the requirement there instead, without the details.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(holds.all(), requirement)
    elif not bool(holds.all()):
        failing = (~holds).nonzero()
        where = f"which fails in {len(failing)} of {len(holds)} row(s), first in row {int(failing[0])}"
        raise ValueError(f"{requirement}, {where}; {advice}.")


def check_weight(weight: object, x: Tensor) -> Tensor | None:
    """Return the weight, None or a floating-point tensor `[B]`."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight must be a torch.Tensor of shape [B], got {type(weight).__name__}; use torch.as_tensor, or "
            "multiply the loss by a number."
        )
    if not weight.is_floating_point():
        raise TypeError(f"weight must be floating point, got {weight.dtype}; use weight.to(x.dtype).")
    if weight.shape != x.shape[:1]:
        raise ValueError(f"weight must have shape ({x.shape[0]},), one per sample, got {tuple(weight.shape)}.")
    _check_device("weight", weight, x)
    return outside_inference(weight)


def check_directions(v: object, x: Tensor, n_projections: int | None) -> Tensor:
    """Return explicit directions as `[M, B, D]`."""
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a torch.Tensor, got {type(v).__name__}; use torch.as_tensor(v).")
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
        raise ValueError("v must hold at least one direction, got M = 0; leave v out to have them drawn.")
    if n_projections is not None and n_projections != full.shape[0]:
        raise ValueError(
            f"n_projections={n_projections} contradicts v, which holds {full.shape[0]} direction(s); leave one out."
        )
    _check_device("v", v, x)
    return outside_inference(full).flatten(2)


MOST = 2**32  # the generator numbers directions with 32 bits


def check_count(name: str, value: object) -> None:
    """Raise unless a value is a positive integer of 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    if not isinstance(value, torch.SymInt) and value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}.")


def check_generator(generator: object) -> None:
    """Raise unless the generator is None or a `torch.Generator`."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "use torch.Generator().manual_seed(seed)."
        )


def check_output(output: object) -> None:
    """Raise TypeError unless a model returned one tensor."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model must return one tensor, its energy or its score, got {type(output).__name__}; wrap it in a "
            "module that returns that tensor alone."
        )


class WrongOutput(str):
    """The text of an error about the shape of a model's output, for operators that say it in words of their own."""

    def __new__(cls, text: str, shape: Sequence[int] = ()) -> WrongOutput:
        """Keep the shape beside the text."""
        found = super().__new__(cls, text)
        found.shape = tuple(shape)
        return found

    shape: tuple[int, ...]


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
        text = (
            f"an energy returns [B] or [B, 1] and a score one value per coordinate; for x of shape {tuple(x)} the "
            f"model returned {tuple(output)}, which is no {kind if any(fits.values()) else 'energy or score'}; change "
            "the last layer of the model, or kind."
        )
        raise ValueError(WrongOutput(text, output))
    return kind


def in_words_of(operator: str, error: ValueError, x: Tensor) -> ValueError:
    """Return an error about the shape of a model's output in the words of an operator, any other as it is."""
    wrong = error.args[0] if error.args else None
    if not isinstance(wrong, WrongOutput) or operator not in ("divergence", "laplacian", "hvp_form"):
        return error
    returned = f"for x of shape {tuple(x.shape)} the model returned {wrong.shape}"
    if operator == "divergence":
        advice = "use fastssm.laplacian for a scalar function" if wrong.shape[1:] in ((), (1,)) else "change its output"
        return ValueError(f"divergence is of a vector field, with one value per coordinate; {returned}; {advice}.")
    advice = "return one value for each sample"
    if len(wrong.shape) == 2 and wrong.shape[1] > 1:
        advice = f"select one output, component=0 to {wrong.shape[1] - 1}, or take all with fastssm.basis_terms"
    return ValueError(f"{operator} is of one scalar function of x, [B] or [B, 1]; {returned}; {advice}.")


def check_network(network: Network, x: Tensor, cond: tuple[Tensor | None, ...], names: Iterable[str], kind: str) -> str:
    """Return the kind of a recognised network, and raise unless data and conditioning arguments are what it takes.

    It stays "auto" for data that the network does not flatten: only running it can tell.
    """
    if isinstance(network, Traced):  # recorded for data and conditioning arguments of these shapes
        return kind_of_output((x.shape[0], *network.output), x.shape, kind)
    if network.flattens or x.ndim == 2:
        kind = _kind_of_network(network, x, kind)
    for linear in network.linears:
        _check_weights(x, parameters_of(linear))
    named = list(names)
    if network.conditioned is not None:
        if named:
            raise ValueError(
                f"the network takes its conditioning arguments by position, got cond with the names {', '.join(named)};"
                " pass a tensor or a tuple."
            )
        network.conditioned.check_cond(cond)
        _check_cond_dtypes(cond, x)
    elif cond or named:
        raise ValueError(
            f"the network takes 0 conditioning arguments after x, got {len(cond) + len(named)}; leave cond out, or use "
            "fastssm.nn.MLP(..., cond_dim=C)."
        )
    return kind


def _kind_of_network(network: Network, x: Tensor, kind: str) -> str:
    dim = x.size(1) if x.ndim == 2 else math.prod(x.shape[1:])
    if dim != network.in_features:
        raise ValueError(
            f"the network takes {network.in_features} value(s) per sample, x of shape {tuple(x.shape)} has {dim}; "
            "pass data of that width, or build the network for it."
        )
    out = network.out_features
    if kind == "auto" and dim > 1 and out in (1, dim):
        return "energy" if out == 1 else "score"
    return kind_of_output((x.shape[0], out), x.shape, kind)


def widened(t: Tensor) -> Tensor:
    """Return half-precision tensors in float32: sums and products of derivatives need its mantissa."""
    return t.float() if t.dtype in HALF else t


def autocasting(x: Tensor) -> bool:
    """Return whether autocast is on for the device of x."""
    device = "cpu" if x.is_cpu else x.device.type  # the latter takes half a microsecond
    return device != "meta" and torch.is_autocast_enabled(device)


def _check_weights(x: Tensor, weights: Iterable[Tensor | None]) -> None:
    dtype, device = x.dtype, x.device
    for t in weights:
        if t is None or (t.dtype is dtype and t.device == device):
            continue
        if t.device != device:
            raise ValueError(
                f"x and the model must be on one device: x is on {x.device}, the model on {t.device}; move one of them "
                "with .to(...)."
            )
        if not _meet(t, x):
            raise TypeError(
                f"x and the model must have one dtype: x is {x.dtype}, the model {t.dtype}; convert one of them with "
                ".to(...)."
            )


def _check_cond_dtypes(cond: tuple[Tensor | None, ...], x: Tensor) -> None:
    for index, c in enumerate(cond):
        if c is not None and not _meet(c, x):
            raise TypeError(
                f"cond[{index}] must have the dtype of x, {x.dtype}, got {c.dtype}; use .to(x.dtype), and for class "
                "labels torch.nn.functional.one_hot first."
            )


def _meet(t: Tensor, x: Tensor) -> bool:
    """Return whether two tensors can be multiplied: their dtypes are equal, or autocast converts them."""
    return t.dtype == x.dtype or (t.dtype in _CAST and x.dtype in _CAST and autocasting(x))


def outside_inference(t: Tensor) -> Tensor:
    """Return a tensor that autograd can save: a copy if it was made in inference mode and that mode is off."""
    if torch.compiler.is_compiling() or not t.is_inference() or torch.is_inference_mode_enabled():
        return t
    return t.clone()


def _check_device(name: str, t: Tensor, x: Tensor) -> None:
    if t.ndim and t.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {t.device}; use {name}.to(x.device).")
