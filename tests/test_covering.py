"""The covering sets that tests run on by default: nothing is missing, nothing is made up, nothing depends on chance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.covering import chosen, combinations, cover, thinned

FACTORS = {"machine": ["emulator", "race", "ptx"], "kind": [0, 1], "shape": list("abcdefg"), "flag": [True, False]}


def tuples(rows: list[Any], strength: int) -> set[Any]:
    return {each for row in rows for each in itertools.combinations(enumerate(row), strength)}


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_every_combination_of_values_occurs(strength: int) -> None:
    every = list(itertools.product(*FACTORS.values()))
    found = [tuple(row.values()) for row in combinations(strength=strength, **FACTORS)]
    assert tuples(found, strength) == tuples(every, strength)
    assert set(found) <= set(every)
    assert len(found) == len(set(found))
    assert len(found) <= {1: 7, 2: 24, 3: 52}[strength]  # of 84; 7, 21 and 42 are the least that there can be


def test_what_never_occurs_is_not_made_up() -> None:
    """Pairs that no row has need not and cannot be covered."""
    rows = [row for row in itertools.product(range(3), range(3), range(3)) if row[0] <= row[1]]
    found = [rows[i] for i in cover(rows)]
    assert tuples(found, 2) == tuples(rows, 2)
    assert set(found) <= set(rows)


def test_the_same_rows_again() -> None:
    rows = list(itertools.product(range(5), range(4), range(3), range(2)))
    assert cover(rows) == cover(list(rows))
    assert len(cover(rows)) < 30


def test_other_runners_share_a_set_and_divide_it_evenly() -> None:
    cases = [
        {"entry": e, "case": c, "flag": f} for e in ("cpu", "ops", "eager", "torch") for c in range(12) for f in (0, 1)
    ]
    found = [cases[i] for i in chosen(cases, {"entry": ["cpu"]}, 2)]
    pairs = {(c, f) for c in range(12) for f in (0, 1)}
    assert {(case["case"], case["flag"]) for case in found if case["entry"] == "cpu"} == pairs
    others = [case for case in found if case["entry"] != "cpu"]
    assert sorted((case["case"], case["flag"]) for case in others) == sorted(pairs)
    assert all(sum(case["entry"] == e for case in others) == 8 for e in ("ops", "eager", "torch"))


def test_a_runner_alone_runs_everywhere() -> None:
    assert chosen([{"machine": m} for m in "abcd"], {"machine": ["a"]}) == [0, 1, 2, 3]


def test_every_value_of_two_parameters_occurs_and_every_row_of_one() -> None:
    pairs = [{"a": a, "b": b} for a in "xyz" for b in "uvw"]
    found = [pairs[i] for i in chosen(pairs, {})]
    assert {case["a"] for case in found} == set("xyz")
    assert {case["b"] for case in found} == set("uvw")
    assert len(found) == 3
    two = list(itertools.product(range(9), (False, True)))
    assert sum(two[i][1] for i in cover(two, 1)) in (4, 5)  # neither value is run by one row alone
    assert chosen([{"a": str(n), "message": f"error {n}"} for n in range(9)], {}) == list(range(9))


def test_a_group_of_parameters_counts_as_one() -> None:
    together = [(1, "a"), (2, "b"), (3, "c")]
    cases = [{"x": x, "y": y, "z": z} for (x, y) in together for z in (True, False)]
    assert len(chosen(cases, {})) == 3


@dataclass(eq=False)
class Item:
    """What `thinned` reads of an item of pytest."""

    name: str
    slow: bool
    parent: Any = field(default_factory=lambda: SimpleNamespace(nodeid="file"))

    def get_closest_marker(self, name: str) -> Any:
        return name if name == "slow" and self.slow else None


def test_slow_tests_are_left_out_unless_they_are_allowed() -> None:
    items = [Item("quick", False), Item("slow", True)]
    assert thinned(items, {}) == (items[:1], items[1:])
    assert thinned(items, {}, slow=True) == (items, [])
