"""What a model's forward may depend on besides tensors: plain attributes, hooks, classes, globals that its code names.

A tensor is read anew at each call, so only its kind counts. Everything else that a forward can see is compared with the
state in which the model was looked at.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.layout)
_OWN_FIELDS = frozenset(vars(nn.Module())) - {"training"}  # of every module: compared one by one below
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LIBRARIES = ("torch", "numpy", "builtins", "math", "fastssm", "typing", "collections", "functools", "einops")
_ARRAY_BYTES, _DEPTH = 1 << 16, 4

Check = Callable[[Any], bool]


class _Module(NamedTuple):
    """The state of one module."""

    module: ref[nn.Module]
    kind: type
    keys: tuple[str, ...]
    names: tuple[str, ...]
    plain: Callable[[Any], Any] | None
    values: Any
    checks: tuple[tuple[str, Check], ...]
    hooks: list[int]
    children: list[int]
    tensors: list[type]


class _Names(NamedTuple):
    """Names of a namespace, of a class or of a file, with plain values or functions."""

    where: str
    namespace: Any
    getter: Callable[[Any], Any]
    names: tuple[str, ...]
    values: Any


class Fingerprint:
    """The state of a model in which it was looked at; `holds` says whether it is still in that state.

    Build it with `Fingerprint.of`. It keeps no module alive.
    """

    def __init__(self, modules: list[_Module], names: list[_Names], forwards: list[tuple[Any, Any]]) -> None:
        self._modules, self._names, self._forwards = modules, names, forwards
        self._checks: list[tuple[str, Callable[[], object], Check]] = []

    @classmethod
    def of(cls, model: nn.Module) -> Fingerprint:
        """Return the state of a model, of all its children, and of the code that they run.

        Args:
            model: any module.

        Returns:
            The fingerprint.
        """
        modules = list(model.modules())
        code = _Code(type(module).__module__ for module in modules)
        states = [_state(module, code) for module in modules]
        kinds = list(dict.fromkeys(type(module) for module in modules))
        for kind in kinds:
            code.look_at_class(kind)
        forwards = [(kind, kind.forward) for kind in kinds]
        made = cls(states, code.names(), forwards)
        made._checks = code.checks
        return made

    def holds(self) -> bool:
        """Return whether nothing has changed that the model's forward may depend on, except tensors' values."""
        for state in self._modules:
            module = state.module()
            if module is None or type(module) is not state.kind or not _same(state, module.__dict__):
                return False
        for _, namespace, getter, _, values in self._names:
            try:
                if getter(namespace) != values:
                    return False
            except (KeyError, ValueError, RuntimeError):  # deleted; an array or a tensor, which was a number
                return False
        for kind, forward in self._forwards:
            if kind.forward is not forward:
                return False
        for _, get, check in self._checks:
            if not check(get()):
                return False
        return not _has_any_global_hook()  # type: ignore[no-untyped-call]

    def change(self) -> str:
        """Name the first thing that has changed; empty if nothing has."""
        for state in self._modules:
            if (module := state.module()) is None:
                return "a module is gone"
            if type(module) is not state.kind or not _same(state, module.__dict__):
                return f"{_changed(state, module.__dict__)} of {type(module).__name__}"
        for where, namespace, _, names, values in self._names:
            before = values if len(names) > 1 else (values,)
            for name, value in zip(names, before, strict=True):
                if name not in namespace or namespace[name] != value:
                    return f"{name} of {where}"
        return "" if self.holds() else "a function or a global"


def _same(state: _Module, own: dict[str, Any]) -> bool:
    _, _, keys, _, plain, values, checks, hooks, children, tensors = state
    if tuple(own) != keys:
        return False
    if plain is not None:
        try:
            if plain(own) != values:
                return False
        except (ValueError, RuntimeError):  # an array or a tensor stands where a number stood
            return False
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        if hooks_of(own) != hooks:
            return False
    elif hooks:
        return False
    inner = own["_modules"]
    if (inner or children) and [*map(id, inner.values())] != children:
        return False
    parameters, buffers = own["_parameters"], own["_buffers"]
    if not buffers:
        if (parameters or tensors) and [*map(type, parameters.values())] != tensors and not _same_tensors(own, tensors):
            return False
    elif not _same_tensors(own, tensors):
        return False
    for name, check in checks:  # noqa: SIM110
        if not check(own[name]):
            return False
    return True


def _same_tensors(own: dict[str, Any], before: list[type]) -> bool:
    now = [*map(type, own["_parameters"].values()), *map(type, own["_buffers"].values())]
    return now == before or [*map(_kind, now)] == [*map(_kind, before)]


def _kind(kind: type) -> type:
    """Treat a parameter and a plain tensor alike: `torch.func.functional_call` puts one in the place of the other."""
    return Tensor if kind is nn.Parameter else kind


def hooks_of(own: dict[str, Any]) -> list[int]:
    """Return what stands in the hooks of a module's `__dict__`, by identity."""
    return [id(hook) for name in _HOOKS for hook in own[name].values()]


