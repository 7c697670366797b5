"""Every rule of jets against plain autograd in float64: losses, and every gradient."""

from __future__ import annotations

import pytest

from tests.jets import CASES, judge

PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_each_rule_agrees_with_autograd(part: int) -> None:
    assert judge.failures(CASES[part::PARTS]) == {}
