"""How rules are registered: by every form in which Python can call a function of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets.jet import BY_NAME, CONSTANT, RULES, applied

Rule = TypeVar("Rule", bound=Callable[..., Any])
_PLACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg, torch.fft)


def forms(name: str) -> Iterator[Any]:
    """Yield the forms of a function: of torch and of its modules, and the method."""
    for place in _PLACES:
        found = getattr(place, name, None)
        if callable(found):
            yield found


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for functions, in all their forms."""

    def register(function: Rule) -> Rule:
        for name in names:
            for form in forms(name):
                _register(form, function)
        return function

    return register


def rules_of(names: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Register the rule that `make` makes of each form of the functions in a line of names."""
    for name in names.split():
        for form in forms(name):
            _register(form, make(form))


def _register(form: Any, function: Callable[..., Any]) -> None:
    in_python = getattr(form, "__module__", None) in ("torch._tensor", "torch._C")  # of Tensor, or of its base
    if in_python and isinstance(form, FunctionType):
        BY_NAME[form.__name__] = function
        RULES[form.__get__] = _bound(form.__name__, function)
    else:
        RULES[form] = function


def _bound(name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return what torch.compile calls to look up a method that is written in Python."""

    def of(x: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: applied(rule, name, (x, *args), kwargs)

    CONSTANT.add(of)
    return of


def property_rules(names: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """The same for properties of tensors."""
    for name in names.split():
        getter = getattr(Tensor, name).__get__
        RULES[getter] = make(getter)
