"""The door to the compiled engine: its C++ autograd functions for plain eager calls, its operators for whoever watches.

Both open on the same kernels; the functions cost half of what an operator with Python's autograd does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import extension, ops
from fastssm.engine import Form, Inputs, Static
from fastssm.refusal import SECOND_BACKWARD
from fastssm.sweeps import Plan, Terms

_C: Any = extension.module()
DEVICES = () if _C is None else ("cpu",)  # the types of devices with an engine
_PLAIN = frozenset((Tensor, nn.Parameter, type(None)))

if _C is not None:
    _C.refuse_second_backward(SECOND_BACKWARD)


def multiplies_bf16() -> bool:
    """Say whether this processor multiplies bfloat16 numbers."""
    return bool(_C.capability()["bf16"])


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample, differentiable once in x, the columns and the tensors."""
    if _watched(inputs):
        return ops.objective(inputs, weight, tensors, static, form)
    plan, count, precision, _ = static
    loss, jacobian, square = _C.objective(_compiled(plan), *inputs, tensors, weight, count, *form, precision)
    return loss, jacobian, square


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
    """Return the terms of every sample and direction, differentiable once in x, the columns and the tensors."""
    if static.each or _watched(inputs):
        return ops.terms(inputs, tensors, static)
    plan, count, precision, _ = static
    return Terms(*_C.terms(_compiled(plan), *inputs, tensors, count, precision))


def _watched(inputs: Inputs) -> bool:
    """Say whether an operator must be seen: by torch.compile, a dispatch mode, a tracer, or a tensor's own class."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return True
    return not _PLAIN.issuperset(map(type, inputs))


@lru_cache(maxsize=1024)
def _compiled(plan: Plan) -> Any:
    return _C.Plan(plan.kind, list(plan.activations), list(plan.constants), list(plan.flags))
