"""Functions that change their argument: the jet takes the result of the function that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssm.jets import composed, elementwise, products  # noqa: F401, their rules are read below
from fastssm.jets.constants import without_derivatives
from fastssm.jets.jet import Jet, NoRule, rule_of
from fastssm.jets.linear import jointly
from fastssm.jets.rules import forms, rule

_OPERATORS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow",
}  # fmt: skip
_METHODS = (
    "add sub mul div pow neg exp log sqrt rsqrt reciprocal sin cos tanh sigmoid relu clamp clamp_min clamp_max abs "
    "square masked_fill index_add scatter_add addcmul addcdiv lerp erf expm1 log1p leaky_relu elu celu hardtanh "
    "round floor silu mish"
)


def _inplace(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Jet:
        new: Jet = function(x, *args, **kwargs)
        if not isinstance(x, Jet):
            return new  # `x += jet` binds the name x to what is returned
        return x.become(new if isinstance(new, Jet) else without_derivatives(x.tape, new))

    return apply


def _reshaping(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Jet, *args: Any) -> Jet:
        shared, free = x.tape.shared, x.place not in x.tape.shared
        new = function(x, *args)
        shared -= {x.place, new.place} if free else set()  # no view of it is left
        x.value, x.tangents, x.place = new.value, new.tangents, new.place
        return x

    return apply


def _known(function: Any) -> Callable[..., Any]:
    found = rule_of(function)
    assert found is not None, function
    return found


for _name in _METHODS.split():
    for _form in forms(_name):
        if found := rule_of(_form):
            rule(_name + "_")(_inplace(found))
            break
for _name, _base in _OPERATORS.items():
    rule(_name)(_inplace(_known(getattr(Tensor, _base))))
for _name in ["squeeze", "unsqueeze", "transpose", "t"]:
    rule(_name + "_")(_reshaping(_known(getattr(Tensor, _name))))


@rule("__setitem__")
def set_item(x: Any, index: Any, new: Any) -> None:
    """`x[index] = new`."""
    if not isinstance(x, Jet):
        raise NoRule("jets cannot be written into a plain tensor; make it by torch.zeros_like(x), or use torch.cat")

    def write(z: Any, entries: Any) -> Tensor:
        # vmap writes rows into rows only
        z = z + torch.zeros_like(entries).sum() if isinstance(entries, Tensor) else z.clone()
        z[index] = entries
        return z  # type: ignore[no-any-return]

    x.become(jointly(write, [x, new]))
