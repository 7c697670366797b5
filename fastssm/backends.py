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

from fastssm import checks, cuda, extension, functions, native, ops, reference
from fastssm.directions import Directions
from fastssm.engine import FULL_ONLY, Form, Inputs, Static
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.memory import recall
from fastssm.networks import Network, Refusal
from fastssm.sweeps import Terms, read

ENVIRONMENT = "FASTSSM_BACKEND"


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


class Backend(Protocol):
    """What a backend offers; `fused` ones compute a loss and its gradients in one pass."""

    name: str
    fused: bool

    def missing(self) -> list[str]:
        """Return why the backend cannot run anything here; empty if it can."""

    def unsupported(self, request: Request) -> list[str]:
        """Return why the backend cannot run this call; empty if it can."""

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Return the differentiable terms of every sample and direction; with `each` no mean over the directions."""

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and its two terms per sample."""

    def score(self, request: Request) -> Tensor:
        """Return the differentiable score `[B, D]` alone."""


class Reference:
    """Plain autograd on any module."""

    name, fused = "reference", False

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def unsupported(self, request: Request) -> list[str]:
        """It runs any module, in the dtype of its data."""
        return [] if request.precision == "full" else [FULL_ONLY]

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Differentiate twice."""
        return reference.terms(request.model, request.x, request.cond, request.kind, directions, each)

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss from the terms."""
        raise NotImplementedError("the reference backend has no fused objective")

    def score(self, request: Request) -> Tensor:
        """Differentiate an energy once, or call a score net."""
        return reference.score(request.model, request.x, request.cond, request.kind)


