"""What was recognised of a model, remembered for as long as nothing changes that recognition looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from fastssm.recognition.matching import attributes_of, inside, objection_to, read
from fastssm.recognition.network import Network, Refusal, parametrized

MOST = 64  # models remembered at once
_CONSTANT = (bool, int, float, str)  # types of attributes that do not change in place


class _Sight(NamedTuple):
    """All that recognition looks at in one module, besides what `objection_to` does."""

    module: ref[nn.Module]
    look: Callable[[nn.Module], Any]
    seen: Any
    children: list[int]
    parameters: list[type]


class _Memory(NamedTuple):
    """A network, and the sight of every module that it was recognised from."""

    network: Network
    sights: list[_Sight]

    def holds(self) -> bool:
        """Say whether recognition would find the same again."""
        for module_ref, look, seen, children, parameters in self.sights:
            module = module_ref()
            if module is None or objection_to(module) or look(module) != seen:
                return False
            own = module.__dict__
            if (own["_modules"] or children) and [*map(id, own["_modules"].values())] != children:
                return False
            if (own["_parameters"] or parameters) and [*map(type, own["_parameters"].values())] != parameters:
                return False
        return not _has_any_global_hook()  # type: ignore[no-untyped-call]


_memories: WeakKeyDictionary[nn.Module, _Memory] = WeakKeyDictionary()


def recall(model: nn.Module) -> Network | Refusal:
    """Return what `fastssm.recognize` would, faster where nothing has changed since it was last asked."""
    model = inside(model)
    if torch.compiler.is_compiling():
        return read(model)[0]
    memory = _memories.get(model)
    if memory is not None and memory.holds():
        return memory.network
    found, modules = read(model)
    _remember(model, found, modules)
    return found


def _remember(model: nn.Module, found: Network | Refusal, modules: Sequence[nn.Module]) -> None:
    _memories.pop(model, None)
    if isinstance(found, Refusal) or found.conditioned is model or model in found.linears:
        return  # a memory must not keep its own model alive
    if any(_is_fleeting(module) for module in modules):
        return
    if len(_memories) >= MOST:
        _memories.clear()
    _memories[model] = _Memory(found, [_sight(module) for module in modules])


def _is_fleeting(module: nn.Module) -> bool:
    """Say whether a sight of a module would miss some changes: in its parametrizations, or inside an attribute."""
    return parametrized(module) or any(type(getattr(module, key)) not in _CONSTANT for key in attributes_of(module))


def _sight(module: nn.Module) -> _Sight:
    look = attrgetter("__class__", *attributes_of(module))
    children, parameters = [*map(id, module._modules.values())], [*map(type, module._parameters.values())]
    return _Sight(ref(module), look, look(module), children, parameters)
