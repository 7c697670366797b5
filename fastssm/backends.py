"""Which backend runs a call, and for every other one all the reasons why not."""

from __future__ import annotations

import math
import os
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastssm import checks, extension, functions, ops, reference
from fastssm.directions import Directions
from fastssm.engine import Form, Inputs, Static
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.networks import Network, Refusal, recognize
from fastssm.sweeps import Terms, flatten

ENVIRONMENT = "FASTSSM_BACKEND"


class Request(NamedTuple):
    """One call, validated.

    Attributes:
        model: the user's module.
        recognised: the network found in it, or the refusal.
        x: data `[B, ...]`.
        cond: conditioning arguments.
        kind: "energy", "score", or "auto" where only running the model can tell.
    """

    model: nn.Module
    recognised: Network | Refusal
    x: Tensor
    cond: tuple[Tensor, ...]
    kind: str


class Backend(Protocol):
    """What a backend offers; `fused` ones compute a loss and its gradients in one pass."""

    name: str
    fused: bool

    def missing(self) -> list[str]:
        """Return why the backend cannot run anything here; empty if it can."""

    def unsupported(self, request: Request) -> list[str]:
        """Return why the backend cannot run this call; empty if it can."""

    def terms(self, request: Request, directions: Directions) -> Terms:
        """Return the differentiable terms of every sample and direction."""

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and its two terms per sample."""


class Reference:
    """Plain autograd on any module."""

    name, fused = "reference", False

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def unsupported(self, request: Request) -> list[str]:
        """It runs any module."""
        return []

    def terms(self, request: Request, directions: Directions) -> Terms:
        """Differentiate twice."""
        return reference.terms(request.model, request.x, request.cond, request.kind, directions)

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss from the terms."""
        raise NotImplementedError("the reference backend has no fused objective")


class Fused:
    """The engine: the PyTorch sweeps on any device, or the operators' kernels where a native engine has added some.

    Args:
        name: "torch", "cpu" or "cuda".
        door: `fastssm.functions` (traced by torch.compile) or `fastssm.ops` (one operator a call).
    """

    fused = True

    def __init__(self, name: str, door: Door) -> None:
        self.name, self.door = name, door
        built = name == "torch"
        self._missing = () if built else (f"the {name} engine is not built. {extension.status()}",)

    def missing(self) -> list[str]:
        """Return why nothing can run: a native engine that is not built."""
        return list(self._missing)

    def unsupported(self, request: Request) -> list[str]:
        """Return why this call cannot run: a network not recognised, or data that it does not flatten."""
        reasons = self.missing()
        if isinstance(request.recognised, Refusal):
            return reasons + list(request.recognised.reasons)
        if request.x.ndim > 2 and not request.recognised.flattens:
            reasons.append(
                f"x has shape {tuple(request.x.shape)} and the network does not flatten it, so that nn.Linear acts on "
                "the last axis alone; put nn.Flatten() first if that is not meant"
            )
        return reasons

    def terms(self, request: Request, directions: Directions) -> Terms:
        """Run the sweeps, and again for their gradient."""
        return self.door.terms(*_flat(request, directions))

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the sweeps once, for the loss and all its gradients."""
        inputs, tensors, static = _flat(request, directions)
        return self.door.objective(inputs, weight, tensors, static, form)


class Door(Protocol):
    """A way into the engine: `fastssm.functions` or `fastssm.ops`."""

    def terms(self, inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
        """Return the differentiable terms."""

    def objective(
        self, inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""


_ALL: tuple[Backend, ...] = (Fused("cuda", ops), Fused("cpu", ops), Fused("torch", functions), Reference())
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}  # the order in which "auto" tries them
NAMES = ("reference", "torch", "cpu", "cuda")
_CHOICES = (*NAMES, "auto")


_local = threading.local()
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the backend of every call in this block (and thread) that does not name one itself.

    The order is: the call's own `backend=`, this block, the environment variable `FASTSSM_BACKEND`, then "auto".

    Args:
        name: "reference", "torch", "cpu", "cuda" or "auto".

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> with backend("reference"):
        ...     pass  # losses computed here use plain autograd
    """
    checks.check_choice("backend", name, _CHOICES)
    before = getattr(_local, "name", None)
    _local.name = name
    try:
        yield
    finally:
        _local.name = before


def _chosen(name: str) -> str:
    checks.check_choice("backend", name, _CHOICES)
    if name == "auto":
        name = getattr(_local, "name", None) or os.environ.get(ENVIRONMENT) or "auto"
        checks.check_choice(f"backend (set by fastssm.backend or {ENVIRONMENT})", name, _CHOICES)
    return name