class Fused:
    """The engine in PyTorch, on any device.

    Args:
        name: what the backend is called.
        door: the module through which it is entered: `fastssm.functions`, `fastssm.native` or `fastssm.ops`.
    """

    fused = True

    def __init__(self, name: str, door: Door) -> None:
        self.name, self.door = name, door

    def missing(self) -> list[str]:
        """It is always there."""
        return []

    def objections(self, request: Request) -> list[str]:
        """Return why the engine cannot run a network that was recognised."""
        return [] if request.precision == "full" else [FULL_ONLY]

    def unsupported(self, request: Request) -> list[str]:
        """Return why this call cannot run: a network not recognised, or what the engine has no code for."""
        reasons = self.objections(request)
        if isinstance(request.recognised, Refusal):
            return reasons + list(request.recognised.reasons)
        if request.x.ndim > 2 and not request.recognised.flattens:
            reasons.append(
                f"x has shape {tuple(request.x.shape)} and the network does not flatten it, so that nn.Linear acts on "
                "the last axis alone; put nn.Flatten() first if that is not meant"
            )
        return reasons

    def terms(self, request: Request, directions: Directions, each: bool = False) -> Terms:
        """Run the sweeps, and again for their gradient."""
        inputs, tensors, static = _flat(request, directions)
        return self.door.terms(inputs, tensors, static._replace(each=each) if each else static)

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the sweeps once, for the loss and all its gradients."""
        inputs, tensors, static = _flat(request, directions)
        return self.door.objective(inputs, weight, tensors, static, form)

    def score(self, request: Request) -> Tensor:
        """Run the sweeps along no direction at all: one of zeros, as the engine wants one."""
        x = request.x
        along = x.new_zeros(1, x.shape[0], math.prod(x.shape[1:]))
        return self.terms(request, Directions(1, along)).score


class Compiled(Fused):
    """A compiled engine, for the tensors of one type of device, after which it is called.

    Args:
        name: what the backend is called.
        door: as for `Fused`.
        unbuilt: why there is no such engine; empty if there is.
    """

    def __init__(self, name: str, door: Door, unbuilt: list[str]) -> None:
        super().__init__(name, door)
        self.unbuilt = unbuilt

    def missing(self) -> list[str]:
        """Return why nothing can run: an engine that is not built."""
        return self.unbuilt.copy()

    def objections(self, request: Request) -> list[str]:
        """Name the device, the precision and the transforms that the engine has no code for."""
        if self.unbuilt:
            return self.unbuilt.copy()
        x, reasons = request.x, []
        if not getattr(x, f"is_{self.name}"):  # `x.device.type` takes half a microsecond
            reasons.append(f"x is on {x.device}, the {self.name} engine runs on {self.name.upper()} tensors")
        else:
            reasons += self.unready(x)
        if request.precision != "full":
            reasons += self.unrounded(x, request.precision)
        if functions.transformed():
            reasons.append("a torch.func transform is running, and compiled code has no rules for those")
        return reasons

    def unready(self, x: Tensor) -> list[str]:
        """Return why nothing runs on the device of x."""
        return []

    def unrounded(self, x: Tensor, precision: str) -> list[str]:
        """Return why products cannot be rounded to a precision."""
        if x.dtype == torch.float64:
            return [f'precision="{precision}" is for float32 and narrower data, x is torch.float64; use x.float()']
        return []


class Cpu(Compiled):
    """The engine in C++."""

    def __init__(self) -> None:
        super().__init__(
            "cpu", native, [] if native.DEVICES else [f"the cpu engine is not built. {extension.status()}"]
        )

    def unrounded(self, x: Tensor, precision: str) -> list[str]:
        """Return why products cannot be rounded: the data, or the processor."""
        reasons = super().unrounded(x, precision)
        if precision == "tf32":
            reasons.append('precision="tf32" is what tensor cores of GPUs have; pass precision="full" or "bf16"')
        elif not native.multiplies_bf16():
            reasons.append('precision="bf16" needs a processor with AVX-512; pass precision="full"')
        return reasons


class Cuda(Compiled):
    """The engine on GPUs."""

    def __init__(self) -> None:
        super().__init__("cuda", ops, cuda.missing())

    def missing(self) -> list[str]:
        """Return why nothing can run: an engine that is not built, or no device to run it on."""
        return super().missing() or ([] if torch.cuda.is_available() else [cuda.NO_DEVICE])

    def unready(self, x: Tensor) -> list[str]:
        """Return why the device has no kernels; in a graph that is only being traced, leave that to its first run."""
        return [] if torch.compiler.is_compiling() else cuda.unready(x.device)

    def unrounded(self, x: Tensor, precision: str) -> list[str]:
        """Return why products cannot be rounded: the data, or the device."""
        reasons = super().unrounded(x, precision)
        if x.is_cuda and not torch.compiler.is_compiling() and not cuda.rounds(x.device):
            reasons.append(
                f'precision="{precision}" needs a GPU of compute capability 8.0 or more; pass precision="full"'
            )
        return reasons


class Door(Protocol):
    """A way into the engine."""

    def terms(self, inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
        """Return the differentiable terms."""

    def objective(
        self, inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differentiable loss and its two terms per sample."""


_ALL: tuple[Backend, ...] = (Cuda(), Cpu(), Fused("torch", functions), Reference())
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}
_READY = tuple(
    backend for backend in _ALL if not getattr(backend, "unbuilt", [])
)  # the order in which "auto" tries them
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


def request(model: nn.Module, x: Tensor, cond: object = None, kind: str = "auto", precision: str = "full") -> Request:
    """Validate a call and recognise its network.

    Raises:
        TypeError: if the model is no module or a tensor has the wrong type.
        ValueError: if shapes, devices or names do not fit; the message says what to do.
    """
    checks.check_model(model)
    checks.check_data(x)
    checks.check_choice("kind", kind, checks.KINDS)
    checks.check_choice("precision", precision, checks.PRECISIONS)
    given, x = checks.check_cond(cond, x), checks.outside_inference(x)
    found = recall(model)
    if isinstance(found, Refusal):
        checks.check_not_wrapped(model.modules())
        return Request(model, found, x, given, kind, precision)
    kind = checks.check_network(found, x, given, kind)
    if kind == "energy" and not found.curved:
        _warn_once(model)
    return Request(model, found, x, given, kind, precision)


