"""A call of a loss, and what every backend offers for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastssm.backends.entries.flat import Form
from fastssm.directions import Directions
from fastssm.options import Model, What
from fastssm.recognition import Network, Refusal
from fastssm.sweeps import Terms


class Request(NamedTuple):
    """One call, validated.

    Attributes:
        model: the user's module or function.
        recognised: the network found in it, or the refusal.
        x: data `[B, ...]`.
        cond: conditioning arguments by position: tensors `[B, ...]` or scalars, or None.
        kind: "energy", "score", or "auto" where only running the model can tell.
        precision: of the products, "full", "bf16", "tf32" or "split".
        kwargs: conditioning arguments by name.
        tried: what was found out about the model for this call.
    """

    model: Model
    recognised: Network | Refusal
    x: Tensor
    cond: tuple[Tensor | None, ...]
    kind: str
    precision: str
    kwargs: Mapping[str, Tensor | None] = MappingProxyType({})
    tried: list[Any] | None = None

    def differentiated(self) -> bool:
        """Say whether autograd may ask for gradients of the result."""
        if not torch.is_grad_enabled() or not isinstance(self.model, nn.Module):
            return torch.is_grad_enabled()  # a function may close over anything
        tensors = (self.x, *self.cond, *self.kwargs.values(), *self.model.parameters())
        return any(t is not None and t.requires_grad for t in tensors)

    def at(self, x: Tensor, rows: Callable[[Tensor], Tensor]) -> Request:
        """Return the call on other data; `rows` makes the conditioning of its samples from that of the present ones."""

        def moved(c: Tensor | None) -> Tensor | None:
            return rows(c) if c is not None and c.ndim else c

        kwargs = {name: moved(c) for name, c in self.kwargs.items()}
        return self._replace(x=x, cond=tuple([moved(c) for c in self.cond]), kwargs=kwargs)

    def output(self) -> Tensor:
        """Call the model."""
        found: Tensor = self.model(self.x, *self.cond, **self.kwargs)
        return found


class Backend(Protocol):
    """What every backend offers. A `OnePass` one also computes a loss and its gradients in one pass."""

    name: str

    def missing(self) -> list[str]:
        """Return why the backend cannot run anything here; empty if it can."""

    def unsupported(self, request: Request, what: What) -> list[str]:
        """Return why the backend cannot compute `what` of this call, or its gradients; empty if it can."""

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Return the differentiable terms of every sample; with `each`, the Jacobian's for each direction, `[M, B]`."""

    def score(self, request: Request) -> Tensor:
        """Return only the differentiable score `[B, D]`."""


class Denoiser(ABC):
    """A backend that also computes a denoising loss and its gradients in one pass."""

    @abstractmethod
    def denoising(self, request: Request, target: Tensor, weight: Tensor | None, mean: bool) -> Tensor:
        """Return the differentiable `sum_b weight_b |s_b - target_b|^2 / 2`, or the mean, of targets `[B, D]`."""


class OnePass(ABC):
    """A backend that also computes a sliced loss and its gradients in one pass."""

    @abstractmethod
    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""