def request(model: nn.Module, x: Tensor, cond: object = None, kind: str = "auto") -> Request:
    """Validate a call and recognise its network.

    Raises:
        TypeError: if the model is no module or a tensor has the wrong type.
        ValueError: if shapes, devices or names do not fit; the message says what to do.
    """
    checks.check_model(model)
    checks.check_data(x)
    checks.check_choice("kind", kind, checks.KINDS)
    given, x = checks.check_cond(cond, x), checks.outside_inference(x)
    found = recognize(model)
    if isinstance(found, Refusal):
        for module in model.modules():
            checks.check_not_wrapped(module)
        return Request(model, found, x, given, kind)
    checks.check_network(found, x, given)
    if found.flattens or x.ndim == 2:
        kind = checks.kind_of_output((x.shape[0], found.out_features), x.shape, kind)
        _warn_if_straight(model, found, kind)
    return Request(model, found, x, given, kind)


def select(call: Request, name: str = "auto") -> Backend:
    """Return the backend that runs a call: the one named, or the first that can.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: if the backend was named and cannot run the call, with every reason.
    """
    name = _chosen(name)
    if name == "auto":
        return next(candidate for candidate in _ALL if not candidate.unsupported(call))
    reasons = BACKENDS[name].unsupported(call)
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise UnsupportedError(
            f'backend="{name}" cannot run this call:{listed}\nPass backend="auto" to use the fastest backend that can, '
            "or fastssm.explain(model, x) to see them all."
        )
    return BACKENDS[name]


@dataclass(frozen=True)
class Plan:
    """Which backend would run, and why the others would not.

    Attributes:
        backend: name of the one that would run.
        network: the network that was recognised, None if it was not.
        reasons: for every backend, why it cannot run the call; empty if it could.
    """

    backend: str
    network: Network | None
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Print the choice first, then every backend with its reasons."""
        lines = [f"backend: {self.backend}", f"network: {self.network or 'not recognised'}"]
        for name, reasons in self.reasons.items():
            state = "runs this" if name == self.backend else "could" if not reasons else "cannot:"
            lines += [f"  {name:<9} {state}", *(f"            - {reason}" for reason in reasons)]
        return "\n".join(lines)


def explain(model: nn.Module, x: Tensor, *, cond: object = None, kind: str = "auto", backend: str = "auto") -> Plan:
    """Say which backend would run a loss of this model on this data, and for every other one all reasons why not.

    Args:
        model: the network, as for `fastssm.sliced_loss`.
        x: data `[B, ...]`; only its shape, dtype and device matter.
        cond: conditioning arguments.
        kind: "energy", "score" or "auto".
        backend: as for `fastssm.sliced_loss`.

    Returns:
        A `Plan`, which prints well.

    Raises:
        TypeError: as `fastssm.sliced_loss` does for such arguments.
        ValueError: likewise.
        UnsupportedError: if `backend` names one that cannot run the call.

    Example:
        >>> print(explain(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.zeros(4, 2)).backend)
        torch
    """
    call = request(model, x, cond, kind)
    reasons = {candidate.name: candidate.unsupported(call) for candidate in BACKENDS.values()}
    network = call.recognised if isinstance(call.recognised, Network) else None
    return Plan(select(call, backend).name, network, reasons)


def availability() -> dict[str, list[str]]:
    """Return for every backend why it cannot run anything here; an empty list means that it can."""
    return {candidate.name: candidate.missing() for candidate in BACKENDS.values()}


def _flat(call: Request, directions: Directions) -> tuple[Inputs, list[Tensor], Static]:
    """Read the network's weights, once, and lay the call out as flat tensors."""
    assert isinstance(call.recognised, Network)
    x = call.x.reshape(call.x.shape[0], math.prod(call.x.shape[1:]))
    layers, columns = call.recognised.layers(call.cond)
    plan, tensors = flatten(call.kind, layers)
    if checks.autocasting(x):  # the engine computes in float32 or float64 whatever autocast says
        x, columns = checks.widened(x), None if columns is None else checks.widened(columns)
        tensors = [checks.widened(t) for t in tensors]
    return Inputs(x, columns, directions.v, directions.seed), tensors, Static(plan, directions.count)


def _warn_if_straight(model: nn.Module, network: Network, kind: str) -> None:
    """Warn once per model whose energy has no curvature: its loss has no minimum worth finding."""
    if kind == "score" or network.curved or torch.compiler.is_compiling() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        "This energy is piecewise linear (no activation of it bends), so its Hessian is zero almost everywhere and "
        "score matching cannot train it; use a smooth activation such as nn.Softplus() or nn.SiLU().",
        FastSSMWarning,
        stacklevel=4,
    )
