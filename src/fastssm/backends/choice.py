"""Which backend runs a call, and why the others cannot."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import checks
from fastssm.backends import guarded
from fastssm.backends.component import one_output
from fastssm.backends.cpu import Cpu
from fastssm.backends.cuda import Cuda
from fastssm.backends.entries import functions
from fastssm.backends.entries.flat import Form
from fastssm.backends.fused import Fused
from fastssm.backends.jets import Jets
from fastssm.backends.reference import Reference
from fastssm.backends.request import Backend, Request
from fastssm.backends.trial import trial_of
from fastssm.compiling import exporting
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.nn.mlp import repeated
from fastssm.options import (
    BACKEND_NAMES,
    KINDS,
    OPERATORS,
    PRECISIONS,
    WHATS,
    BackendName,
    Kind,
    Model,
    ModelArguments,
    Operator,
    Precision,
    What,
    takes,
)
from fastssm.recognition import Network, Refusal, recognize_cached

ENVIRONMENT = "FASTSSM_BACKEND"

JETS_DIRECTIONS = 4  # from so many directions on jets are faster, however small the network
JETS_BYTES = 1 << 15  # bytes of the value of an operation, on average, from which they are along fewer
JETS_OPERATIONS = 25  # operations up to which they lose little where they are slower, and keep their bounded memory

_ALL: tuple[Backend, ...] = (Cuda(), Cpu(), Fused("torch", functions), Jets(), Reference())
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}
_READY = tuple(
    backend for backend in _ALL if not getattr(backend, "unbuilt", [])
)  # the order in which "auto" tries them
NAMES = tuple(name for name in BACKEND_NAMES if name != "auto")

_local = threading.local()
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def backend(name: BackendName) -> Iterator[None]:
    """Choose the backend of every call in this block (and thread) that does not name one itself.

    The order is: the call's own `backend=`, this block, the environment variable `FASTSSM_BACKEND`, then "auto".

    Args:
        name: "reference", "jets", "torch", "cpu", "cuda" or "auto".

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> with backend("reference"):
        ...     pass  # losses computed here use plain autograd
    """
    checks.check_choice("backend", name, BACKEND_NAMES)
    before = getattr(_local, "name", None)
    _local.name = name
    try:
        yield
    finally:
        _local.name = before


def _chosen(name: str) -> str:
    checks.check_choice("backend", name, BACKEND_NAMES)
    if name == "auto":
        name = getattr(_local, "name", None) or os.environ.get(ENVIRONMENT) or "auto"
        checks.check_choice(f"backend (set by fastssm.backend or {ENVIRONMENT})", name, BACKEND_NAMES)
    return name


def make_request(
    model: Model,
    x: Tensor,
    cond: object = None,
    kind: Kind = "auto",
    precision: Precision = "full",
    last: Tensor | None = None,
    straight: bool = False,
    component: int | None = None,
) -> Request:
    """Validate a call and recognise its network.

    Args:
        model: the user's module or function.
        x: data.
        cond: conditioning arguments.
        kind: of the output.
        precision: of the products.
        last: what the model gets by position after `cond`, such as a time.
        straight: an energy without curvature can be trained, say because the data are curved; else it gets a warning.
        component: the only output that is wanted of a model with several.

    Raises:
        TypeError: if the model is neither a module nor a function, or a tensor has the wrong type.
        ValueError: if shapes, devices or names do not fit; the message says what to do.
    """
    checks.check_model(model)
    checks.check_data(x)
    checks.check_choice("kind", kind, KINDS)
    checks.check_choice("precision", precision, PRECISIONS)
    (given, named), x = checks.check_cond(cond, x), checks.outside_inference(x)
    given = given if last is None else (*given, checks.outside_inference(last))
    asked, found = model, recognize_cached(model, x, given, named)
    if component is not None:
        model, found = one_output(model, found, x, component)
    if isinstance(found, Refusal):
        if isinstance(model, nn.Module) or not torch.compiler.is_compiling():  # which cannot look into a closure
            checks.check_not_wrapped(checks.modules_of(model))
        return Request(model, found, x, given, kind, precision, named, [])
    if found.conditioned is not None:
        given = tuple([repeated(c, x) for c in given])
    assert isinstance(asked, nn.Module)
    read_as = checks.check_network(found, x, given, named, kind)
    if read_as == "energy" and not found.curved and not straight:
        _warn_once(asked)
    return Request(model, found, x, given, read_as, precision, named)


def select(request: Request, what: What, name: str = "auto", count: int = 1) -> Backend:
    """Return the backend that computes `what` of a call along `count` directions: the one named, or the first that can.

    For the score, "auto" goes by what was measured (`bench/results/score.csv`). The sweeps keep no tape, so they
    take 8 products a layer where autograd takes 6 (4 against 3 for a score network). The cpu engine was the fastest for
    values, and for the gradients of energies. For the gradients of score networks "auto" takes autograd, except for a
    denoising loss, which the engine computes in one pass, in as many products as autograd: there it was the fastest.
    Nothing was measured on CUDA, where "auto" takes autograd.

    Between jets and plain autograd, "auto" goes by `bench/results/choice.csv`: see `_jets_first`.

    Raises:
        ValueError: for an unknown name.
        UnsupportedError: if the backend was named and cannot run the call, or none can, with every reason.
    """
    name = _chosen(name)
    for candidate in _candidates(request, what, count) if name == "auto" else (BACKENDS[name],):
        if not candidate.unsupported(request, what):
            return candidate
    every = reasons(request, what) if name == "auto" else {name: BACKENDS[name].unsupported(request, what)}
    raise UnsupportedError(_refusal(name, every, what))


def again(
    model: Model, x: Tensor, v: Tensor | None, count: int, form: Form, kind: str
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the sliced loss and its terms of a call if it was made before, else None: see `guarded.objective`."""
    return None if getattr(_local, "name", None) else guarded.objective(model, x, v, count, form, kind)


