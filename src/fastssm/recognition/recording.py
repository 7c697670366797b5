"""Run a model once on a few rows and record it, leaving the model, its buffers and every generator as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastssm.recognition.network import parametrized
from fastssm.recognition.tape import Stop, Tape, version

_BATCHES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
RANDOM = "its forward draws random numbers; a loss needs a deterministic function"
TWICE = "its parametrized {name} is used more than once in a forward; use it once, or keep it in a variable"
CHANGED = "its forward changes a buffer or an attribute of the model; move that out of forward"
OUTPUT = "its forward returns {kind}, not one tensor"

_lock = threading.RLock()


class Recording(NamedTuple):
    """One run of a model: its tape, the node of its output, the size of its batch, and the data that entered."""

    tape: Tape
    output: int
    batch: int
    point: Tensor


def batches_for(model: nn.Module, x: Tensor, cond: Sequence[Tensor | None]) -> list[int]:
    """Return two sizes of a batch that are no other size in the model and its data."""
    sizes = {size for t in (*model.parameters(), *model.buffers()) for size in t.shape}
    sizes |= {size for t in (x, *cond) if t is not None for size in t.shape[1:]} | {x[0].numel() if len(x) else 0}
    return [size for size in _BATCHES if size not in sizes][:2]


def rows_of(t: Tensor, batch: int, count: int) -> Tensor:
    """Return `count` rows of a tensor by repeating its own; of an empty one, zeros."""
    t = t.detach()
    if t.ndim == 0 or t.shape[0] not in (batch, 1):
        return t.clone()
    if t.shape[0] == 0:
        return t.new_zeros((count, *t.shape[1:]))
    return t[torch.arange(count, device=t.device) % t.shape[0]].clone()


def record(
    model: nn.Module,
    modules: Sequence[nn.Module],
    names: Sequence[str],
    x: Tensor,
    cond: Sequence[Tensor | None],
    keywords: Sequence[str],
    batch: int,
) -> Recording:
    """Record `model(x, *cond)` on `batch` rows; the last of cond are passed by name.

    Raises:
        Stop: with the reason why it cannot be recorded faithfully.
    """
    with _lock, ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), _generators(x), _plain(model, x)):
            stack.enter_context(context)
        point = rows_of(x, len(x), batch).requires_grad_()
        given = [None if c is None else rows_of(c, len(x), batch) for c in cond]
        stack.enter_context(_unchanged(modules))
        seeds = stack.enter_context(_seeded(modules))
        tape = Tape(modules, names, {id(t): place for place, t in seeds.items()})
        tape.enter(point, "x")
        for index, c in enumerate(given):
            if c is not None:
                tape.enter(c, "cond", index)
        entered = point.clone()  # a copy: the model may work in place
        tape.index[id(entered)] = 0, version(entered)
        tape.nodes[0].value = entered
        stack.enter_context(tape)
        first = len(given) - len(keywords)
        output = model(entered, *given[:first], **dict(zip(keywords, given[first:], strict=True)))
        if not isinstance(output, Tensor):
            raise Stop(OUTPUT.format(kind=type(output).__name__))
        found = tape.at(output)
        if found is None:
            raise Stop(
                "its output was made by no recorded function: by a custom autograd.Function or NumPy, for example"
            )
        _check_graph(tape)
        return Recording(tape, found, batch, point)


def _check_graph(tape: Tape) -> None:
    """Refuse a graph that something else than the recorded functions has changed."""
    for node in tape.nodes:
        if node.depends and isinstance(node.value, Tensor) and node.value._backward_hooks:
            raise Stop("its forward registers a hook on a tensor, and the fused path would not call it")


@contextmanager
def _generators(x: Tensor) -> Iterator[None]:
    """Give the random generators back as they were; refuse a model that draws."""
    cuda = x.is_cuda
    before = torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if cuda else None
    try:
        yield
        drawn = not torch.equal(torch.get_rng_state(), before[0])
        drawn = drawn or (cuda and not torch.equal(torch.cuda.get_rng_state(x.device), before[1]))  # type: ignore[arg-type]
        if drawn:
            raise Stop(RANDOM)
    finally:
        torch.set_rng_state(before[0])
        if before[1] is not None:
            torch.cuda.set_rng_state(before[1], x.device)


@contextmanager
def _plain(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Turn autocast off, and run modules that `torch.compile` has compiled as they are written."""
    compiled = any(m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule" for m in model.modules())
    with (
        torch.autocast(x.device.type, enabled=False),
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
    ):
        yield


@contextmanager
def _unchanged(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Give every module its state back, and refuse a forward that changed it."""
    before = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in modules]
    tensors = [(t, version(t), t.detach().clone()) for m in modules for t in m._buffers.values() if t is not None]
    try:
        yield
    finally:
        changed = False
        for module, own, parameters, buffers in before:
            pairs: list[tuple[Any, Any]] = [(module.__dict__, own), (module._parameters, parameters)]
            for now, was in [*pairs, (module._buffers, buffers)]:
                if not _identical(now, was):
                    changed = True
                    now.clear()
                    now.update(was)
        with torch.no_grad():
            for t, before_it, copy in tensors:
                if version(t) != before_it:
                    changed = True
                    t.copy_(copy)
    if changed:
        raise Stop(CHANGED)


def _identical(now: dict[str, Any], was: dict[str, Any]) -> bool:
    return [*now] == [*was] and all(a is b for a, b in zip(now.values(), was.values(), strict=True))


class _Seeds(dict[tuple[int, str], Tensor]):
    """A cache of parametrized tensors that gives one thread what it was made with, and keeps nothing else."""

    def __init__(self, before: dict[Any, Any], seeds: dict[tuple[int, str], Tensor]) -> None:
        super().__init__(seeds)
        self.before, self.thread = before, threading.get_ident()
        self.reads: dict[tuple[int, str], int] = {}

    def get(self, key: Any, default: Any = None) -> Any:
        if threading.get_ident() != self.thread or key not in self:
            return self.before.get(key, default)
        self.reads[key] = self.reads.get(key, 0) + 1
        if self.reads[key] > 1 and parametrize._cache_enabled == 1:
            raise Stop(TWICE.format(name=key[1]))
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if parametrize._cache_enabled > 1:
            self.before[key] = value


@contextmanager
def _seeded(modules: Sequence[nn.Module]) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Let parametrized tensors be attributes: evaluate each once beforehand, and undo what that changes."""
    places: dict[tuple[int, str], Tensor] = {}
    seeds: dict[tuple[int, str], Tensor] = {}
    for index, module in enumerate(modules):
        if parametrized(module):
            for name in module._modules["parametrizations"]._modules:  # type: ignore[union-attr]
                value = _evaluated(module, name)
                places[index, name] = seeds[id(module), name] = value
    if not seeds:
        yield places
        return
    before, ours = parametrize._cache, _Seeds(parametrize._cache, seeds)
    parametrize._cache = ours  # type: ignore[assignment]
    parametrize._cache_enabled += 1
    try:
        yield places
    finally:
        parametrize._cache, parametrize._cache_enabled = before, parametrize._cache_enabled - 1


def _evaluated(module: nn.Module, name: str) -> Tensor:
    """Return a parametrized tensor, with a power iteration undone."""
    buffers = [(b, b.detach().clone()) for b in module._modules["parametrizations"].buffers()]  # type: ignore[union-attr]
    value: Tensor = getattr(module, name)
    with torch.no_grad():
        for buffer, copy in buffers:
            if not torch.equal(buffer, copy):
                buffer.copy_(copy)
    return value.clone()  # another tensor than the parameter, if nothing is done to it
