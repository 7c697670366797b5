"""A call of a loss, and what every backend offers for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastssm.backends.entries.flat import Form
from fastssm.directions import Directions
from fastssm.options import What
from fastssm.recognition import Network, Refusal
from fastssm.sweeps import Terms


class Request(NamedTuple):
    """One call, validated.

    Attributes:
        model: the user's module.
        recognised: the network found in it, or the refusal.
        x: data `[B, ...]`.
        cond: conditioning arguments.
        kind: "energy", "score", or "auto" where only running the model can tell.
        precision: of the products, "full", "bf16" or "tf32".
    """

    model: nn.Module
    recognised: Network | Refusal
    x: Tensor
    cond: tuple[Tensor, ...]
    kind: str
    precision: str

    def differentiated(self) -> bool:
        """Say whether autograd may ask for gradients of the result."""
        tensors = (self.x, *self.cond, *self.model.parameters())
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


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


class OnePass(ABC):
    """A backend that also computes a sliced loss and its gradients in one pass."""

    @abstractmethod
    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""
