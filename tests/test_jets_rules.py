"""Every rule of jets against plain autograd in float64: losses, and every gradient; and no rule can be wrong unseen."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pytest

from tests import oracle
from tests.jets import CASES, Case, judge
from tests.jets.case import Energy, Score
from tests.jets.families import ALL, KINDS, Mutant, families, rules, used_by

PARTS = 16
pytestmark = pytest.mark.filterwarnings("ignore:.*upsample. is deprecated")

# Families that no forward of jets can reach, with the family that it reaches instead.
ELSEWHERE = {
    **{f"__{name}__": name for name in ("ge", "gt", "le", "lt", "ne")},
    **{f"__i{name}__": f"{name}_" for name in ("add", "sub", "mul", "div")},
    **{"__iter__": "unbind", "nelement": "numel", "ndimension": "dim", "upsample": "interpolate"},
}
REFUSED = {"binary_cross_entropy"}  # losses of classes: test_jets_refusals.py

# Deviations from the mean add up to zero: whatever is taken off all of them, the variance stays.
EQUIVALENT = {("var", "carried of the second"), ("std", "carried of the second")}

# How many families each kind of mutant changes, at least.
CHANGED = {"tangents": 315, "bent": 115, "carried": 300, "carried of the second": 70}


@pytest.mark.parametrize("part", range(PARTS))
def test_each_rule_agrees_with_autograd(part: int) -> None:
    assert judge.failures(CASES[part::PARTS]) == {}


@pytest.mark.slow
def test_rules_agree_with_autograd_in_scores() -> None:
    """Cases whose function returns as much as it gets."""
    cases = [case for case in CASES if judge.is_score(case)]
    assert len(cases) > 80
    assert judge.failures(cases, Score) == {}


@cache
def cases_of() -> dict[str, list[Case]]:
    """Return the cases that use each family, the simplest first."""
    found = defaultdict(list)
    for case in sorted(CASES, key=lambda case: len(used_by(case))):
        for family in used_by(case):
            found[family].append(case)
    return dict(found)


def test_each_rule_has_a_case() -> None:
    missing = {families()[function] for function in ALL} - set(cases_of())
    assert missing == {*ELSEWHERE, *REFUSED}
    assert set(ELSEWHERE.values()) <= set(cases_of())


def caught(case: Case, mutant: Mutant) -> bool:
    for loss in judge.LOSSES:
        with rules(*mutant.tables):
            try:
                found = judge.evaluated(Energy(case), loss, judge.loss_on_jets)
                oracle.assert_close(found, judge.expected(case, loss, Energy), max(case.rtol, 1e-8))
            except Exception:
                return True
    return False


def survives(family: str, kind: str) -> bool:
    """Say whether no case of a family notices that it is broken; a case that it does not change cannot."""
    mutant, changed = Mutant(family, kind), False
    for case in cases_of()[family]:
        if mutant.changes(case):
            changed = True
            if caught(case, mutant):
                return False
    return changed


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.slow] if part else []) for part in range(PARTS)]
)
def test_no_rule_can_be_wrong_unseen(part: int) -> None:
    mutants = [(family, kind) for family in sorted(cases_of())[part::PARTS] for kind in KINDS]
    assert [mutant for mutant in mutants if mutant not in EQUIVALENT and survives(*mutant)] == []


@pytest.mark.slow
def test_mutants_change_what_they_are_to_change() -> None:
    changed = {
        kind: sum(any(Mutant(family, kind).changes(case) for case in cases[:3]) for family, cases in cases_of().items())
        for kind in KINDS
    }
    print(changed)
    assert all(changed[kind] >= least for kind, least in CHANGED.items()), changed
