"""Which rules a forward uses, and rules that are wrong on purpose.

A family is all that is registered under one name or made by one rule: the function and the method, every alias. Each
family gets up to four mutants: its tangents, what it adds to the curvature, and what it makes of the curvature of its
first or second input, 10 % too large. A function without derivatives gets one: a result that depends on x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from fastssm.jets import Jet, Tape, jet
from fastssm.jets.jet import Step
from fastssm.jets.table import BY_NAME, RULES
from tests.jets.case import DIRECTIONS, Case, Energy

ALL = {**RULES, **BY_NAME}  # by function, or by the name of a method
KINDS = ("tangents", "bent", "carried", "carried of the second")


def name_of(function: Any) -> str:
    """Return the name of a function of torch, and of a property."""
    if isinstance(function, str):
        return function
    owner = getattr(function, "__self__", None)
    return owner.__name__ if function.__name__ == "__get__" else function.__name__


@cache
def families() -> dict[Any, str]:
    """Return the family of every function with a rule: the first name, in order, of those that belong together."""
    groups: dict[Any, set[Any]] = {}
    for function, rule in ALL.items():
        joined = {function}
        for key in (name_of(function), id(rule)):
            joined |= groups.get(key, set())
        for member in joined:
            groups[name_of(member)] = groups[id(ALL[member])] = joined
    return {function: min(map(name_of, groups[name_of(function)])) for function in ALL}


class _Seen(dict[Any, Any]):
    """The rules, which remember the families that were looked up."""

    def __init__(self, rules: dict[Any, Any]) -> None:
        super().__init__(rules)
        self.families: set[str] = set()

    def get(self, function: Any, default: Any = None) -> Any:
        if function in self:
            self.families.add(families()[function])
        return super().get(function, default)


@contextmanager
def rules(by_function: dict[Any, Any], by_name: dict[Any, Any]) -> Iterator[None]:
    """Let jets look their rules up here."""
    with mock.patch.object(jet, "RULES", by_function), mock.patch.object(jet, "BY_NAME", by_name):
        yield


def run(case: Case, *tables: dict[Any, Any]) -> None:
    """Run a case's energy on jets, without gradients."""
    net, tape = Energy(case), Tape(DIRECTIONS, True)
    tape.grad = False
    with rules(*tables), torch.no_grad():
        net(tape.jet(net.x, net.v))


@cache
def used_by(case: Case) -> frozenset[str]:
    """Return the families that a case's energy calls."""
    tables = _Seen(RULES), _Seen(BY_NAME)
    run(case, *tables)
    return frozenset(tables[0].families | tables[1].families)


# --- mutants ---


def _bent(step: Step) -> Step | None:
    """Change what a step adds to the curvature, which is what it makes of none."""
    none = [None] * len(step.inputs)
    own = step.curve(*none)
    if own is None or not own.any():
        return None

    def curve(*rows: Any) -> Any:
        return step.curve(*rows) + 0.1 * step.curve(*none)

    return step._replace(curve=curve)


def _carried(step: Step, place: int) -> Step | None:
    """Change what a step makes of the curvature of one input."""
    if place >= len(step.inputs):
        return None

    def curve(*rows: Any) -> Any:
        return step.curve(*[row if row is None or i != place else 1.1 * row for i, row in enumerate(rows)])

    return step._replace(curve=curve)


STEPS: dict[str, Callable[[Step], Step | None]] = {
    "bent": _bent,
    "carried": lambda step: _carried(step, 0),
    "carried of the second": lambda step: _carried(step, 1),
}


def jets_in(found: Any) -> Iterator[Jet]:
    if isinstance(found, Jet):
        yield found
    elif isinstance(found, tuple | list):
        for inner in found:
            yield from jets_in(inner)


class Mutant:
    """The rules with one family broken.

    Attributes:
        applied: whether a call of the family has been changed.
    """

    def __init__(self, family: str, kind: str) -> None:
        self.kind, self.applied = kind, False
        self.tables = [
            {f: self.broken(rule) if families()[f] == family else rule for f, rule in table.items()}
            for table in (RULES, BY_NAME)
        ]

    def changes(self, case: Case) -> bool:
        """Say whether anything of a case's energy is another, its value apart."""
        self.applied = False
        run(case, *self.tables)
        return self.applied

    def broken(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        def apply(*args: Any, **kwargs: Any) -> Any:
            given = next(jets_in([*args, *kwargs.values()]))
            steps = given.tape.steps
            first = len(steps)
            found = rule(*args, **kwargs)
            if self.kind != "tangents":
                self.change_steps(steps, first)
            elif isinstance(found, Tensor) and not isinstance(found, Jet):
                return self.depending(found, given)
            else:  # what is written into is changed too
                self.change_tangents([given] if found is None else list(jets_in(found)))
            return found

        if rule in jet.CONSTANT:
            jet.CONSTANT.add(apply)
        return apply

    def change_steps(self, steps: list[Step], first: int) -> None:
        for place in range(first, len(steps)):
            if (changed := STEPS[self.kind](steps[place])) is not None:
                self.applied, steps[place] = True, changed

    def change_tangents(self, found: list[Jet]) -> None:
        for out in found:
            self.applied |= bool(out.tangents.any())
            out.tangents = 1.1 * out.tangents

    def depending(self, found: Tensor, given: Jet) -> Tensor:
        """Let a floating-point result depend on x."""
        if not found.is_floating_point():
            return found
        self.applied = True
        return given.tape.jet(found, torch.full_like(found, 0.01).expand(given.tape.count, *found.shape))
