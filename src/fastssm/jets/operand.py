"""Rules that are written as ordinary tensor code.

Inside `Jet.__torch_function__` torch.compile does not dispatch to it again. So a composed rule gets its tensors as
operands, whose operators and methods look up the rules themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule, name_of, rule_of
from fastssm.jets.rules import rule


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: apply(function, *operands)


class Operand:
    """A jet or another tensor inside a composed rule; it has the operators and methods of tensors.

    Args:
        tensor: what it stands for.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def value(self) -> Tensor:
        """The value of a jet, or the tensor."""
        return self.tensor.value if isinstance(self.tensor, Jet) else self.tensor

    @property
    def shape(self) -> Any:
        """The shape of the value."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of tensors."""
        function = getattr(Tensor, name)
        return lambda *args, **kwargs: apply(function, self, *args, **kwargs)

    __add__ = __radd__ = _operator(Tensor.add)
    __sub__ = _operator(Tensor.sub)
    __rsub__ = _operator(torch.rsub)
    __mul__ = __rmul__ = _operator(Tensor.mul)
    __truediv__ = _operator(Tensor.div)
    __neg__ = _operator(Tensor.neg)


def opened(given: Any) -> Any:
    """Return what an operand stands for, in lists and tuples too."""
    if isinstance(given, Operand):
        return given.tensor
    return type(given)(map(opened, given)) if type(given) in (list, tuple) else given


def closed(given: Any) -> Any:
    """Return tensors as operands."""
    if isinstance(given, Tensor):
        return Operand(given)
    if isinstance(given, tuple):  # those with names too
        return tuple([closed(t) for t in given])
    return [closed(t) for t in given] if type(given) is list else given


def apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Apply a function of torch to operands: by its rule where one of them is a jet."""
    given = [opened(a) for a in args]
    named = {name: opened(a) for name, a in kwargs.items()}
    flat = [inner for a in given for inner in (a if type(a) in (list, tuple) else [a])]
    on_jets = any(isinstance(a, Jet) for a in (*flat, *named.values()))
    called = rule_of(function) if on_jets else function
    if called is None:
        raise NoRule(f"jets have no rule for {name_of(function)}")
    return closed(called(*given, **named))


def composed(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule that is written for operands."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return opened(function(*map(closed, args), **{name: closed(a) for name, a in kwargs.items()}))

        run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
        return rule(*names)(run)

    return register
