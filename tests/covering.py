"""Covering sets: few combinations of parameters in which every pair of values still occurs.

By default a test of three or more parameters runs on a set of its cases in which every pair of values occurs that
occurs in any of them (conftest.py; `pytest --full` runs all). A test of two parameters has no smaller set of that kind;
there every value occurs. A parameter that says what runs the test, such as a machine, does not count: each of its first
values gets a set of its own, and its other values share one more set among them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pytest


def cover(rows: Sequence[Sequence[Hashable]], strength: int = 2, runners: Sequence[Hashable] = ()) -> list[int]:
    """Choose rows in which every combination of `strength` values occurs that occurs in any row.

    The choice is greedy and deterministic: the row with most new combinations, then the one whose values, and
    combinations of one value more, are rarest so far, then the first.

    Args:
        rows: combinations, each with one value of every factor.
        strength: how many values go together: 1 for each value, 2 for each pair.
        runners: what runs each row; the chosen rows are divided among them evenly.

    Returns:
        The indices of the chosen rows, in order.
    """
    width = len(rows[0])
    new = [set(itertools.combinations(enumerate(row), min(strength, width))) for row in rows]
    more = [[*enumerate(row), *itertools.combinations(enumerate(row), min(strength + 1, width))] for row in rows]
    for i, runner in enumerate(runners):
        new[i].add(("runner", runner))
        more[i] += [("runner", runner)] * width
    missing = set[Any]().union(*new)
    chosen, seen, left = list[int](), Counter[Any](), list(range(len(rows)))
    while missing:
        best = max(left, key=lambda i: (len(new[i] & missing), -sum(seen[each] for each in more[i]), -i))
        chosen.append(best)
        missing -= new[best]
        seen.update(more[best])
        left = [i for i in left if new[i] & missing]
    return sorted(chosen)


def combinations(*, strength: int = 2, **factors: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a covering set of all combinations of named factors: `combinations(a=[1, 2], b="xy", c=[3, 4])`."""
    every = list(itertools.product(*(range(len(values)) for values in factors.values())))
    names = list(factors.items())
    return [
        {name: values[i] for (name, values), i in zip(names, every[k], strict=True)} for k in cover(every, strength)
    ]


def each(
    name: str, values: Iterable[Any], size: int = 0, label: Callable[[Any], str] = str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on each value of one of its parameters, as subtests: one test for each takes pytest longer.

    Args:
        name: of the parameter.
        values: of it.
        size: how many values one test takes; 0 for all.
        label: the name of a value.
    """
    listed = list(values)
    groups = [listed[first : first + size] for first in range(0, len(listed), size)] if size else [listed]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(subtests: Any, group: Sequence[Any] = listed, **given: Any) -> None:
            for value in group:
                with subtests.test(label(value)):
                    test(**{name: value}, **given)

        own = inspect.signature(test)
        kept = [parameter for parameter in own.parameters.values() if parameter.name != name]
        added = [inspect.Parameter(extra, inspect.Parameter.KEYWORD_ONLY) for extra in ("group", "subtests")]
        run.__signature__ = own.replace(parameters=[*kept, *added[0 if size else 1 :]])  # type: ignore[attr-defined]
        names = [f"{label(group[0])} to {label(group[-1])}" for group in groups]
        return pytest.mark.parametrize("group", groups, ids=names)(run) if size else run

    return decorate


def columns(cases: Sequence[Mapping[str, Any]]) -> list[tuple[int, ...]]:
    """Return each parameter's values as numbers; parameters that go together, as in "a, b", are one."""
    found: dict[tuple[int, ...], None] = {}
    for name in cases[0]:
        first: dict[int, int] = {}
        found[tuple(first.setdefault(id(case[name]), len(first)) for case in cases)] = None
    return list(found)


def chosen(cases: Sequence[Mapping[str, Any]], first: Mapping[str, Sequence[str]], strength: int = 0) -> list[int]:
    """Choose some of the cases of one test.

    Args:
        cases: the parameters of each.
        first: by the name of a parameter that says what runs the test, the values that get a set of their own.
        strength: as of `cover`; 0 for the most that leaves anything out.

    Returns:
        The indices of the cases to run.
    """
    parts = defaultdict[Any, list[int]](list)
    runners = [tuple(str(case[name]) for name in first if name in case) for case in cases]
    for index, runner in enumerate(runners):
        parts[runner if set(runner) & set().union(*first.values()) else ()].append(index)
    found = []
    for part in parts.values():
        factors = columns([{k: v for k, v in cases[i].items() if k not in first} for i in part])
        rows = list(zip(*factors, strict=True)) or [()] * len(part)
        found += [
            part[i] for i in cover(rows, strength or min(2, max(1, len(factors) - 1)), [runners[i] for i in part])
        ]
    return sorted(found)


def thinned(
    items: Sequence[Any], first: Mapping[str, Sequence[str]], slow: bool = False
) -> tuple[list[Any], list[Any]]:
    """Divide pytest's items into those to run and the rest.

    The marker `covering` names a strength, and with `alike=True` makes a parameter that says what runs a test one
    like any other. Cases marked `slow` are among the rest, unless `slow` allows them.
    """
    groups = defaultdict[Any, list[Any]](list)
    for item in items:
        groups[item.parent.nodeid, getattr(item, "originalname", item.name)].append(item)
    kept = set[Any]()
    for every in groups.values():
        group = [item for item in every if slow or not item.get_closest_marker("slow")]
        if len(group) < 2 or not all(hasattr(item, "callspec") for item in group):
            kept.update(group)
            continue
        mark = group[0].get_closest_marker("covering")
        cases = [item.callspec.params for item in group]
        alike = mark is not None and mark.kwargs.get("alike", False)
        kept.update(group[i] for i in chosen(cases, {} if alike else first, *(mark.args if mark else ())))
    return [item for item in items if item in kept], [item for item in items if item not in kept]
