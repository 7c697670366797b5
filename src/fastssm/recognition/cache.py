"""Recognition, by structure or by recording a forward; results are kept until something changes that it depends on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastssm.activations import INDEX, TABLE
from fastssm.compiling import COMPILES, constant_of_a_module
from fastssm.options import Cond, Model
from fastssm.recognition.fingerprint import Fingerprint
from fastssm.recognition.matching import OTHER, attributes_of, forwards_of, inside, objection_to, read
from fastssm.recognition.network import LayerSpec, Network, Refusal, parametrized
from fastssm.recognition.source import Program, constant
from fastssm.recognition.tracing import Traced, at, objections_to, own_modules, trace

MAX_MODELS = 64  # models in each cache
MAX_STATES = 8  # states and shapes of data that are kept of one model
MAX_CHANGES = 4  # recordings that change the model, after which it is left alone
_CONSTANT = (bool, int, float, str)  # types of attributes that do not change in place
TRANSFORMED = (
    "a torch.func transform is running, and the model was not recognised before; call the loss once outside it"
)
COMPILED = "the model has an own forward, and compiled code needs torch 2.13 or newer to recognise it"
EXPORTED = "the model has an own forward, which torch.export recognises with strict=True only"
CHANGES = "its forward changes {change}; move that out of forward"


def recognize(model: Model, x: Tensor | None = None, cond: Cond = None) -> Network | Refusal:
    """Recognise a module as a network of affine maps, activations and skips, or return every reason why not.

    `E(x)` or `s(x)` `= W_L f_{L-1}( ... f_1(W_1 x + b_1) ... ) + b_L`.

    Args:
        model: any module or function. `nn.Sequential` (nested) of `nn.Linear`, the activations of the table, `Flatten`,
            `Identity` and inactive `Dropout`, or a `fastssm.nn.MLP`, is recognised by its structure.
        x: data `[B, ...]`, for a model with a forward of its own: what it does with a few rows is recorded.
        cond: conditioning arguments, as for `fastssm.sliced_loss`.

    Returns:
        A `Network`, or a `Refusal` whose `reasons` name each obstacle.

    Raises:
        TypeError: if `model` is neither a module nor a function.

    Example:
        >>> print(recognize(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))))
        MLP 2-8-1 (tanh, identity)
    """
    if isinstance(model, type) or not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or a function, got {type(model).__name__}.")
    model = inside(model)
    found = read(model)[0]
    if isinstance(found, Network) or x is None or not isinstance(model, nn.Module):
        return found
    if isinstance(cond, Mapping):
        given, names = tuple(cond.values()), tuple(cond)
    else:
        given, names = () if cond is None else (cond,) if isinstance(cond, Tensor) else tuple(cond), ()
    return _obstacles(model, found) or trace(model, x, given, names)


def _obstacles(model: nn.Module, found: Refusal) -> Refusal | None:
    """Return why the forward of a model must not be recorded, with what its structure says of torch's own layers."""
    if not (reasons := objections_to(model)):
        return None
    listed = [
        r for r in found.reasons if OTHER not in r or hasattr(nn, r.partition(": ")[0].rpartition("(")[2].strip(")"))
    ]
    return Refusal(tuple(dict.fromkeys([*listed, *reasons])))


_Described = tuple[tuple[int, ...], int, str, str] | None


class Snapshot(NamedTuple):
    """What recognition reads of one module, except what `objection_to` checks."""

    module: ref[nn.Module]
    names: tuple[str, ...]
    getter: Callable[[nn.Module], Any]
    attributes: Any
    children: list[int]
    parameters: list[type]


@dataclass
class Recognised:
    """A network, and a snapshot of every module that it was recognised from.

    Attributes:
        network: what was recognised.
        snapshots: of the modules.
        forwards: classes, and the forwards that they must have.
        guarded: a call that `fastssm.backends.guarded` keeps as long as this; None before there was one.
    """

    network: Network
    snapshots: list[Snapshot]
    forwards: list[tuple[Any, Any]]
    guarded: Any = None

    def holds(self) -> bool:
        """Return whether recognition would give the same result again."""
        for module_ref, _, getter, attributes, children, parameters in self.snapshots:
            module = module_ref()
            if module is None or objection_to(module) or getter(module) != attributes:
                return False
            own = module.__dict__
            if (own["_modules"] or children) and [*map(id, own["_modules"].values())] != children:
                return False
            if (own["_parameters"] or parameters) and [*map(type, own["_parameters"].values())] != parameters:
                return False
        for kind, forward in self.forwards:
            if kind.forward is not forward:
                return False
        return not _has_any_global_hook()  # type: ignore[no-untyped-call]