def _candidates(request: Request, what: What, count: int) -> tuple[Backend, ...]:
    """Return the backends in the order in which "auto" tries them."""
    plain = BACKENDS["reference"]
    if exporting():  # what runs the program has PyTorch's operators, not fastssm's
        return (BACKENDS["torch"], plain)
    if what not in ("score", "denoising"):
        return _READY if _jets_first(request, count) else tuple(b for b in _READY if b.name != "jets")
    engine_is_faster = request.kind == "energy" or what == "denoising" or not torch.is_grad_enabled()
    return (BACKENDS["cpu"], plain, *_READY) if engine_is_faster else (plain, *_READY)


def _jets_first(request: Request, count: int) -> bool:
    """Say whether jets may run a network that the engines do not.

    Jets spend more time in Python than plain autograd, and less in every operation. `bench/results/choice.csv` has both
    times on one thread, with the networks of `tests/nets`. A table in docs/your_network.md says how often this rule and
    simpler ones name the faster one, and what they lose where they do not.
    """
    if isinstance(request.recognised, Network) or not isinstance(request.model, nn.Module):
        return True
    trial = trial_of(request)
    large = trial.bytes_of_an_operation * request.x.shape[0] >= JETS_BYTES
    return bool(trial.reasons) or count >= JETS_DIRECTIONS or large or trial.operations <= JETS_OPERATIONS


def reasons(request: Request, what: What) -> dict[str, list[str]]:
    """Return for every backend all the reasons why it cannot compute `what` of a call.

    The engines of other devices than that of x come last.
    """
    elsewhere = [name for name in ("cuda", "cpu") if name != request.x.device.type]
    names = sorted(BACKENDS, key=lambda name: name in elsewhere)
    return {name: BACKENDS[name].unsupported(request, what) for name in names}


def _refusal(name: str, every: dict[str, list[str]], what: What) -> str:
    if name == "auto":
        listed = "".join(f"\n  - {other}: {reason}" for other, reasons in every.items() for reason in reasons)
        return f'no backend can run this call:{listed}\nPass precision="full", or remove what one of them names.'
    named = dict.fromkeys([*every[name], *BACKENDS[name].missing()])  # an engine of another device may not be built
    listed = "".join(f"\n  - {reason}" for reason in named)
    return (
        f'backend="{name}" cannot run this call:{listed}\nPass backend="auto" to use the fastest backend that can, '
        f'or print fastssm.explain(model, x, what="{what}") to see what each of them lacks.'
    )


