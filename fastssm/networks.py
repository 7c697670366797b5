"""Recognise a module as a `Network` of affine maps, activations and skips, or say why it is not one.

Recognition reads structure only; weights are read at each call (`Network.layers`), once, so that parametrizations
such as weight_norm are honoured and their power iterations advance exactly as under plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fastssm.activations import IDENTITY, TABLE, Activation
from fastssm.nn import MLP, module_class

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = (Tensor, nn.Parameter)
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule")


_UNMODULATED: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]


def _rows_by_class() -> dict[type[nn.Module], list[Activation]]:
    rows: dict[type[nn.Module], list[Activation]] = {}
    for row in TABLE:
        rows.setdefault(module_class(row.module), []).append(row)
    return rows


_ROWS = _rows_by_class()


class Layer(NamedTuple):
    """One layer as tensors: `z = scale * (W h + b) + shift`, `h' = f(z) (+ h where skip)`."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    activation: Activation
    constants: tuple[float, ...]
    skip: bool


class LayerSpec(NamedTuple):
    """One layer as structure: the module that holds the affine map (None: the identity), and what follows it."""

    linear: nn.Linear | None
    activation: Activation
    constants: tuple[float, ...]
    skip: bool = False


@dataclass(frozen=True)
class Network:
    """A module that the engines can run.

    Attributes:
        specs: the layers, first to last.
        flattens: whether the module flattens its input itself, so that data of any shape may enter.
        conditioned: the `MLP` whose conditioning arguments enter, None when the module takes `x` alone.
    """

    specs: tuple[LayerSpec, ...]
    flattens: bool
    conditioned: MLP | None = None

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return next(spec.linear.out_features for spec in reversed(self.specs) if spec.linear is not None)

    @property
    def in_features(self) -> int:
        """Number of data coordinates, conditioning columns not counted."""
        first = next(spec.linear.in_features for spec in self.specs if spec.linear is not None)
        concatenates = self.conditioned is not None and self.conditioned.modulation is None
        return first - (self.conditioned.cond_features if concatenates and self.conditioned is not None else 0)

    @property
    def curved(self) -> bool:
        """Whether some activation bends: without one, an energy has no curvature to match."""
        return any(spec.activation.curved for spec in self.specs)

    def layers(self, cond: tuple[Tensor, ...]) -> tuple[list[Layer], Tensor | None]:
        """Read every weight once, and return the layers and the conditioning columns to append to `x`."""
        features = self.conditioned.features(*cond) if self.conditioned is not None else None
        columns, modulations = features, _UNMODULATED * len(self.specs)
        if self.conditioned is not None and self.conditioned.modulation is not None and features is not None:
            columns, modulations = None, self.conditioned.modulations(features) + _UNMODULATED
        layers = []
        for spec, (scale, shift) in zip(self.specs, modulations, strict=True):
            linear, activation, constants, skip = spec
            weight, bias = self._identity(spec) if linear is None else (linear.weight, linear.bias)
            layers.append(Layer(weight, bias, scale, shift, activation, constants, skip))
        return layers, columns

    def _identity(self, spec: LayerSpec) -> tuple[Tensor, None]:
        """Return the affine map of an activation that follows none."""
        size = next(size for other, size in zip(self.specs, self._sizes(), strict=True) if other is spec)
        like = next(parameter for s in self.specs if s.linear is not None for parameter in parameters_of(s.linear))
        return torch.eye(size, dtype=like.dtype, device=like.device), None

    def _sizes(self) -> list[int]:
        sizes, size = [], self.specs[0].linear.in_features if self.specs[0].linear else self.in_features
        for spec in self.specs:
            size = spec.linear.out_features if spec.linear is not None else size
            sizes.append(size)
        return sizes

    def __str__(self) -> str:
        """Describe the network in one line."""
        steps = [f"{s.activation.name}{' + skip' if s.skip else ''}" for s in self.specs]
        widths = [str(self.in_features), *map(str, self._sizes())]
        return f"MLP {'-'.join(widths)} ({', '.join(steps)})"


@dataclass(frozen=True)
class Refusal:
    """Why a module is not a `Network`: it falls to plain autograd."""

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """List the reasons."""
        return "not recognised: " + "; ".join(self.reasons)


