"""The backends that run a recognised network: what they refuse, and how they enter an engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastssm import checks
from fastssm.backends.entries import functions
from fastssm.backends.entries.flat import FULL_ONLY, Form, Inputs, Static
from fastssm.backends.request import OnePass, Request
from fastssm.directions import Directions
from fastssm.options import What
from fastssm.recognition import Network, Refusal
from fastssm.sweeps import Terms, read


class Entry(Protocol):
    """A way into the engine."""

    def terms(self, inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
        """Return the differentiable terms."""

    def objective(
        self, inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""


class Fused(OnePass):
    """The engine in PyTorch, on any device.

    Args:
        name: what the backend is called.
        entry: the module of `fastssm.backends.entries` through which the engine is entered.
    """

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self.entry = name, entry

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def objections(self, request: Request, what: What) -> list[str]:
        """Return why the engine cannot run a network that was recognised."""
        return [] if request.precision == "full" else [FULL_ONLY]

    def unsupported(self, request: Request, what: What) -> list[str]:
        """Return why this call cannot run: a network not recognised, or what the engine has no code for."""
        reasons = self.objections(request, what)
        if isinstance(request.recognised, Refusal):
            return reasons + list(request.recognised.reasons)
        if request.x.ndim > 2 and not request.recognised.flattens:
            reasons.append(
                f"x has shape {tuple(request.x.shape)} and the network does not flatten it, so that nn.Linear acts on "
                "the last axis alone; put nn.Flatten() first if that is not meant"
            )
        return reasons

    def products(self, request: Request) -> str:
        """Return the precision that the engine is given for the products."""
        return request.precision

    def by_pytorch(self, request: Request, what: What) -> list[str]:
        """Return what of this call PyTorch computes although the backend is called otherwise."""
        return []

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Run the sweeps, and again for their gradient."""
        inputs, tensors, static = flat(request, directions, self.products(request), each)
        return self.entry.terms(inputs, tensors, static)

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the sweeps once, for the loss and all its gradients."""
        inputs, tensors, static = flat(request, directions, self.products(request))
        return self.entry.objective(inputs, weight, tensors, static, form)

    def score(self, request: Request) -> Tensor:
        """Run the sweeps along no direction at all; an energy that is not finite shows, as in its Jacobian's term."""
        found = self.terms(request, Directions(0))
        return found.score if request.kind == "score" else found.score + found.projected_jacobian.detach()[:, None]


class Compiled(Fused):
    """A compiled engine, for the tensors of one type of device, after which it is called.

    Args:
        name: what the backend is called.
        entry: as for `Fused`.
        unbuilt: why there is no such engine; empty if there is.
    """

    def __init__(self, name: str, entry: Entry, unbuilt: list[str]) -> None:
        super().__init__(name, entry)
        self.unbuilt = unbuilt

    def missing(self) -> list[str]:
        """Return why nothing can run: an engine that is not built."""
        return self.unbuilt.copy()

    def objections(self, request: Request, what: What) -> list[str]:
        """Name the device, the precision and the transforms that the engine has no code for."""
        x = request.x
        if not getattr(x, f"is_{self.name}"):  # `x.device.type` takes half a microsecond
            reasons = [f"x is on {x.device}, the {self.name} engine runs on {self.name.upper()} tensors"]
        elif self.unbuilt:
            return self.unbuilt.copy()
        else:
            reasons = [*self.unready(x)]
        if request.precision != "full":
            reasons += self.unrounded(request, what)
        if functions.transformed():
            reasons.append("a torch.func transform is running, and compiled code has no rules for those")
        return reasons

    def unready(self, x: Tensor) -> list[str]:
        """Return why nothing runs on the device of x."""
        return []

    def unrounded(self, request: Request, what: What) -> list[str]:
        """Return why products cannot be rounded to the precision of a call."""
        if request.x.dtype != torch.float64:
            return []
        return [f'precision="{request.precision}" is for float32 and narrower data, x is torch.float64; use x.float()']


def flat(
    request: Request, directions: Directions, precision: str = "full", each: bool = False
) -> tuple[Inputs, list[Tensor], Static]:
    """Read the network's weights, once, and lay the call out as flat tensors."""
    assert isinstance(request.recognised, Network)
    x = request.x
    if x.ndim > 2 or torch.compiler.is_compiling():  # under torch.func.grad a graph that holds x itself is miscompiled
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    given = (*request.cond, *request.kwargs.values())
    structure, tensors, columns = read(request.recognised, request.kind, given, request.model)
    if checks.autocasting(x):  # the engine computes in float32 or float64 regardless of autocast
        x, columns = checks.widened(x), None if columns is None else checks.widened(columns)
        tensors = [checks.widened(t) for t in tensors]
    static = Static(structure, directions.count, precision, each)
    return Inputs(x, columns, directions.v, directions.seed), tensors, static
