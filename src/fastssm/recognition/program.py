"""Coefficients of a recorded network as a small program, which is evaluated anew at each call, differentiably."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastssm.recognition.recording import Recording
from fastssm.recognition.tape import Ref, Stop

DIFFERS = (
    "{where}{name} is called with other numbers for another batch size, so it makes tensors of the batch's size in "
    "forward; let them broadcast instead"
)


class Step(NamedTuple):
    """One register: an argument (`cond`), an attribute of a module (`attribute`), or the result of a function."""

    cond: int | None
    attribute: tuple[int, str] | None
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def fill(part: Any, values: Sequence[Any]) -> Any:
    """Put values in the place of the references in an argument."""
    if type(part) is Ref:
        return values[part.number]
    if type(part) is tuple:
        return tuple([fill(p, values) for p in part])
    if type(part) is list:
        return [fill(p, values) for p in part]
    if type(part) is slice:
        return slice(fill(part.start, values), fill(part.stop, values), fill(part.step, values))
    return part


class Builder:
    """Builds a program from the x-independent part of a recording, and adds steps of its own.

    Attributes:
        steps: the registers so far.
        values: their values in the recording.
    """

    def __init__(self, first: Recording, second: Recording) -> None:
        self.first, self.second = first, second
        self.steps: list[Step] = []
        self.values: list[Any] = []
        self.registers: dict[int, Ref] = {}

    def of(self, index: int) -> Ref:
        """Return the register of a node that does not depend on x."""
        if index not in self.registers:
            node = self.first.tape.nodes[index]
            if node.origin and node.origin[0] == "cond":
                step = Step(node.origin[1], None, None, (), {})
            elif node.origin:
                step = Step(None, node.origin[1:], None, (), {})
            else:
                self._same_numbers(index)
                args, kwargs = self._translated(node.args), self._translated(node.kwargs)
                step = Step(None, None, node.function, args, kwargs)
            self.registers[index] = self._add(step, node.value)
        return self.registers[index]

    def _add(self, step: Step, value: Any) -> Ref:
        self.steps.append(step)
        self.values.append(value)
        return Ref(len(self.steps) - 1)

    def emit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Ref:
        """Add a step of our own."""
        value = function(*(fill(a, self.values) for a in args), **{k: fill(a, self.values) for k, a in kwargs.items()})
        return self._add(Step(None, None, function, args, kwargs), value)

    def attribute(self, module: int, name: str, value: Tensor) -> Ref:
        """Add the register of a tensor of a module."""
        return self._add(Step(None, (module, name), None, (), {}), value)

    def value(self, ref: Ref) -> Tensor:
        """Return the recorded value of a register."""
        found: Tensor = self.values[ref.number]
        return found

    def batched(self, index: int) -> bool:
        """Say whether a coefficient has a row per sample."""
        one, two = (r.tape.nodes[index].value.shape for r in (self.first, self.second))
        if one == two:
            return False
        node = self.first.tape.nodes[index]
        if (one[0], two[0]) != (self.first.batch, self.second.batch) or one[1:] != two[1:]:
            raise Stop(DIFFERS.format(where=f"{node.where}: " if node.where else "", name=node.name))
        return True

    def _translated(self, part: Any) -> Any:
        if type(part) is Ref:
            return self.of(part.number)
        if isinstance(part, (list, tuple)):
            parts = [self._translated(p) for p in part]
            return parts if isinstance(part, list) else tuple(parts)
        if isinstance(part, dict):
            return {key: self._translated(p) for key, p in part.items()}
        if isinstance(part, slice):
            return slice(*(self._translated(p) for p in (part.start, part.stop, part.step)))
        return part

    def _same_numbers(self, index: int) -> None:
        one, two = (r.tape.nodes[index] for r in (self.first, self.second))
        if (one.args, one.kwargs) != (two.args, two.kwargs):
            raise Stop(DIFFERS.format(where=f"{one.where}: " if one.where else "", name=one.name))


def kept(steps: Sequence[Step], wanted: Sequence[Ref]) -> tuple[tuple[Step, ...], dict[int, Ref]]:
    """Drop the registers that none of the wanted ones needs; return the new numbers of the others."""
    needed: set[int] = set()
    stack = [ref.number for ref in wanted]
    while stack:
        index = stack.pop()
        if index not in needed:
            needed.add(index)
            stack += references((steps[index].args, steps[index].kwargs))
    numbers = {old: Ref(new) for new, old in enumerate(sorted(needed))}
    table = {old: numbers.get(old) for old in range(len(steps))}
    every = [table[i] for i in range(len(steps))]
    return tuple(
        steps[i]._replace(
            args=tuple(fill(part, every) for part in steps[i].args),
            kwargs={key: fill(part, every) for key, part in steps[i].kwargs.items()},
        )
        for i in sorted(needed)
    ), numbers


def references(part: Any) -> list[int]:
    """Return the registers that arguments refer to."""
    if type(part) is Ref:
        return [part.number]
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, slice):
        part = [part.start, part.stop, part.step]
    return [i for p in part for i in references(p)] if isinstance(part, (list, tuple)) else []


def samples(c: Tensor, tail: tuple[int, ...]) -> Tensor:
    """Return a coefficient of single samples as `[B, n]`."""
    return c.expand(c.shape[0], *tail).reshape(c.shape[0], math.prod(tail))


def vector(c: Tensor, tail: tuple[int, ...]) -> Tensor:
    """Return a coefficient that all samples share as `[n]`."""
    return (c[0] if c.ndim > len(tail) else c).expand(tail).reshape(-1)


def scattered(weight: Tensor, columns: Tensor, targets: Tensor, size: int) -> Tensor:
    """Return a matrix of `size` columns to which some columns of another were added."""
    chosen = weight.index_select(1, columns)
    return torch.zeros(len(weight), size, dtype=weight.dtype, device=weight.device).index_add(1, targets, chosen)


def connected(t: Tensor, *unused: Tensor) -> Tensor:
    """Return a tensor plus none of the values of others, whose gradients are zeros then."""
    for other in unused:
        t = t + other.reshape(-1)[:0].sum().to(t)
    return t
