"""A trial of a model on jets: whether every operation of its forward has a rule, and what a row of it takes."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastssm.backends.component import OneOutput
from fastssm.backends.entries.functions import transformed
from fastssm.backends.reference import uncompiled
from fastssm.backends.request import Request
from fastssm.backends.traced import objections_of_dynamo
from fastssm.checks import check_output, kind_of_output
from fastssm.compiling import constant_of_a_module
from fastssm.errors import UnsupportedError
from fastssm.jets import Jet, Tape
from fastssm.jets.draws import restore, state_of
from fastssm.recognition import Fingerprint, Refusal

ROWS = 3  # samples of the trial
MAX_TRIALS = 4  # that are kept of one model
COUPLED = "the model couples the samples of a batch: the output of one changes with another's data"
CUT = "the model's output does not depend on x through operations that jets see: something in its forward cuts it off"
FEW = "the model must run on any number of samples, but on {} of {} it raises {}"
OLD = "torch.compile can try a model on jets from torch 2.13 on"
OTHER = "on jets the model's output is another one"


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        reasons: why the model cannot run on jets; empty if it can.
        kind: "energy" or "score".
        bytes_of_a_row: memory of all values along one direction of one sample.
        operations: how many operations they are the values of.
        whole: whether a batch must run as one tile, because the forward changes a buffer.
        once: whether the forward must run once only, because it does so or draws random numbers.
    """

    reasons: list[str]
    kind: str = "energy"
    bytes_of_a_row: int = 1
    operations: int = 1
    whole: bool = False
    once: bool = False

    @property
    def bytes_of_an_operation(self) -> int:
        """Memory of the value of an operation for one sample, on average."""
        return self.bytes_of_a_row // max(1, self.operations)


_trials: WeakKeyDictionary[nn.Module, list[tuple[Any, Fingerprint, Trial]]] = WeakKeyDictionary()
_compiled: WeakKeyDictionary[nn.Module, tuple[Any, Fingerprint, Trial]] = WeakKeyDictionary()


def trial_of(request: Request) -> Trial:
    """Return the trial of a call's model, from the cache if nothing has changed that it depends on."""
    if torch.compiler.is_compiling():
        return _while_compiling(request)
    key = _key(request)
    for tried, found in request.tried or ():
        if tried == key:
            return cast("Trial", found)
    found = _known(request, key)
    if request.tried is not None:
        request.tried.append((key, found))
    return found


def _known(request: Request, key: Any) -> Trial:
    model = module_of(request)
    if isinstance(model, OneOutput):  # made for this call
        model, key = model.model, (key, model.component)
    before = _trials.get(model, [])
    for known, fingerprint, trial in before:
        if known == key and fingerprint.holds():
            return trial
    found = _try(request)
    if not transformed():
        others = [each for each in before if each[0] != key]
        _trials[model] = [(key, Fingerprint.of(model), found), *others[: MAX_TRIALS - 1]]
    return found


def _while_compiling(request: Request) -> Trial:
    """Return the trial on made-up data, as a constant of what torch.compile traces."""
    if torch.__version__ < (2, 13):  # type: ignore[operator]
        return Trial([OLD])
    x, batch = request.x, request.x.shape[0]
    given = [_spec(c, batch) for c in request.cond]
    named = [(name, _spec(c, batch)) for name, c in request.kwargs.items()]
    spec = (tuple(x.shape[1:]), x.dtype, x.device, request.kind, tuple(given), tuple(named))
    reasons, kind, size, operations, whole, once = _try_made_up(module_of(request), spec)
    return Trial([*reasons], kind, size, operations, whole, once)


def _spec(c: Tensor | None, batch: int) -> Any:
    if c is None:
        return None
    per_sample = c.ndim > 0 and c.shape[0] == batch
    return per_sample, tuple(c.shape[1:] if per_sample else c.shape), c.dtype


@constant_of_a_module
def _try_made_up(model: nn.Module, spec: Any) -> tuple[tuple[str, ...], str, int, int, bool, bool]:
    shape, dtype, device, kind, given, named = spec

    def made(spec: Any, dtype: torch.dtype) -> Tensor | None:
        if spec is None:
            return None
        size = ((ROWS,) if spec[0] else ()) + spec[1]
        if not dtype.is_floating_point:
            return torch.zeros(size, dtype=dtype, device=device)
        return torch.linspace(0.1, 0.9, math.prod(size), device=device).reshape(size).to(dtype)

    x = made((True, shape), dtype)
    assert x is not None
    cond = tuple([made(c, c and c[2]) for c in given])
    kwargs = {name: made(c, c and c[2]) for name, c in named}
    request = Request(model, Refusal(()), x, cond, kind, "full", kwargs)
    key = _key(request)
    known = _compiled.get(model)
    if known is not None and known[0] == key and known[1].holds():
        found = known[2]
    else:
        found = _try(request, traced=True)
        _compiled[model] = (key, Fingerprint.of(model), found)
    return (tuple(found.reasons), found.kind, found.bytes_of_a_row, found.operations, found.whole, found.once)