def _changed(state: _Module, own: dict[str, Any]) -> str:
    if differing := sorted(set(own) ^ set(state.keys)):
        return "the attributes " + ", ".join(differing)
    before = dict(zip(state.names, state.values if len(state.names) > 1 else (state.values,), strict=False))
    differing = [name for name, value in before.items() if not _check(value, _Code())(own[name])]
    differing += [name for name, check in state.checks if not check(own[name])]
    return "the attribute " + ", ".join(differing) if differing else "the hooks, children or parameters"


def is_plain(value: object) -> bool:
    """Return whether a value cannot change in place: a number, a string, a flag, a tuple of those."""
    if isinstance(value, (tuple, frozenset)):
        return type(value) in (tuple, frozenset, torch.Size) and all(map(is_plain, value))
    return type(value) in _PLAIN or isinstance(value, enum.Enum)


def _state(module: nn.Module, code: _Code) -> _Module:
    own = module.__dict__
    plain = tuple(name for name, value in own.items() if name not in _OWN_FIELDS and is_plain(value))
    rest = [name for name in own if name not in _OWN_FIELDS and name not in plain]
    getter = itemgetter(*plain) if plain else None
    return _Module(
        ref(module),
        type(module),
        tuple(own),
        plain,
        getter,
        getter(own) if getter else None,
        tuple((name, _check(own[name], code)) for name in rest),
        hooks_of(own),
        [*map(id, own["_modules"].values())],
        [*map(type, own["_parameters"].values()), *map(type, own["_buffers"].values())],
    )


def _check(value: Any, code: _Code, depth: int = 0) -> Check:
    """Return a function that says whether another value is as good as this one."""
    kind = type(value)
    if is_plain(value):
        return lambda other: other is value or (type(other) is kind and other == value)
    if isinstance(value, Tensor):
        return lambda other: type(other) is kind
    if isinstance(value, np.ndarray) and value.nbytes <= _ARRAY_BYTES:
        copy = value.copy()
        return lambda other: type(other) is kind and np.array_equal(other, copy)
    if depth < _DEPTH:
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            return _check_container(value, code, depth + 1)
        if isinstance(value, functools.partial):
            inner = _check([value.func, value.args, value.keywords], code, depth + 1)
            return lambda other: type(other) is kind and inner([other.func, other.args, other.keywords])
        special = isinstance(value, (nn.Module, type, types.FunctionType))
        if not special and type(getattr(value, "__dict__", None)) is dict:
            inner = _check(dict(vars(value)), code, depth + 1)
            return lambda other: type(other) is kind and inner(dict(vars(other)))
    code.look_at(value)
    return _identity(value)


def _check_container(value: Any, code: _Code, depth: int) -> Check:
    kind = type(value)
    if isinstance(value, (set, frozenset)):
        copy = set(value)
        return lambda other: type(other) is kind and other == copy
    keys = list(value) if isinstance(value, dict) else None
    inner = [_check(part, code, depth) for part in (value.values() if keys is not None else value)]

    def check(other: Any) -> bool:
        if type(other) is not kind or len(other) != len(inner):
            return False
        if keys is not None and list(other) != keys:
            return False
        parts = other.values() if keys is not None else other
        return all(one(part) for one, part in zip(inner, parts, strict=True))

    return check


