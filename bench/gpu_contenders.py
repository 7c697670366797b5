"""The contenders of ``bench.gpu``: preparation on a device, tolerance and order."""

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

CHUNK = 2**22  # values of one layer per chunk of the exact answer: 32 MiB in float64
FIRST, COMPILED, CHEAP, REDUCED, JAX, REST = range(6)


class Step(NamedTuple):
    """A contender prepared on a problem.

    Attributes:
        call: starts one computation, possibly without waiting for it.
        read: converts the result of the call to a value and gradients.
        wait: waits for the result of the call if torch does not track it.
        on_stream: whether the work is on the stream of torch, where events track it.
    """

    call: Call
    read: Callable[[Any], Answer] = lambda result: Answer(*result)
    wait: Callable[[Any], object] = nothing
    on_stream: bool = True


@dataclass(frozen=True)
class Contender:
    """An implementation of the loss and its gradients.

    Attributes:
        prepare: function of a problem on the device; returns the step to time.
        rank: contenders of lower rank are measured first, on all sizes.
        tolerance: maximum relative error of a correct result.
        tf32: whether it runs with ``torch.backends.cuda.matmul.allow_tf32``.
        graphs: whether to try a CUDA graph.
        pool: whether it keeps memory between calls, so that the peak of one call is not meaningful.
        losses: supported losses.
        own_directions: whether it draws its directions.
        sizes: maximum number of sizes to run on.
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
    """Allow or forbid torch to round operands of float32 products to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def on(device: torch.device, p: Problem) -> Problem:
    """Return a copy of a problem on a device, with a separate network."""
    return p._replace(net=deepcopy(p.net).to(device), x=p.x.to(device), v=p.v.to(device))


def exact(p: Problem) -> Answer:
    """Return the float64 answer on the device of the problem, computed in chunks of the batch."""
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


def torch_loss(function: Callable[[Problem], Tensor]) -> Callable[[Problem], Step]:
    """Return an eager loss in PyTorch."""
    return lambda p: Step(eager(function)(p, BACKWARD).call)


def compiled(function: Callable[[Problem], Tensor], mode: str | None = None) -> Callable[[Problem], Step]:
    """Return a loss in PyTorch under ``torch.compile`` with static shapes."""
    return lambda p: Step(torch_step(p, BACKWARD, partial(torch.compile(function, dynamic=False, mode=mode), p)).call)


def reduce_overhead(p: Problem) -> Step:
    """Prepare compiled Taylor mode with the CUDA graphs of PyTorch; each call invalidates the previous result."""
    call = compiled(rivals.taylor, "reduce-overhead")(p).call

    def marked() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return call()

    return Step(marked)


def ours(backend: str, **options: Any) -> Callable[[Problem], Step]:
    """Return fastssm on a backend, which must be available."""
    return lambda p: Step(fastssm(backend, **options)(p, BACKWARD).call)


def graphed(p: Problem) -> Step:
    """Prepare the loss and backward pass of fastssm as a captured CUDA graph; a call is a replay."""
    require("cuda")
    graph, outputs = captured(ours("cuda")(p).call, p.x.device)

    def call() -> Any:
        graph.replay()
        return outputs

    return Step(call)


def jax_taylor(p: Problem) -> Step:
    """Prepare Taylor mode in JAX under ``jit``, with products in full float32."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax, rival = importlib.import_module("jax"), importlib.import_module("bench.jax_rivals")
    if p.x.is_cuda and jax.default_backend() != "gpu":
        raise NotImplementedError(f"jax has no GPU here, only {jax.default_backend()}")
    layers = [tuple(rival.array(t.cpu()) for t in (part.weight, part.bias)) for part in rivals.linears(p.net)]

    def loss_of(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return rival.taylor(p.case.activation, p.variance_reduced, *arguments)

    function = jax.jit(jax.value_and_grad(loss_of))
    x, v = rival.array(p.x.cpu()), rival.array(p.v.cpu())
    return Step(lambda: function(layers, x, v), rival.read, jax.block_until_ready, on_stream=False)


SSM = LOSSES[:1]
OURS = "fastssm cuda"
BRIDGES = (OURS, "fastssm torch")
CONTENDERS = {
    OURS: Contender(ours("cuda"), FIRST),
    "fastssm cuda, graph": Contender(graphed, FIRST, graphs=False, pool=True),
    "autograd": Contender(torch_loss(rivals.autograd), FIRST),
    "Taylor + compile": Contender(compiled(rivals.taylor), COMPILED, graphs=False),
    "Taylor": Contender(torch_loss(rivals.taylor)),
    "fastssm torch": Contender(torch_loss(partial(loss, backend="torch"))),
    "fastssm cuda, own directions": Contender(ours("cuda", own_directions=True), own_directions=True),
    "fastssm cuda, allow_tf32": Contender(ours("cuda"), tolerance=0.02, tf32=True),
    "fastssm cuda tf32": Contender(ours("cuda", precision="tf32"), tolerance=0.02),
    "fastssm cuda bf16": Contender(ours("cuda", precision="bf16"), tolerance=0.1),
    "fastssm cuda split": Contender(ours("cuda", precision="split")),
    "FD-SSM": Contender(torch_loss(rivals.finite_differences), tolerance=1.0, losses=SSM),
    "Taylor + compile, reduce-overhead": Contender(reduce_overhead, REDUCED, graphs=False, pool=True, sizes=4),
    "JAX Taylor": Contender(jax_taylor, JAX, graphs=False, pool=True),
    "Taylor + compile, allow_tf32": Contender(
        compiled(rivals.taylor), REST, tolerance=0.02, tf32=True, graphs=False, sizes=7
    ),
    "FD-SSM + compile": Contender(
        compiled(rivals.finite_differences), REST, tolerance=1.0, graphs=False, losses=SSM, sizes=7
    ),
}