def _key(request: Request) -> Any:
    x, cond = request.x, [(c.shape[1:], c.dtype) for c in conditions(request)]
    return x.shape[1:], x.dtype, x.device, request.kind, cond


def module_of(request: Request) -> nn.Module:
    """Return the model, which is a module."""
    assert isinstance(request.model, nn.Module)
    return request.model


def conditions(request: Request) -> list[Tensor]:
    """Return the tensors among the conditioning arguments, those by position first."""
    return [c for c in (*request.cond, *request.kwargs.values()) if c is not None]


def called(request: Request) -> Callable[..., Any]:
    """Return the model as a function of x and of the tensors among its conditioning arguments."""
    model, cond, kwargs = request.model, request.cond, request.kwargs

    def call(x: Tensor, *tensors: Tensor) -> Any:
        rest = iter(tensors)
        by_place = [None if c is None else next(rest) for c in cond]
        return model(x, *by_place, **{name: None if c is None else next(rest) for name, c in kwargs.items()})

    return call


def _try(request: Request, traced: bool = False) -> Trial:
    """Run the model on a few rows: as it is, with other data in the last row, and on jets; with equal random draws.

    Args:
        request: the call.
        traced: whether torch.compile must trace the model on jets, too.
    """
    importlib.import_module("fastssm.jets.table")  # the rules, which take time to register
    model, batch, call = module_of(request), len(request.x), called(request)
    x, cond = _rows(request.x, batch), [_rows(c, batch) for c in conditions(request)]
    buffers = [(b, b._version, b.detach().clone()) for b in model.buffers()]
    with _undisturbed(x), uncompiled(model):
        state = state_of(x)

        def run(x: Tensor) -> Any:
            restore(x, state)
            return call(x, *cond)

        try:
            try:
                output, moved = run(x.clone()), run(torch.cat([x[:-1], x[-1:] + 1.0]))
            except Exception as error:
                return Trial([FEW.format(ROWS, batch, f"{type(error).__name__}: {error}")])
            check_output(output)
            whole = (batch, *output.shape[1:]) if output.ndim and len(output) == len(x) else output.shape
            kind = kind_of_output(whole, request.x.shape, request.kind)
            drawn = not all(map(torch.equal, state_of(x), state))
            tape = Tape(ROWS, False, sized=not transformed())  # whose tensors have no storage
            reasons = _objections(model, lambda: run(tape.jet(x.clone(), _row_by_row(x))), output, moved)
            if traced and not reasons and not output.is_meta and not transformed():
                restore(x, state)
                reasons = objections_of_dynamo(call, x, cond, kind == "energy")
        finally:
            changed = [(b, before) for b, version, before in buffers if b._version != version]
            with torch.no_grad():
                for b, before in changed:
                    b.copy_(before)
    return Trial(reasons, kind, tape.bytes // ROWS, tape.size, bool(changed), drawn or bool(changed))


def _rows(t: Tensor, batch: int) -> Tensor:
    """Return the rows of the trial."""
    t = t.detach()
    if not t.ndim or len(t) != batch:
        return t
    return t[torch.arange(ROWS, device=t.device) % batch].clone() if batch else t.new_zeros(ROWS, *t.shape[1:])


def _row_by_row(x: Tensor) -> Tensor:
    """Return a direction for each row, which moves that row alone."""
    one = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return one.reshape(*one.shape, *[1] * (x.ndim - 1)).expand(-1, *x.shape)


@contextmanager
def _undisturbed(x: Tensor) -> Iterator[None]:
    """Differentiate as usual inside, and leave the random numbers as they were."""
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        yield


def _objections(model: nn.Module, on_jets: Callable[[], Any], output: Tensor, moved: Tensor) -> list[str]:
    try:
        jet = on_jets()
    except Exception as error:  # of a rule that a call does not fit, too
        reason = str(error) if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {error}"
        return [_where(model, error) + reason]
    if not isinstance(jet, Jet):
        return [CUT]
    if output.is_meta or transformed():
        return []
    reasons = [] if _same(moved[:-1], output[:-1]) and _apart(jet.tangents) else [COUPLED]
    return reasons if _same(jet.value, output) else [*reasons, OTHER]


def _apart(tangents: Tensor) -> bool:
    """Say whether each direction, which moves one row, moves the output of that row alone."""
    moves = tangents[..., None].flatten(2).nan_to_num(0.0).ne(0.0).any(2)
    return bool((moves == moves.diag().diag()).all())


def _same(found: Tensor, expected: Tensor) -> bool:
    """Compare to rounding, relative to the largest entry."""
    eps = torch.finfo(expected.dtype).eps
    if torch.is_autocast_enabled(expected.device.type):
        eps = max(eps, torch.finfo(torch.get_autocast_dtype(expected.device.type)).eps)
    tolerance = min(256 * eps, 0.25) * expected.abs().nan_to_num().max().item()
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True)


def _where(model: nn.Module, error: BaseException) -> str:
    """Name the innermost module in whose forward an error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            found = f"{names[id(owner)] or 'the model'} ({type(owner).__name__}): "
    return found
