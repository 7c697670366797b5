"""Which backend runs a call, and for every other one all the reasons why not."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastssm import checks
from fastssm.backends.cpu import Cpu
from fastssm.backends.cuda import Cuda
from fastssm.backends.entries import functions
from fastssm.backends.fused import Fused
from fastssm.backends.reference import Reference
from fastssm.backends.request import Backend, Request
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.recognition import Network, Refusal, recognize_cached

ENVIRONMENT = "FASTSSM_BACKEND"


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


def make_request(
    model: nn.Module,
    x: Tensor,
    cond: object = None,
    kind: str = "auto",
    precision: str = "full",
    each: bool = False,
) -> Request:
    """Validate a call and recognise its network; with `each`, the Jacobian's term is wanted for each direction.

    Raises:
        TypeError: if the model is no module or a tensor has the wrong type.
        ValueError: if shapes, devices or names do not fit; the message says what to do.
    """
    checks.check_model(model)
    checks.check_data(x)
    checks.check_choice("kind", kind, checks.KINDS)
    checks.check_choice("precision", precision, checks.PRECISIONS)
    given, x = checks.check_cond(cond, x), checks.outside_inference(x)
    found = recognize_cached(model)
    if isinstance(found, Refusal):
        checks.check_not_wrapped(model.modules())
        return Request(model, found, x, given, kind, precision, each)
    kind = checks.check_network(found, x, given, kind)
    if kind == "energy" and not found.curved:
        _warn_once(model)
    return Request(model, found, x, given, kind, precision, each)


def select(request: Request, name: str = "auto") -> Backend:
    """Return the backend that runs a call: the one named, or the first that can.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: if the backend was named and cannot run the call, or none can, with every reason.
    """
    name = _chosen(name)
    for candidate in _READY if name == "auto" else (BACKENDS[name],):
        if not candidate.unsupported(request):
            return candidate
    raise UnsupportedError(_refusal(name, reasons(request)))


def select_for_score(request: Request, name: str = "auto") -> Backend:
    """Return the backend that computes a score alone.

    Our sweeps keep no tape, so they take 8 products a layer where autograd takes 6 (4 to its 3 for a score network).
    "auto" goes by what was measured (`bench/results/score.csv`). The cpu engine was the fastest of ours for values, and
    for the gradients of energies; at width 512 autograd was 5 % ahead there, in memory that grows with the batch. For
    the gradients of score networks autograd is taken: the engine was ahead at small sizes alone, behind at large ones.
    Nothing was measured on CUDA, where "auto" takes autograd.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: as `select` does.
    """
    if _chosen(name) != "auto":
        return select(request, name)
    engine, plain = BACKENDS["cpu"], BACKENDS["reference"]
    faster = request.kind == "energy" or not torch.is_grad_enabled()
    for candidate in (engine, plain) if faster else (plain,):
        if not candidate.unsupported(request):
            return candidate
    return select(request, name)


def reasons(request: Request) -> dict[str, list[str]]:
    """Return for every backend all the reasons why it cannot run a call."""
    return {candidate.name: candidate.unsupported(request) for candidate in BACKENDS.values()}


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

    Where a score alone is wanted, as in denoising losses and samplers, "auto" may choose another: see `fastssm.score`.

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
    request = make_request(model, x, cond, kind, precision)
    network = request.recognised if isinstance(request.recognised, Network) else None
    return Plan(select(request, backend).name, network, reasons(request))


def availability() -> dict[str, list[str]]:
    """Return for every backend why it cannot run anything here; an empty list means that it can."""
    return {candidate.name: candidate.missing() for candidate in BACKENDS.values()}


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
