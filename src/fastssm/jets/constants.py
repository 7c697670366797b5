"""Functions whose result has no derivatives: shapes, comparisons, indices, new tensors, detached values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastssm.jets.jet import CONSTANT, value_of
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


def filled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that makes a tensor to write into: a jet without derivatives."""

    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        new = function(x.value, *args, **kwargs)
        if not new.is_floating_point():
            return new
        return x.tape.jet(new, torch.zeros_like(new).expand(x.tape.count, *new.shape))

    return apply


rules_of(FILLED, filled)
for _names in (QUERIES, NEW, COMPARISONS, STEPS):
    rules_of(_names, constant)
property_rules(PROPERTIES, constant)