def select(call: Request, name: str = "auto") -> Backend:
    """Return the backend that runs a call: the one named, or the first that can.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: if the backend was named and cannot run the call, or none can, with every reason.
    """
    name = _chosen(name)
    for candidate in _READY if name == "auto" else (BACKENDS[name],):
        if not candidate.unsupported(call):
            return candidate
    raise UnsupportedError(_refusal(name, reasons(call)))


def select_for_score(call: Request, name: str = "auto") -> Backend:
    """Return the backend that computes a score alone; "auto" takes autograd, with 6 products a layer to our sweeps' 12.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: as `select` does.
    """
    plain = BACKENDS["reference"]
    return plain if _chosen(name) == "auto" and not plain.unsupported(call) else select(call, name)


def reasons(call: Request) -> dict[str, list[str]]:
    """Return for every backend all the reasons why it cannot run a call."""
    return {candidate.name: candidate.unsupported(call) for candidate in BACKENDS.values()}


def _refusal(name: str, every: dict[str, list[str]]) -> str:
    if name == "auto":
        listed = "".join(f"\n  - {other}: {reason}" for other, reasons in every.items() for reason in reasons)
        return f'no backend can run this call:{listed}\nPass precision="full", or remove what one of them names.'
    listed = "".join(f"\n  - {reason}" for reason in every[name])
    return (
        f'backend="{name}" cannot run this call:{listed}\nPass backend="auto" to use the fastest backend that can, '
        "or fastssm.explain(model, x) to see them all."
    )


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


def explain(
    model: nn.Module,
    x: Tensor,
    *,
    cond: object = None,
    kind: str = "auto",
    backend: str = "auto",
    precision: str = "full",
) -> Plan:
    """Say which backend would run a loss of this model on this data, and for every other one all reasons why not.

    Args:
        model: the network, as for `fastssm.sliced_loss`.
        x: data `[B, ...]`; only its shape, dtype and device matter.
        cond: conditioning arguments.
        kind: "energy", "score" or "auto".
        backend: as for `fastssm.sliced_loss`.
        precision: likewise.

    Returns:
        A `Plan`, which prints well.

    Raises:
        TypeError: as `fastssm.sliced_loss` does for such arguments.
        ValueError: likewise.
        UnsupportedError: if `backend` names one that cannot run the call, or no backend can.

    Example:
        >>> print(explain(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.zeros(4, 2)).network)
        MLP 2-8-1 (tanh, identity)
    """
    call = request(model, x, cond, kind, precision)
    network = call.recognised if isinstance(call.recognised, Network) else None
    return Plan(select(call, backend).name, network, reasons(call))


def availability() -> dict[str, list[str]]:
    """Return for every backend why it cannot run anything here; an empty list means that it can."""
    return {candidate.name: candidate.missing() for candidate in BACKENDS.values()}


def _flat(call: Request, directions: Directions) -> tuple[Inputs, list[Tensor], Static]:
    """Read the network's weights, once, and lay the call out as flat tensors."""
    assert isinstance(call.recognised, Network)
    x = call.x
    if x.ndim > 2 or torch.compiler.is_compiling():  # under torch.func.grad a graph that holds x itself is miscompiled
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    plan, tensors, columns = read(call.recognised, call.kind, call.cond)
    if checks.autocasting(x):  # the engine computes in float32 or float64 whatever autocast says
        x, columns = checks.widened(x), None if columns is None else checks.widened(columns)
        tensors = [checks.widened(t) for t in tensors]
    return Inputs(x, columns, directions.v, directions.seed), tensors, Static(plan, directions.count, call.precision)


def _warn_once(model: nn.Module) -> None:
    """Warn of an energy that has no curvature: its loss has no minimum worth finding."""
    if torch.compiler.is_compiling() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        "This energy is piecewise linear (no activation of it bends), so its Hessian is zero almost everywhere and "
        "score matching cannot train it; use a smooth activation such as nn.Softplus() or nn.SiLU().",
        FastSSMWarning,
        stacklevel=4,
    )
