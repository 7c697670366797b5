"""Layers as flat tensors and plain numbers: the form in which they cross an operator's boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastssm.activations import INDEX, TABLE
from fastssm.networks import Layer

BIAS, SCALE, SHIFT, SKIP = 1, 2, 4, 8
_NONE = (0.0,)  # torch.library takes an empty list for one of tensors


class Plan(NamedTuple):
    """The static part of a call.

    Attributes:
        kind: "energy" or "score".
        activations: for each layer its row in the activation table.
        constants: the activations' parameters, one after another; `(0.0,)` where there are none.
        flags: for each layer which optional tensors it has (`BIAS | SCALE | SHIFT`) and whether it skips (`SKIP`).
    """

    kind: str
    activations: Sequence[int]
    constants: Sequence[float]
    flags: Sequence[int]

    @property
    def shared(self) -> int:
        """Number of tensors that all samples share; those of single samples follow them."""
        return sum(1 + bool(flag & BIAS) for flag in self.flags)


def flatten(kind: str, layers: Sequence[Layer]) -> tuple[Plan, list[Tensor]]:
    """Return the plan of some layers, and their tensors: all weights and biases, then all scales and shifts."""
    flags = tuple(
        BIAS * (layer.bias is not None)
        | SCALE * (layer.scale is not None)
        | SHIFT * (layer.shift is not None)
        | SKIP * layer.skip
        for layer in layers
    )
    shared = [t for layer in layers for t in (layer.weight, layer.bias) if t is not None]
    samples = [t for layer in layers for t in (layer.scale, layer.shift) if t is not None]
    constants = tuple(c for layer in layers for c in layer.constants) or _NONE
    activations = tuple(INDEX[layer.activation.name] for layer in layers)
    return Plan(kind, activations, constants, flags), shared + samples


def unflatten(plan: Plan, tensors: Sequence[Tensor]) -> list[Layer]:
    """Return the layers of a plan and its tensors."""
    shared, samples, constants = iter(tensors[: plan.shared]), iter(tensors[plan.shared :]), iter(plan.constants)
    layers = []
    for index, flag in zip(plan.activations, plan.flags, strict=True):
        weight, bias = next(shared), next(shared) if flag & BIAS else None
        scale, shift = next(samples) if flag & SCALE else None, next(samples) if flag & SHIFT else None
        row = TABLE[index]
        given = tuple(next(constants) for _ in row.parameters)
        layers.append(Layer(weight, bias, scale, shift, row, given, bool(flag & SKIP)))
    return layers
