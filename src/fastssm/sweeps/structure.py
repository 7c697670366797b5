"""Networks as flat tensors and plain numbers: the form in which they cross an operator's boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastssm.activations import INDEX, TABLE
from fastssm.options import Model
from fastssm.recognition import Layer, Network

BIAS, SCALE, SHIFT, SKIP = 1, 2, 4, 8
_NONE = (0.0,)  # torch.library reads an empty list as a list of tensors


class Structure(NamedTuple):
    """The static description of a network.

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
        """Number of tensors that all samples share; those of single samples come after them."""
        return sum(1 + bool(flag & BIAS) for flag in self.flags)


def read(
    network: Network, kind: str, cond: tuple[Tensor | None, ...], model: Model | None = None
) -> tuple[Structure, list[Tensor], Tensor | None]:
    """Read a network once: its structure, all weights and biases, then all scales and shifts, and columns for `x`.

    Args:
        network: what was recognised.
        kind: "energy" or "score".
        cond: conditioning arguments.
        model: the module that it was recognised in, which compiled code reads.
    """
    layers, columns = network.read(cond, model)
    activations, flags = [], []
    constants: list[float] = []
    shared, samples = [], []
    for weight, bias, scale, shift, activation, given, skip in layers:
        flag = SKIP if skip else 0
        shared.append(weight)
        if bias is not None:
            shared.append(bias)
            flag |= BIAS
        if scale is not None:
            samples.append(scale)
            flag |= SCALE
        if shift is not None:
            samples.append(shift)
            flag |= SHIFT
        activations.append(INDEX[activation.name])
        constants += given
        flags.append(flag)
    structure = Structure(kind, tuple(activations), tuple(constants) or _NONE, tuple(flags))
    return structure, shared + samples, columns


def unflatten(structure: Structure, tensors: Sequence[Tensor]) -> list[Layer]:
    """Return the layers of a structure and its tensors."""
    rest, constants = iter(tensors), iter(structure.constants)
    maps = [(next(rest), next(rest) if flag & BIAS else None) for flag in structure.flags]
    layers = []
    for (weight, bias), index, flag in zip(maps, structure.activations, structure.flags, strict=True):
        scale, shift = next(rest) if flag & SCALE else None, next(rest) if flag & SHIFT else None
        row = TABLE[index]
        given = tuple(next(constants) for _ in row.parameters)
        layers.append(Layer(weight, bias, scale, shift, row, given, bool(flag & SKIP)))
    return layers