class _State(NamedTuple):
    """What recording a forward gave, for data of some shapes and a model in some state."""

    key: tuple[Any, ...]
    fingerprint: Fingerprint
    found: Traced | Refusal

    def holds(self, key: tuple[Any, ...]) -> bool:
        if self.key != key or not self.fingerprint.holds():
            return False
        return isinstance(self.found, Refusal) or self.found.holds()


_cache: WeakKeyDictionary[nn.Module, Recognised] = WeakKeyDictionary()
recognised = _cache.get  # what is kept of a module that was recognised by its structure, which may have changed since
_recorded: WeakKeyDictionary[nn.Module, list[_State]] = WeakKeyDictionary()
_changing: WeakKeyDictionary[nn.Module, tuple[int, Refusal]] = WeakKeyDictionary()


def recognize_cached(
    model: Model,
    x: Tensor | None = None,
    cond: Sequence[Tensor | None] = (),
    named: Mapping[str, Tensor | None] = MappingProxyType({}),
) -> Network | Refusal:
    """Return what `recognize` does, from the cache if nothing has changed since the last call."""
    model = inside(model)
    if named:
        cond = (*cond, *named.values())
    if not isinstance(model, nn.Module):
        return read(model)[0]
    if torch.compiler.is_compiling():
        found = read(model)[0]
        return found if isinstance(found, Network) or x is None else _compiled(model, x, cond, tuple(named))
    entry = _cache.get(model)
    if entry is not None:
        if entry.holds():
            return entry.network
        del _cache[model]
    if x is not None and (states := _recorded.get(model)):
        key = _key(x, cond, tuple(named))
        for state in states:
            if state.holds(key):
                return state.found
    found, modules = read(model)
    if isinstance(found, Network):
        _store(model, found, modules)
        return found
    return found if x is None else _obstacles(model, found) or _trace(model, x, cond, tuple(named))


def _compiled(model: nn.Module, x: Tensor, cond: Sequence[Tensor | None], names: tuple[str, ...]) -> Network | Refusal:
    """Recognise a model while torch.compile traces a call: the result is a constant of the trace."""
    if not torch.compiler.is_dynamo_compiling() or not COMPILES:
        return Refusal((EXPORTED if COMPILES else COMPILED,))
    described = tuple([_described(t) for t in (x, *cond)])
    reasons, layers, widths, output, paths, watched = getattr(_kept, _facts(model, described, names))()
    for path, name, value in watched:  # so that torch.compile guards on them
        if getattr(at(model, path), name) != value:
            return Refusal((COMPILED,))
    if reasons:
        return Refusal(reasons)
    specs = [LayerSpec(None, TABLE[index], constants, skip) for index, constants, skip in layers]
    coefficients: Program = getattr(_kept, _coefficients(model, described, names))
    return Traced(
        specs=tuple(specs),
        linears=(),
        flattens=True,
        coefficients=coefficients,
        widths=widths,
        output=output,
        attributes=(),
        owners=(),
        paths=paths,
    )


def _described(t: Tensor | None) -> _Described:
    """Return what is constant of a tensor in a trace; `len(range(n))` makes a constant of a size that may vary."""
    if t is None:
        return None
    return tuple([len(range(size)) for size in t.shape[1:]]), t.ndim, str(t.dtype), str(t.device)


class _Kept:
    """Functions that compiled code calls: torch.compile cannot make constants of them, but reads them as attributes."""

    def keep(self, function: Callable[..., Any], text: str) -> str:
        """Keep a function under the name that belongs to its text, and return the name."""
        name = f"f{hashlib.sha256(text.encode()).hexdigest()}"
        if name not in self.__dict__:
            setattr(self, name, function)
        return name


_kept = _Kept()


