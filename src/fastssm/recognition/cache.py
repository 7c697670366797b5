"""A cache of recognised networks, valid until something changes that recognition reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from fastssm.options import Model
from fastssm.recognition.matching import attributes_of, inside, objection_to, read
from fastssm.recognition.network import Network, Refusal, parametrized

MAX_MODELS = 64  # models in the cache
_CONSTANT = (bool, int, float, str)  # types of attributes that do not change in place


class _Snapshot(NamedTuple):
    """What recognition reads of one module, except what `objection_to` checks."""

    module: ref[nn.Module]
    getter: Callable[[nn.Module], Any]
    attributes: Any
    children: list[int]
    parameters: list[type]


class _CacheEntry(NamedTuple):
    """A network, and a snapshot of every module that it was recognised from."""

    network: Network
    snapshots: list[_Snapshot]

    def holds(self) -> bool:
        """Return whether recognition would give the same result again."""
        for module_ref, getter, attributes, children, parameters in self.snapshots:
            module = module_ref()
            if module is None or objection_to(module) or getter(module) != attributes:
                return False
            own = module.__dict__
            if (own["_modules"] or children) and [*map(id, own["_modules"].values())] != children:
                return False
            if (own["_parameters"] or parameters) and [*map(type, own["_parameters"].values())] != parameters:
                return False
        return not _has_any_global_hook()  # type: ignore[no-untyped-call]


_cache: WeakKeyDictionary[nn.Module, _CacheEntry] = WeakKeyDictionary()


def recognize_cached(model: Model) -> Network | Refusal:
    """Return what `fastssm.recognize` does, from the cache if nothing has changed since the last call."""
    model = inside(model)
    if torch.compiler.is_compiling() or not isinstance(model, nn.Module):
        return read(model)[0]
    entry = _cache.get(model)
    if entry is not None and entry.holds():
        return entry.network
    found, modules = read(model)
    _store(model, found, modules)
    return found


def _store(model: nn.Module, found: Network | Refusal, modules: Sequence[nn.Module]) -> None:
    _cache.pop(model, None)
    if isinstance(found, Refusal) or found.conditioned is model or model in found.linears:
        return  # an entry must not keep its own model alive
    if any(_is_uncacheable(module) for module in modules):
        return
    if len(_cache) >= MAX_MODELS:
        _cache.clear()
    _cache[model] = _CacheEntry(found, [_snapshot(module) for module in modules])


def _is_uncacheable(module: nn.Module) -> bool:
    """Return whether a snapshot would miss some changes: in parametrizations, or inside an attribute."""
    return parametrized(module) or any(type(getattr(module, key)) not in _CONSTANT for key in attributes_of(module))


def _snapshot(module: nn.Module) -> _Snapshot:
    getter = attrgetter("__class__", *attributes_of(module))
    children, parameters = [*map(id, module._modules.values())], [*map(type, module._parameters.values())]
    return _Snapshot(ref(module), getter, getter(module), children, parameters)
