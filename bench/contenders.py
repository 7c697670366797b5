"""The table of contenders: name, preparation of the timed step, and properties."""

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
"""Maximum relative error of an exact contender in float32. Typical errors are 1e-6; cancellation needs a margin."""


@dataclass(frozen=True)
class Contender:
    """An implementation of the loss.

    Attributes:
        prepare: function of a problem and a mode; returns the step to time.
        compiled: whether it uses ``torch.compile``; such contenders run in separate processes.
        tolerance: maximum relative error of a correct result.
        own_directions: for contenders that draw directions, a function of a problem that returns the next ones.
    """

    prepare: Prepare
    compiled: bool = False
    tolerance: float = EXACT
    own_directions: Callable[[Problem], Tensor] | None = None


def jax_rival(name: str) -> Prepare:
    """Return a contender of ``bench.jax_rivals``, which imports JAX."""

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
