"""The contenders of ``bench.gpu``: how each is prepared on a device, how right it must be, and when its turn comes."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import rivals
from bench.contenders import EXACT
from bench.gpu_clocks import Call, captured, nothing
from bench.ours import fastssm, loss, require
from bench.problems import LOSSES, Answer, Problem, exact_answer
from bench.steps import BACKWARD, eager, torch_step

CHUNK = 2**22  # values of one layer that the exact answer takes at once: 32 MiB in float64
FIRST, COMPILED, CHEAP, REDUCED, JAX, REST = range(6)


class Step(NamedTuple):
    """A contender prepared on a problem.

    Attributes:
        call: starts one computation, and need not wait for it.
        read: from what the call returns to a value and gradients.
        wait: waits for what the call returned, where torch does not know of it.
        on_stream: whether the work is on torch's stream, where its events see it.
    """

    call: Call
    read: Callable[[Any], Answer] = lambda result: Answer(*result)
    wait: Callable[[Any], object] = nothing
    on_stream: bool = True


@dataclass(frozen=True)
class Contender:
    """One way to compute the loss and its gradients.

    Attributes:
        prepare: from a problem on the device to the step that is timed.
        rank: contenders of a lower rank are measured first, on all sizes.
        tolerance: largest relative error with which it counts as right.
        tf32: whether it runs under ``torch.backends.cuda.matmul.allow_tf32``.
        graphs: whether a CUDA graph of it is worth a try.
        pool: whether it keeps memory of its own between calls, so that the peak of one says nothing.
        losses: those that it has.
        own_directions: whether it draws its own.
        sizes: how many sizes it runs on at most.
    """

    prepare: Callable[[Problem], Step]
    rank: int = CHEAP
    tolerance: float = EXACT
    tf32: bool = False
    graphs: bool = True
    pool: bool = False
    losses: tuple[str, ...] = LOSSES
    own_directions: bool = False
    sizes: int = 1000


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let torch round the operands of float32 products to TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def on(device: torch.device, p: Problem) -> Problem:
    """Return a copy of a problem on a device, with a network of its own."""
    return p._replace(net=deepcopy(p.net).to(device), x=p.x.to(device), v=p.v.to(device))


def exact(p: Problem) -> Answer:
    """Return the float64 answer on the device of the problem, a part of the batch at a time."""
    rows = max(1, CHUNK // p.case.size.H)
    parts = [
        (len(x) / len(p.x), exact_answer(p._replace(x=x, v=v)))
        for x, v in zip(p.x.split(rows), p.v.split(rows, dim=1), strict=True)
    ]
    gradients = zip(*(part.gradients for _, part in parts), strict=True)
    shares = [share for share, _ in parts]
    value = weighted(shares, [part.value for _, part in parts])
    return Answer(value, tuple(weighted(shares, list(column)) for column in gradients))


def weighted(shares: list[float], parts: list[Tensor]) -> Tensor:
    total = parts[0] * shares[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        total += share * part
    return total


def torch_way(function: Callable[[Problem], Tensor]) -> Callable[[Problem], Step]:
    """A loss in PyTorch, eager."""
    return lambda p: Step(eager(function)(p, BACKWARD).call)


def compiled(function: Callable[[Problem], Tensor], mode: str | None = None) -> Callable[[Problem], Step]:
    """A loss in PyTorch under ``torch.compile``, with static shapes."""
    return lambda p: Step(torch_step(p, BACKWARD, partial(torch.compile(function, dynamic=False, mode=mode), p)).call)


def reduce_overhead(p: Problem) -> Step:
    """Compiled Taylor mode in CUDA graphs of PyTorch's own making; each call gives up the last one's results."""
    call = compiled(rivals.taylor, "reduce-overhead")(p).call

    def marked() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return call()

    return Step(marked)


def ours(backend: str, **options: Any) -> Callable[[Problem], Step]:
    """The library on a backend, which must be there."""
    return lambda p: Step(fastssm(backend, **options)(p, BACKWARD).call)


def graphed(p: Problem) -> Step:
    """The library's whole loss and backward pass, captured once; a call is a replay."""
    require("cuda")
    graph, outputs = captured(ours("cuda")(p).call, p.x.device)

    def call() -> Any:
        graph.replay()
        return outputs

    return Step(call)


def jax_taylor(p: Problem) -> Step:
    """Taylor mode in JAX under ``jit``, every product in full float32."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax, ways = importlib.import_module("jax"), importlib.import_module("bench.jax_rivals")
    if p.x.is_cuda and jax.default_backend() != "gpu":
        raise NotImplementedError(f"jax has no GPU here, only {jax.default_backend()}")
    layers = [tuple(ways.array(t.cpu()) for t in (part.weight, part.bias)) for part in rivals.linears(p.net)]

    def loss_of(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return ways.taylor(p.case.activation, p.variance_reduced, *arguments)

    function = jax.jit(jax.value_and_grad(loss_of))
    x, v = ways.array(p.x.cpu()), ways.array(p.v.cpu())
    return Step(lambda: function(layers, x, v), ways.read, jax.block_until_ready, on_stream=False)


SSM = LOSSES[:1]
OURS = "fastssm cuda"
BRIDGES = (OURS, "fastssm torch")
CONTENDERS = {
    OURS: Contender(ours("cuda"), FIRST),
    "fastssm cuda, graph": Contender(graphed, FIRST, graphs=False, pool=True),
    "autograd": Contender(torch_way(rivals.autograd), FIRST),
    "Taylor + compile": Contender(compiled(rivals.taylor), COMPILED, graphs=False),
    "Taylor": Contender(torch_way(rivals.taylor)),
    "fastssm torch": Contender(torch_way(partial(loss, backend="torch"))),
    "fastssm cuda, own directions": Contender(ours("cuda", own_directions=True), own_directions=True),
    "fastssm cuda, allow_tf32": Contender(ours("cuda"), tolerance=0.02, tf32=True),
    "fastssm cuda tf32": Contender(ours("cuda", precision="tf32"), tolerance=0.02),
    "fastssm cuda bf16": Contender(ours("cuda", precision="bf16"), tolerance=0.1),
    "FD-SSM": Contender(torch_way(rivals.finite_differences), tolerance=1.0, losses=SSM),
    "Taylor + compile, reduce-overhead": Contender(reduce_overhead, REDUCED, graphs=False, pool=True, sizes=4),
    "JAX Taylor": Contender(jax_taylor, JAX, graphs=False, pool=True),
    "Taylor + compile, allow_tf32": Contender(
        compiled(rivals.taylor), REST, tolerance=0.02, tf32=True, graphs=False, sizes=7
    ),
    "FD-SSM + compile": Contender(
        compiled(rivals.finite_differences), REST, tolerance=1.0, graphs=False, losses=SSM, sizes=7
    ),
}
