"""Rules of jets: cases of each, and random programs of them."""

from tests.jets import changes, elementwise, maps, norms, products, reductions, views
from tests.jets.case import Case

CASES: list[Case] = [
    case for module in (elementwise, views, maps, products, reductions, norms, changes) for case in module.CASES
]
BY_NAME: dict[str, Case] = {case.name: case for case in CASES}

__all__ = ["BY_NAME", "CASES", "Case"]
