"""The entry to the compiled engine: C++ autograd functions for plain eager calls, operators where PyTorch must see one.

Both run the same kernels. The functions cost half as much as an operator with autograd in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from fastssm.backends.entries import dispatcher
from fastssm.backends.entries.eager import must_dispatch
from fastssm.backends.entries.first_order import SECOND_BACKWARD
from fastssm.backends.entries.flat import Form, Inputs, Static
from fastssm.native import extension
from fastssm.sweeps import Structure, Terms

_C: Any = extension.module()
DEVICES = () if _C is None else ("cpu",)  # the types of devices with an engine

if _C is not None:
    _C.refuse_second_backward(SECOND_BACKWARD)


def multiplies_bf16() -> bool:
    """Say whether this processor multiplies bfloat16 numbers."""
    return bool(_C.capability()["bf16"])


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample, differentiable once in x, the columns and the tensors."""
    if must_dispatch(inputs):
        return dispatcher.objective(inputs, weight, tensors, static, form)
    structure, count, precision, _ = static
    loss, jacobian, square = _C.objective(structure_of(structure), *inputs, tensors, weight, count, *form, precision)
    return loss, jacobian, square


def denoising(
    inputs: Inputs, target: Tensor, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, mean: bool
) -> Tensor:
    """Return the loss `sum_b weight_b |s_b - target_b|^2 / 2`, or the mean, differentiable once in the same tensors."""
    if must_dispatch(inputs):
        return dispatcher.denoising(inputs, target, weight, tensors, static, mean)
    structure, (x, columns, *_) = structure_of(static.structure), inputs
    loss: Tensor = _C.denoising(structure, x, columns, target, tensors, weight, mean, static.precision)
    return loss


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
    """Return the terms of every sample and direction, differentiable once in x, the columns and the tensors."""
    if static.each or must_dispatch(inputs):
        return dispatcher.terms(inputs, tensors, static)
    structure, count, precision, _ = static
    return Terms(*_C.terms(structure_of(structure), *inputs, tensors, count, precision))


def guarded_call(*arguments: Any) -> Any:
    """Return a `GuardedCall` of C++; csrc/torch/guarded_call.h says what of."""
    return _C.GuardedCall(*arguments)


@lru_cache(maxsize=1024)
def structure_of(structure: Structure) -> Any:
    """Return a structure as C++ has it."""
    return _C.Structure(structure.kind, list(structure.activations), list(structure.constants), list(structure.flags))
