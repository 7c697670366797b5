"""The table of contenders: a name, how to prepare the timed step, and what is known about it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bench import packages, rivals, yardsticks
from bench.ours import drawn, fastssm, loss
from bench.problems import Problem
from bench.steps import Prepare, Step, compiled, eager, prepared

EXACT = 1e-3
"""Largest relative error of an exact contender in float32 (typically 1e-6; the slack is for cancelling values)."""


@dataclass(frozen=True)
class Contender:
    """One way to compute the loss.

    Attributes:
        prepare: from a problem and a mode to the step that is timed.
        compiled: whether ``torch.compile`` is in it; such contenders run in processes of their own.
        tolerance: largest relative error with which it still counts as right.
        own_directions: draws its own directions: from a problem to the ones the next call will use.
    """

    prepare: Prepare
    compiled: bool = False
    tolerance: float = EXACT
    own_directions: Callable[[Problem], Tensor] | None = None


def jax_rival(name: str) -> Prepare:
    """One of ``bench.jax_rivals``, which imports JAX."""

    def prepare(p: Problem, mode: str) -> Step:
        step: Step = importlib.import_module("bench.jax_rivals").step(name, p, mode)
        return step

    return prepare


RIVALS = {
    "autograd": Contender(eager(rivals.autograd, grad_mode=True)),
    "func.vjp + compile": Contender(compiled(rivals.func_vjp), compiled=True),
    "jvp(grad)": Contender(eager(rivals.jvp_grad)),
    "Taylor": Contender(eager(rivals.taylor)),
    "Taylor + compile": Contender(compiled(rivals.taylor), compiled=True),
    "FD-SSM": Contender(eager(rivals.finite_differences), tolerance=1.0),
    "FD-SSM + compile": Contender(compiled(rivals.finite_differences), compiled=True, tolerance=1.0),
    "torchebm": Contender(prepared(packages.torchebm, grad_mode=True)),
    "ebmkit": Contender(prepared(packages.ebmkit, grad_mode=True)),
    "jet-for-pytorch": Contender(prepared(packages.jet)),
}
JAX_RIVALS = {f"JAX {name}": Contender(jax_rival(name)) for name in ("jvp(grad)", "jvp(jvp)", "Taylor")}
TORCH_PATH = {
    "fastssm torch": Contender(eager(partial(loss, backend="torch"))),
    "fastssm torch, own directions": Contender(fastssm("torch", own_directions=True), own_directions=drawn),
    "fastssm torch + compile": Contender(compiled(partial(loss, backend="torch")), compiled=True),
}
NATIVE = {
    "fastssm cpu": Contender(fastssm("cpu")),
    "fastssm cpu, own directions": Contender(fastssm("cpu", own_directions=True), own_directions=drawn),
    "fastssm cpu bf16": Contender(fastssm("cpu", precision="bf16"), tolerance=0.1),
}
PEAK, PEAK_BF16, GEMMS = "FMA peak", "FMA peak bf16", "bare GEMMs"
YARDSTICKS = {
    GEMMS: Contender(yardsticks.bare_gemms),
    PEAK: Contender(yardsticks.peak("float32")),
    PEAK_BF16: Contender(yardsticks.peak("bfloat16")),
}
CONTENDERS = RIVALS | JAX_RIVALS | TORCH_PATH | NATIVE | YARDSTICKS
