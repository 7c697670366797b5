"""Covering sets: few combinations of parameters in which every pair of values still occurs.

A test of three or more parameters runs, by default, on a set of its combinations in which every pair of values occurs
that occurs in any of them (conftest.py; `pytest --full` runs all). A test of two parameters has no smaller set of that
kind: there every value occurs. Some values are alternatives, such as a random order of threads to a fixed one: the
others share one set among them, so each of them runs a part of it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

SHARED = "one of the values that share a set"


def cover(
    rows: Sequence[Sequence[Hashable]], strength: int = 2, shared: Mapping[int, Iterable[Hashable]] | None = None
) -> list[int]:
    """Choose rows in which every combination of `strength` values occurs that occurs in any row.

    The choice is greedy and deterministic: the row with most new combinations, then the one whose values are rarest so
    far, then the first.

    Args:
        rows: combinations, each with one value of every factor.
        strength: how many values go together: 1 for each value, 2 for each pair.
        shared: by the index of a factor, the values that count as one.

    Returns:
        The indices of the chosen rows, in order.
    """
    alike = {factor: set(values) for factor, values in (shared or {}).items()}
    tuples = []
    for row in rows:
        labels = [SHARED if value in alike.get(factor, ()) else value for factor, value in enumerate(row)]
        tuples.append(set(itertools.combinations(enumerate(labels), min(strength, len(row)))))
    missing = set[Any]().union(*tuples)
    chosen, seen, left = list[int](), Counter[Any](), list(range(len(rows)))
    while missing:
        best = max(left, key=lambda i: (len(tuples[i] & missing), -sum(seen[key] for key in enumerate(rows[i])), -i))
        chosen.append(best)
        missing -= tuples[best]
        seen.update(enumerate(rows[best]))
        left = [i for i in left if tuples[i] & missing]
    return sorted(chosen)


def combinations(*, strength: int = 2, **factors: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a covering set of all combinations of named factors: `combinations(a=[1, 2], b="xy", c=[3, 4])`."""
    every = list(itertools.product(*(range(len(values)) for values in factors.values())))
    names = list(factors.items())
    return [
        {name: values[i] for (name, values), i in zip(names, every[k], strict=True)} for k in cover(every, strength)
    ]


def chosen(
    parameters: Sequence[Mapping[str, Any]], shared: Mapping[str, Iterable[str]], strength: int = 0
) -> list[int]:
    """Choose some of the cases of one test.

    Args:
        parameters: of each case, by name.
        shared: by the name of a parameter, the values that share one set.
        strength: as of `cover`; 0 for the most that leaves anything out.

    Returns:
        The indices of the cases to run.
    """
    columns: dict[tuple[int, ...], str] = {}  # parameters that go together, as in @parametrize("a, b", ...), are one
    values: dict[str, list[Any]] = {}
    for name in parameters[0]:
        values[name] = [case[name] for case in parameters]
        first: dict[int, int] = {}
        columns.setdefault(tuple(first.setdefault(id(value), len(first)) for value in values[name]), name)
    alike: dict[int, set[Hashable]] = {}
    for factor, (column, name) in enumerate(columns.items()):
        found = {i for i, value in zip(column, values[name], strict=True) if str(value) in shared.get(name, ())}
        if found and found != set(column):
            alike[factor] = found
    strength = strength or (2 if len(columns) > 2 or alike else 1)
    return cover(list(zip(*columns, strict=True)), strength, alike)


def thinned(items: Sequence[Any], shared: Mapping[str, Iterable[str]]) -> tuple[list[Any], list[Any]]:
    """Divide pytest's items into those to run and the rest."""
    groups = defaultdict[tuple[str, str], list[Any]](list)
    for item in items:
        groups[item.parent.nodeid, getattr(item, "originalname", item.name)].append(item)
    kept = set[Any]()
    for group in groups.values():
        if len(group) == 1 or not all(hasattr(item, "callspec") for item in group):
            kept.update(group)
            continue
        mark = group[0].get_closest_marker("covering")
        kept.update(
            group[i] for i in chosen([item.callspec.params for item in group], shared, *(mark.args if mark else ()))
        )
    return [item for item in items if item in kept], [item for item in items if item not in kept]