@constant_of_a_module
def _facts(model: nn.Module, described: tuple[_Described, ...], names: tuple[str, ...]) -> str:
    """Return the name of a function that returns what recognition found, in plain numbers and names."""
    found = _made_up(model, described, names)
    watched = tuple(
        (path, name, value)
        for module, path in own_modules(model)
        for name, value in vars(module).items()
        if type(value) in _CONSTANT and (name == "training" or not name.startswith("_"))
    )
    if isinstance(found, Refusal):
        facts: tuple[Any, ...] = (found.reasons, (), (), (), (), watched)
    else:
        layers = tuple((INDEX[s.activation.name], s.constants, s.skip) for s in found.specs)
        facts = ((), layers, found.widths, tuple(found.output), found.paths, watched)
    return _kept.keep(constant(facts), repr(facts))


@constant_of_a_module
def _coefficients(model: nn.Module, described: tuple[_Described, ...], names: tuple[str, ...]) -> str:
    """Return the name of the program of a model that was recognised."""
    found = _made_up(model, described, names)
    assert isinstance(found, Traced)
    return _kept.keep(found.coefficients, found.coefficients.__doc__ or "")


def _made_up(model: nn.Module, described: tuple[_Described, ...], names: tuple[str, ...]) -> Traced | Refusal:
    """Recognise a model by data that are made up: those of the call have no values yet."""
    x = _tensor(*described[0])  # type: ignore[misc]
    cond = [None if each is None else _tensor(*each) for each in described[1:]]
    for state in _recorded.get(model, ()):
        if state.holds(_key(x, cond, names)):
            return state.found
    found = read(model)[0]
    assert isinstance(found, Refusal)
    return _obstacles(model, found) or _trace(model, x, cond, names)


def _tensor(tail: tuple[int, ...], ndim: int, dtype_name: str, device: str) -> Tensor:
    dtype: torch.dtype = getattr(torch, dtype_name.removeprefix("torch."))
    shape = (2, *tail) if ndim else ()
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.arange(math.prod(shape), device=device).sin().to(dtype).reshape(shape)


def _key(x: Tensor, cond: Sequence[Tensor | None], names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what a recording depends on, of the data."""
    if not cond:
        return x.shape[1:], x.dtype, x.device
    shapes = [None if c is None else (c.ndim, c.shape[1:], c.dtype) for c in cond]
    return x.shape[1:], x.dtype, x.device, names, *shapes


def _trace(model: nn.Module, x: Tensor, cond: Sequence[Tensor | None], names: tuple[str, ...]) -> Traced | Refusal:
    """Record a model, and keep the result."""
    if torch._C._are_functorch_transforms_active():
        return Refusal((TRANSFORMED,))
    changes, refusal = _changing.get(model, (0, Refusal(())))
    if changes >= MAX_CHANGES:
        return refusal
    key, fingerprint = _key(x, cond, names), Fingerprint.of(model)
    found = trace(model, x, cond, names)
    if change := fingerprint.change():
        found = Refusal((CHANGES.format(change=change),))
        _changing[model] = changes + 1, found
        return found
    if len(_recorded) >= MAX_MODELS:
        _recorded.clear()
    _recorded[model] = [_State(key, fingerprint, found), *_recorded.get(model, [])[: MAX_STATES - 1]]
    return found


def _store(model: nn.Module, found: Network, modules: Sequence[nn.Module]) -> None:
    _cache.pop(model, None)
    if found.conditioned is model or model in found.linears:
        return  # an entry must not keep its own model alive
    if any(_is_uncacheable(module) for module in modules):
        return
    if len(_cache) >= MAX_MODELS:
        _cache.clear()
    _cache[model] = Recognised(found, [_snapshot(module) for module in modules], forwards_of(modules))


def _is_uncacheable(module: nn.Module) -> bool:
    """Return whether a snapshot would miss some changes: in parametrizations, or inside an attribute."""
    return parametrized(module) or any(type(getattr(module, key)) not in _CONSTANT for key in attributes_of(module))


def _snapshot(module: nn.Module) -> Snapshot:
    names = ("__class__", *attributes_of(module))
    getter = attrgetter(*names) if len(names) > 1 else lambda module: (module.__class__,)
    children, parameters = [*map(id, module._modules.values())], [*map(type, module._parameters.values())]
    return Snapshot(ref(module), names, getter, getter(module), children, parameters)
