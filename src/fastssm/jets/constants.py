"""Functions whose result has no derivatives: shapes, comparisons, indices, new tensors, detached values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import CONSTANT, Jet, Tape, value_of
from fastssm.jets.rules import property_rules, rules_of

PROPERTIES = (
    "shape dtype device ndim layout is_cuda is_cpu is_meta is_sparse is_quantized is_nested is_leaf requires_grad "
    "is_mkldnn is_mps is_xpu itemsize nbytes"
)
QUERIES = (
    "size dim numel nelement stride is_contiguous is_floating_point is_complex is_inference element_size get_device "
    "__len__ ndimension storage_offset is_same_size is_signed"
)
NEW = "rand_like randn_like randint_like new_tensor"
FILLED = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"
COMPARISONS = (
    "eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ equal allclose isclose isnan isinf isfinite isneginf "
    "isposinf logical_not logical_and logical_or argmax argmin argsort searchsorted bucketize count_nonzero any all"
)
STEPS = "sign sgn signbit floor ceil round trunc heaviside detach bool int long"


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that is constant almost everywhere: it is called with values."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return function(*map(value_of, args), **{key: value_of(given) for key, given in kwargs.items()})

    CONSTANT.add(apply)
    return apply


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for one that autograd may know no derivative of: it is called with a detached value."""

    def of(x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(x.detach(), *args, **kwargs)

    return constant(of)


def filled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that makes a tensor to write into: a jet without derivatives."""

    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        new = function(x.value, *args, **kwargs)
        return without_derivatives(x.tape, new) if new.is_floating_point() else new

    return apply


def without_derivatives(tape: Tape, value: Tensor) -> Jet:
    """Return a jet that does not depend on the data."""
    return tape.jet(value, torch.zeros_like(value).expand(tape.count, *value.shape))


rules_of(FILLED, filled)
for _names in (QUERIES, NEW, COMPARISONS):
    rules_of(_names, constant)
rules_of(STEPS, step)
property_rules(PROPERTIES, constant)
