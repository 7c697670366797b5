"""The table of the functions that jets know, by family, from `fastssm.jets.table` itself.

`python tools/fill_tables.py` writes it where a page says

    <!-- table: rules -->
    <!-- end -->
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets.constants import PROPERTIES, QUERIES
from fastssm.jets.table import BY_NAME, RULES

Rule = Callable[..., Any]

PLACES = (
    *(("", F), ("", torch), ("", Tensor)),
    *(("linalg.", torch.linalg), ("fft.", torch.fft), ("special.", torch.special)),
)
FAMILIES = {  # by the module of a rule, and where that has several families, by what makes or is the rule
    "products": "products and convolutions",
    "norms": "normalisation",
    "attention": "attention",
    "elementwise": "activations, and functions of one number",
    "linear": "sums, padding, pooling by means, interpolation, indices, Fourier transforms, dropout",
    "linear.view_rule": "moves of values",
    "linear.parts_rule": "taking apart",
    "linear._list_rule": "joining",
    "reductions": "softmax",
    "extremes": "extremes, and pooling by them",
    "matrices": "linear algebra",
    "composed": "norms, distances, losses and others made of these",
    "inplace": "in place",
    "constants": "without derivatives",
}
REFUSE = {"composed._losses_of_classes"}  # rules that only raise an error
PLAIN = {*QUERIES.split(), *PROPERTIES.split()}  # which say what a tensor is


def markdown() -> Iterator[str]:
    """Yield the lines of the table."""
    found = functions()
    yield "| family | functions |"
    yield "|---|---|"
    for family in FAMILIES.values():
        names = sorted(found[family], key=lambda name: (name.lower(), name))
        yield f"| {family} | {', '.join(f'`{name}`' for name in names)} |"


def functions() -> dict[str, set[str]]:
    """Return the public names of the functions that have a rule, by family."""
    found: dict[str, set[str]] = {family: set() for family in FAMILIES.values()}
    for name, rule in named():
        if name not in PLAIN and (family := family_of(rule)):
            found[family].add(name)
    for names in found.values():
        names -= {name for name in names if "." in name and name.rpartition(".")[2] in names}
    return found


def named() -> Iterator[tuple[str, Rule]]:
    """Yield each public name of a function, method or property that has a rule."""
    for prefix, place in PLACES:
        for name in dir(place):
            if name.startswith("_"):
                continue
            form = getattr(place, name)
            known = [BY_NAME.get(name)] if place is Tensor else []
            known += [RULES.get(key) for key in (form, getattr(form, "__get__", None)) if callable(key)]
            if rules := [rule for rule in known if rule is not None]:
                yield prefix + name, rules[0]


def family_of(rule: Rule) -> str | None:
    """Return the family of a rule, None for one that only refuses."""
    rule = rule.func if isinstance(rule, partial) else rule
    module = rule.__module__.rpartition(".")[2]
    exact = f"{module}.{rule.__qualname__.partition('.')[0]}"
    if exact in REFUSE:
        return None
    if exact not in FAMILIES and module not in FAMILIES:
        raise LookupError(f"tools/rules_table.py has no family for the rules of {rule.__module__}: add it to FAMILIES")
    return FAMILIES.get(exact) or FAMILIES[module]
