"""A jet: a tensor with its derivatives along directions, which any forward carries along.

A `Jet` is a tensor subclass, so that a module's forward runs on it unchanged: methods, operators and functions of
torch reach `Jet.__torch_function__`, and so a rule of this package. It stands above autograd: rules are ordinary tensor
code, which plain reverse mode differentiates and torch.compile traces.

The curvature, the sum of the second derivatives, is found after the forward: each rule leaves a step on the tape of
the call, which carries the curvature of its inputs to that of its output. So the curvature may start from a row that
depends on the output, as that of sliced score matching with variance reduction does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastssm.compiling import traceable
from fastssm.errors import UnsupportedError

Curve = Callable[..., Tensor | None]
"""From the curvatures of a rule's inputs, `[R, ...]` or None for zero, to that of its output."""


class NoRule(UnsupportedError):
    """An operation of a forward that jets have no rule for."""


class Step(NamedTuple):
    """How the curvature passes one operation."""

    curve: Curve
    inputs: tuple[int, ...]
    output: int


class Tape:
    """The steps of one forward, in order.

    Args:
        count: M, the number of directions.
        curved: whether the curvature will be asked for; without it nothing is kept.
        each: whether the curvature is wanted along every direction, R = M, instead of their sum, R = 1.
        twice: whether autograd will differentiate values twice, which functions of our own cannot.
        sized: whether to add up the bytes of all values, but not of views.
    """

    def __init__(self, count: int, curved: bool, each: bool = False, twice: bool = False, sized: bool = False) -> None:
        self.count, self.curved, self.each, self.twice, self.sized = count, curved, each, twice, sized
        self.grad = torch.is_grad_enabled()
        self.steps: list[Step] = []
        self.shared: set[int] = set()
        self.size = 0
        self.bytes = 0
        self.nan: Tensor | None = None

    def jet(self, value: Tensor, tangents: Tensor, inputs: Sequence[Jet] = (), curve: Curve | None = None) -> Jet:
        """Make a jet, with the step that leads to its curvature; without a step it is an input of the forward."""
        if self.nan is None or self.nan.dtype != value.dtype:
            self.nan = value.new_full((), torch.nan)
        jet: Jet = self.nan.expand(value.shape).as_subclass(Jet)  # what passes by the rules is NaN
        jet.value, jet.tangents, jet.tape, jet.place = value, tangents, self, self.size
        self.size += 1
        if self.sized and not any(_memory_of(i.value) == _memory_of(value) for i in inputs):
            self.bytes += value.nbytes
        if self.curved and curve is not None:
            self.steps.append(Step(curve, tuple([i.place for i in inputs]), jet.place))
        return jet

    def total(self, products: Tensor) -> Tensor:
        """Return what products of tangents `[M, ...]` add to the curvature, `[R, ...]`."""
        return products if self.each or self.count == 1 else products.sum(0, keepdim=True)

    def curvature(self, start: Tensor | None, output: Jet) -> Tensor | None:
        """Return the curvature of an output, `[R, ...]`, from that of the forward's input (None: zero).

        It takes the steps off the tape: they refer to the tape, and nothing but the garbage collector would free them.
        """
        rows: list[Tensor | None] = [None] * self.size
        rows[0] = start
        steps, self.steps = self.steps, []
        for curve, inputs, index in steps:
            rows[index] = curve(*[rows[i] for i in inputs])
        return rows[output.place]


def _memory_of(value: Tensor) -> int:
    address: int = value.untyped_storage()._cdata
    return address


class Jet(Tensor):
    """The value `[...]` of an operation and its derivatives along M directions, `[M, ...]`.

    Attributes:
        value: the value, a plain tensor.
        tangents: its derivatives along the directions.
        tape: the steps of the forward that it belongs to.
        place: its number on the tape.
    """

    value: Tensor
    tangents: Tensor
    tape: Tape
    place: int

    def become(self, new: Jet) -> Jet:
        """Be another jet from here on, as after an operation in place."""
        if self.place in self.tape.shared:
            raise NoRule("jets cannot change a tensor in place that shares its memory with a view of it; use x = x + y")
        self.value, self.tangents, self.place = new.value, new.tangents, new.place
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule of a function."""
        return by_rule(func, args, kwargs or {})


def by_rule(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply the rule of a function."""
    rule = rule_of(func)
    if rule is None:
        raise NoRule(f"jets have no rule for {name_of(func)}")
    return applied(rule, name_of(func), args, kwargs)


def applied(rule: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply a rule, that of a function of this name."""
    if rule not in CONSTANT and not torch.is_grad_enabled() and _tape_of(args).grad:
        raise NoRule(f"{name} is called under torch.no_grad() or in an autograd.Function, which cuts it off")
    return rule(*args, **kwargs)


_OF_CHECKPOINTS = ("use_reentrant", "determinism_check", "debug", "context_fn", "preserve_rng_state", "early_stop")


class Seen(TorchFunctionMode):
    """Sees what torch.compile passes by a `Jet`: functions that get jets in a tuple, as `torch.cat((x, y))`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule of a function that has a tuple of jets among its arguments."""
        named, func = kwargs or {}, traceable(func)
        if getattr(func, "__name__", "") == "tag_activation_checkpoint":  # what torch.compile makes of checkpoints
            with self:
                return args[0](*args[1:], **{k: given for k, given in named.items() if k not in _OF_CHECKPOINTS})
        for given in (*args, *named.values()):
            if isinstance(given, tuple):
                for inner in given:
                    if isinstance(inner, Jet):
                        return by_rule(func, args, named)
        return func(*args, **named)


RULES: dict[Any, Callable[..., Any]] = {}
"""By the function that a forward calls, what computes it on jets."""


BY_NAME: dict[str, Callable[..., Any]] = {}
"""The same for methods that are written in Python, by name: torch.compile does not find such keys."""

CONSTANT: set[Callable[..., Any]] = set()
"""The rules of functions without derivatives."""


def rule_of(func: Any) -> Callable[..., Any] | None:
    """Return the rule of a function."""
    return RULES.get(func) or BY_NAME.get(func.__name__)


def _tape_of(args: Sequence[Any]) -> Tape:
    """Return the tape of the first jet among some arguments, or in a list of them."""
    for given in args:
        if isinstance(given, Jet):
            return given.tape
        if isinstance(given, list | tuple):
            for inner in given:
                if isinstance(inner, Jet):
                    return inner.tape
    return Tape(0, False)


def name_of(func: Any) -> str:
    """Return the name of a function as its caller writes it."""
    name = getattr(func, "__name__", None) or str(func)
    if name == "__get__":  # of a property
        return f"Tensor.{func.__self__.__name__}"
    owner = getattr(func, "__objclass__", None)
    return f"Tensor.{name}" if owner is not None else name


def as_jet(given: Tensor) -> Jet:
    """Return what is known to be a jet as one, for type checkers."""
    return given  # type: ignore[return-value]


def value_of(given: Any) -> Any:
    """Return the value of a jet, and anything else as it is."""
    return given.value if isinstance(given, Jet) else given


def functional() -> bool:
    """Say whether only transforms of `torch.func` can differentiate here."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def formula_only() -> bool:
    """Say whether functions of our own have no place: what differentiates is not plain autograd."""
    return functional() or not torch.is_grad_enabled()