@dataclass(frozen=True)
class Plan:
    """Which backend would run, and why the others would not.

    Attributes:
        backend: name of the one that would run.
        network: the network that was recognised, None if it was not.
        reasons: for every backend, why it cannot run the call; empty if it could.
        notes: what of the call PyTorch computes although a compiled engine runs it.
    """

    backend: str
    network: Network | None
    reasons: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Print the choice first, then every backend with its reasons."""
        lines = [f"backend: {self.backend}", *(f"note: {note}" for note in self.notes)]
        lines += [f"network: {self.network or 'not recognised'}"]
        for name, reasons in self.reasons.items():
            state = "runs this" if name == self.backend else "could" if not reasons else "cannot:"
            lines += [f"  {name:<9} {state}", *(f"            - {reason}" for reason in reasons)]
        return "\n".join(lines)


@takes(ModelArguments)
def explain(
    model: Model,
    x: Tensor,
    *,
    what: What | Operator = "objective",
    component: int | None = None,
    **options: Unpack[ModelArguments],
) -> Plan:
    """Say which backend would run a call with this model and data, and why the others cannot.

    Args:
        model: the network, as for `fastssm.sliced_loss`.
        x: data `[B, ...]`; only its shape, dtype and device matter.
        what: the result that is wanted. "objective" is a sliced or exact loss; "terms" is what `terms` and losses on
            domains or in a metric need; "each" is one term for each direction; "score" is only the score, as for
            `score` and samplers; "denoising" is a denoising loss that is a number; or the name of an operator,
            "divergence", "laplacian", "jacobian_diag" or "hvp_form" (along several directions; along one it needs
            "terms").
        component: the only output that is wanted of a model with several, as for `laplacian` and `hvp_form`.
        options: keyword arguments of `ModelArguments`.

    Returns:
        A `Plan`; print it. It holds for gradients too, if gradients are enabled.

    Raises:
        TypeError: as `fastssm.sliced_loss` does for such arguments.
        ValueError: as `fastssm.sliced_loss` does.
        UnsupportedError: if `backend` names one that cannot run the call, or no backend can.

    Example:
        >>> print(explain(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.zeros(4, 2)).network)
        MLP 2-8-1 (tanh, identity)
    """
    checks.check_choice("what", what, (*WHATS, *OPERATORS))
    needed, kind = _needs(what)
    if options["kind"] not in ("auto", kind) and kind != "auto":
        raise ValueError(f'{what} is of models with kind="{kind}", got kind={options["kind"]!r}; leave kind out.')
    kind = options["kind"] if kind == "auto" else kind
    try:
        request = make_request(model, x, options["cond"], kind, options["precision"], component=component)
    except ValueError as error:
        raise checks.in_words_of(what, error, x) from error.__cause__
    network = request.recognised if isinstance(request.recognised, Network) else None
    chosen = select(request, needed, options["backend"])
    notes = chosen.by_pytorch(request, needed) if isinstance(chosen, Fused) else []
    return Plan(chosen.name, network, reasons(request, needed), notes)


def _needs(what: What | Operator) -> tuple[What, Kind]:
    """Return what a call asks of a backend, and the kind of the model that it is of."""
    for operator, needs in OPERATORS.items():
        if what == operator:
            return needs
    return cast("What", what), "auto"


def availability() -> dict[str, list[str]]:
    """Return for every backend why it cannot run anything here; an empty list means that it can."""
    return {candidate.name: candidate.missing() for candidate in BACKENDS.values()}


def _warn_once(model: nn.Module) -> None:
    """Warn of an energy that has no curvature: score matching cannot train it."""
    if torch.compiler.is_compiling() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        "This energy is piecewise linear (its activations are), so its Hessian is zero almost everywhere and "
        "score matching cannot train it; use a smooth activation such as nn.Softplus() or nn.SiLU().",
        FastSSMWarning,
        stacklevel=5,  # the caller of the public function
    )