def recognize(model: nn.Module) -> Network | Refusal:
    """Recognise a module as a network of affine maps, activations and skips, or return every reason why not.

    `E(x)` or `s(x)` `= W_L f_{L-1}( ... f_1(W_1 x + b_1) ... ) + b_L`.

    Args:
        model: any module. `nn.Sequential` (nested) of `nn.Linear`, the activations of the table, `Flatten`, `Identity`
            and inactive `Dropout`, or a `fastssm.nn.MLP`, is recognised.

    Returns:
        A `Network`, or a `Refusal` whose `reasons` name each obstacle.

    Raises:
        TypeError: if `model` is not a module.

    Example:
        >>> print(recognize(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))))
        MLP 2-8-1 (tanh, identity)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    model = getattr(model, "_orig_mod", model)  # what torch.compile(model) wraps: the same function
    reader = _Reader()
    if type(model) is MLP:
        reader.read_mlp(model)
    else:
        reader.read(model)
    return reader.result()


def parameters_of(linear: nn.Module) -> list[Tensor]:
    """Return the parameters of a layer; `parameters()` is slow, and only parametrized layers need it."""
    if _parametrized(linear):
        return list(linear.parameters())
    return [p for p in linear._parameters.values() if p is not None]


def wrapper_of(module: nn.Module) -> str | None:
    """Return the name of the data-parallel wrapper that a module is, None if it is none."""
    for base in type(module).__mro__:
        if base.__name__ in _WRAPPERS:
            return base.__name__
    return None


class _Reader:
    """Walks a module tree once, collecting layers and reasons; every call does, so it does no more than it must."""

    def __init__(self) -> None:
        self.specs: list[LayerSpec] = []
        self.reasons: list[str] = []
        self.pending: nn.Linear | None = None
        self.seen: set[int] = set()
        self.path: list[str] = []
        self.flattens = False
        self.conditioned: MLP | None = None
        if _has_any_global_hook():  # type: ignore[no-untyped-call]
            self.reasons.append("a global module hook is registered, and the fused path would not call it")

    def result(self) -> Network | Refusal:
        if self.pending is not None:
            self.close(IDENTITY, ())
        if not self.reasons and not self.seen:
            self.reasons.append("there is no nn.Linear in it")
        if self.reasons:
            return Refusal(tuple(self.reasons))
        return Network(tuple(self.specs), self.flattens, self.conditioned)

    def close(self, activation: Activation, constants: tuple[float, ...], skip: bool = False) -> None:
        self.specs.append(LayerSpec(self.pending, activation, constants, skip))
        self.pending = None

    def read(self, module: nn.Module, *name: str) -> None:
        self.path += name
        self.check(module)
        read_one = _READERS.get(type(module)) or _READERS.get(_type(module), _Reader.read_other)
        read_one(self, module)
        del self.path[len(self.path) - len(name) :]

    def read_sequential(self, module: nn.Module) -> None:
        for key, child in module._modules.items():
            if child is not None:
                self.read(child, key)

    def read_linear(self, module: nn.Linear) -> None:
        if id(module) in self.seen:
            self.refuse(module, "the module is shared: it occurs more than once")
        self.seen.add(id(module))
        for parameter in parameters_of(module):
            if type(parameter) not in _PLAIN and is_traceable_wrapper_subclass(parameter):
                self.refuse(module, f"its weights are {type(parameter).__name__}, not plain tensors")
                break
        if self.pending is not None:
            self.close(IDENTITY, ())
        self.pending = module

    def read_activation(self, module: nn.Module) -> None:
        for row in _ROWS[_type(module)]:
            if not row.matches or all(getattr(module, key) == value for key, value in row.matches):
                self.close(row, tuple([float(getattr(module, key)) for key in row.parameters]))
                return
        self.refuse(module, "no row of the activation table has these settings")

    def read_identity(self, module: nn.Module) -> None:
        """Leave out what changes nothing."""

    def read_flatten(self, module: nn.Flatten) -> None:
        if (module.start_dim, module.end_dim) != (1, -1):
            self.refuse(module, "only Flatten(start_dim=1, end_dim=-1) keeps one row per sample")
        self.flattens = self.flattens or not self.seen

    def read_dropout(self, module: nn.Dropout) -> None:
        if module.training and module.p > 0:
            self.refuse(module, "dropout is active in train mode; call model.eval() or remove it")

    def read_other(self, module: nn.Module) -> None:
        self.refuse(module, "this layer is not an affine map or a known activation")

    def read_mlp(self, model: MLP) -> None:
        self.flattens, self.conditioned = True, model if model.cond_features else None
        for name in ("", "hidden", "activations"):
            self.check(model.get_submodule(name), name)  # the embedding is called as it is, hooks and all
        for index, (linear, activation) in enumerate(zip(model.linears, model.activations, strict=True)):
            self.read(linear, f"hidden.{index}")
            before = len(self.specs)
            self.read(activation, f"activations.{index}")
            if len(self.specs) == before:
                self.close(IDENTITY, ())
            self.specs[-1] = self.specs[-1]._replace(skip=model.skips(index))
            if len(self.specs) != index + 1:
                self.refuse(activation, "it is not a single activation", f"activations.{index}")
        self.read(model.readout, "readout")

    def check(self, module: nn.Module, *name: str) -> None:
        objection = _objection(module)
        if objection:
            self.refuse(module, objection, *name)

    def refuse(self, module: nn.Module, reason: str, *name: str) -> None:
        where = ".".join(part for part in (*self.path, *name) if part)
        kind = _type(module).__name__
        self.reasons.append(f"{where} ({kind}): {reason}" if where else f"{kind}: {reason}")


_READERS: dict[type[nn.Module], Callable[[_Reader, Any], None]] = {
    **dict.fromkeys(_ROWS, _Reader.read_activation),
    nn.Sequential: _Reader.read_sequential,
    nn.Linear: _Reader.read_linear,
    nn.Identity: _Reader.read_identity,
    nn.Flatten: _Reader.read_flatten,
    nn.Dropout: _Reader.read_dropout,
}


def _objection(module: nn.Module) -> str:
    """Return why a module's own forward is not all that calling it would do, nothing if it is."""
    state = module.__dict__
    if state[_HOOKS[0]] or state[_HOOKS[1]] or state[_HOOKS[2]] or state[_HOOKS[3]]:  # a loop costs microseconds
        return "it has hooks, and the fused path would not call them"
    return "its forward method was replaced" if "forward" in state else ""


def _parametrized(module: nn.Module) -> bool:
    """Say whether a module may be parametrized: a look into its children, as asking torch costs microseconds."""
    return "parametrizations" in module._modules


def _type(module: nn.Module) -> type:
    return parametrize.type_before_parametrizations(module) if _parametrized(module) else type(module)


# What `torch.compiler.assume_constant_result` does, without its import of Dynamo, which takes a second: compiled code
# never looks at hooks again, as is usual under torch.compile, and is spared the guards.
for _constant in (_objection, _parametrized):
    _constant.__dict__["_dynamo_marked_constant"] = True