def _identity(value: Any) -> Check:
    if isinstance(value, types.MethodType):
        owner, function = _identity(value.__self__), value.__func__
        return lambda other: type(other) is types.MethodType and other.__func__ is function and owner(other.__self__)
    try:
        life = ref(value)
    except TypeError:
        address, kind = id(value), type(value)
        return lambda other: id(other) == address and type(other) is kind
    return lambda other: other is life()


class _Code:
    """Collects the plain values and functions that code names, in classes, files and closures."""

    def __init__(self, packages: Iterable[str] = ()) -> None:
        self.packages = {name.partition(".")[0] for name in packages} - set(_LIBRARIES)
        self.found: dict[int, tuple[str, Any, dict[str, Any]]] = {}
        self.checks: list[tuple[str, Callable[[], object], Check]] = []
        self.seen: set[int] = set()

    def of_a_library(self, module: str | None) -> bool:
        """Say whether code is not the user's: torch's, Python's, or that of an installed package without a module."""
        package = (module or "").partition(".")[0]
        if package in self.packages or package == "__main__":
            return False
        if package in _LIBRARIES or package in sys.stdlib_module_names:
            return True
        file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
        return "site-packages" in file or "dist-packages" in file

    def names(self) -> list[_Names]:
        every = []
        for where, namespace, values in self.found.values():
            if values:
                getter = itemgetter(*values)
                every.append(_Names(where, namespace, getter, tuple(values), getter(namespace)))
        every.append(
            _Names("torch.nn.Module", vars(nn.Module), itemgetter("__call__"), ("__call__",), nn.Module.__call__)
        )
        return every

    def look_at_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base is nn.Module or base is object or self.of_a_library(base.__module__) or id(base) in self.seen:
                continue
            self.seen.add(id(base))
            for name, value in list(vars(base).items()):
                if name.startswith("__") and not isinstance(value, types.FunctionType):
                    continue
                self.add(base.__qualname__, vars(base), name, value, id(base))

    def add(self, where: str, namespace: Any, name: str, value: Any, key: int) -> None:
        """Watch one name, if its value is plain or code."""
        if is_plain(value) or isinstance(value, (types.FunctionType, property, staticmethod, classmethod)):
            self.found.setdefault(key, (where, namespace, {}))[2][name] = value
        elif isinstance(value, (list, dict, set)):
            self.checks.append((name, _getter(namespace, name), _check(value, self)))
        self.look_at(value)

    def look_at(self, value: Any) -> None:
        """Follow a function into the names that its code uses."""
        for function in _functions(value):
            if id(function) in self.seen or self.of_a_library(function.__module__):
                continue
            self.seen.add(id(function))
            space = function.__globals__
            for name in set(_names(function.__code__)):
                if name in space:
                    self.look_at_global(function, space, name)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                self.look_at_cell(name, cell)

    def look_at_global(self, function: types.FunctionType, space: dict[str, Any], name: str) -> None:
        value = space[name]
        if isinstance(value, types.ModuleType):
            if not self.of_a_library(value.__name__):
                for inner in set(_names(function.__code__)) & vars(value).keys():
                    self.add(value.__name__, vars(value), inner, vars(value)[inner], id(vars(value)))
        elif not isinstance(value, type):
            self.add(space.get("__name__", "a file"), space, name, value, id(space))
        elif not self.of_a_library(value.__module__):
            self.look_at_class(value)

    def look_at_cell(self, name: str, cell: Any) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # empty yet
            return
        if not isinstance(value, (nn.Module, type)):
            self.checks.append((name, functools.partial(getattr, cell, "cell_contents", None), _check(value, self)))


def _getter(namespace: Any, name: str) -> Callable[[], object]:
    return lambda: namespace.get(name)


def _functions(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.MethodType):
        value = value.__func__
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        yield from (f for f in (value.fget,) if isinstance(f, types.FunctionType))
    while isinstance(value, types.FunctionType):
        yield value
        value = getattr(value, "__wrapped__", None)


def _names(code: types.CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
