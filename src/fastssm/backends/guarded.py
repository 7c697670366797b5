"""Guarded calls: calls of the compiled CPU engine that are remembered whole, checked and run in C++.

A small network spends more time on the way to the engine than in it. The first call with a model goes the long way and
leaves a guarded call. Its guards are what recognition has read of the modules; where one fails, the call goes the long
way again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _torch_module

from fastssm.backends.entries import compiled
from fastssm.backends.entries.flat import Form
from fastssm.backends.request import Request
from fastssm.options import Model
from fastssm.recognition import HOOKS, Recognised, parametrized, recognised
from fastssm.sweeps import read

_GLOBAL_HOOKS = tuple(getattr(_torch_module, name) for name in _torch_module._has_any_global_hook.__code__.co_names)


class Guarded(NamedTuple):
    """A guarded call, and the kind of its model; there is none for tensors that are not parameters of the modules."""

    kind: str
    call: Any


def objective(
    model: Model, x: Tensor, v: Tensor | None, count: int, form: Form, kind: str = "auto"
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the differentiable loss and its two terms per sample if a guarded call fits, else None.

    Args:
        model: the user's.
        x: whatever came as data.
        v: whatever came as directions, or None.
        count: of random signs without v; 0 for the basis.
        form: of the loss.
        kind: of the model, as it was given.
    """
    if torch.compiler.is_compiling() or not isinstance(model, nn.Module):
        return None
    entry = recognised(model)
    guarded: Guarded | None = None if entry is None else entry.guarded
    if guarded is None or guarded.call is None or kind not in ("auto", guarded.kind):
        return None
    found: tuple[Tensor, Tensor, Tensor] | None = guarded.call.objective(x, v, count, *form)
    return found


def remember(request: Request) -> None:
    """Keep a guarded call of a request that the engine runs, unless there is one."""
    model, x = request.model, request.x
    if torch.compiler.is_compiling() or not isinstance(model, nn.Module) or x.ndim != 2 or x.shape[1] == 1:
        return  # for one coordinate, the kind must be given
    entry = recognised(model)
    if entry is not None and entry.network is request.recognised and entry.guarded is None:
        entry.guarded = Guarded(request.kind, _call(entry, request.kind))


def _call(entry: Recognised, kind: str) -> Any:
    """Return the call of C++, None for a network with tensors that are not parameters of its modules."""
    network, modules = entry.network, [snapshot.module() for snapshot in entry.snapshots]
    linears = [spec.linear for spec in network.specs]
    if network.conditioned is not None or any(linear is None or parametrized(linear) for linear in linears):
        return None
    guards = [
        (s.module, s.attributes[0], dict(zip(s.names[1:], s.attributes[1:], strict=True)), s.children, s.parameters)
        for s in entry.snapshots
    ]
    every = [(linear, name) for linear in linears for name in ("weight", "bias")]
    places = [(modules.index(m), name) for m, name in every if getattr(m, name) is not None]
    structure = compiled.structure_of(read(network, kind, ())[0])
    return compiled.guarded_call(structure, network.in_features, guards, places, HOOKS, _GLOBAL_HOOKS, entry.forwards)
