"""One output of a model of several, as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssm.options import Model
from fastssm.recognition import Network, Refusal, Traced


class OneOutput(nn.Module):
    """A module whose output is column `component` of another's."""

    def __init__(self, model: nn.Module, component: int) -> None:
        super().__init__()
        self.model, self.component = model, component

    def forward(self, x: Tensor, *cond: Tensor | None, **named: Tensor | None) -> Tensor:
        """Return the column."""
        return column(self.model(x, *cond, **named), self.component)


def one_output(model: Model, found: Network | Refusal, x: Tensor, component: object) -> tuple[Model, Network | Refusal]:
    """Return the model, and what was recognised of it, with one output alone.

    Raises:
        TypeError: if the component is not an integer.
        ValueError: if there is no such output.
    """
    if isinstance(component, bool) or not isinstance(component, int):
        raise TypeError(f"component must be the index of an output, an integer, got {type(component).__name__}.")
    if isinstance(found, Network):
        _check((len(x), *(found.output if isinstance(found, Traced) else (found.out_features,))), component)
        found = found.only(component)
    if isinstance(model, nn.Module) and not torch.compiler.is_compiling():
        return OneOutput(model, component), found
    return lambda x, *cond, **named: column(model(x, *cond, **named), component), found


def column(output: Any, component: int) -> Tensor:
    """Return one column of an output `[B, F]`."""
    _check(getattr(output, "shape", ()), component)
    found: Tensor = output[:, component]
    return found


def _check(shape: Sequence[int], component: int) -> None:
    if len(shape) == 2 and 0 <= component < shape[1]:
        return
    wanted = (
        f"must be from 0 to {shape[1] - 1}" if len(shape) == 2 else "selects an output of a model that returns [B, F]"
    )
    raise ValueError(
        f"component={component} {wanted}: the model returned {tuple(shape)}; leave component out for a model with one "
        "output."
    )
