"""Contenders of ``bench.networks``, each prepared for a problem, and the answers that judge them."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import packages, rivals
from bench.networks_nets import Network
from bench.ours import loss
from bench.problems import EXACT_LOSS, Answer, Case, Problem, Size, basis, gradient_error, relative_error
from bench.steps import BACKWARD, Step, torch_step

DOUBLE, DOUBLE_COMPILED = "double backward", "double backward, compiled"
JETS, JETS_COMPILED = "fastssm jets", "fastssm jets, compiled"
TOLERANCE, TOLERANCE_64 = 1e-3, 1e-9  # of the largest relative error, in float32 and in float64
SEED, FEW = 0, 2


class Setting(NamedTuple):
    """A network with its data.

    Attributes:
        net: as people write it.
        flat: the same on rows of numbers, with every derivative right under autograd; conditioned on the times.
        x, v: data `[B, ...]` and directions `[M, B, ...]`.
        cond: the times, if the network takes them.
        loss: one of ``LOSSES``, or ``EXACT_LOSS``.
        kind: "energy" or "score".
    """

    net: nn.Module
    flat: nn.Module
    x: Tensor
    v: Tensor
    cond: tuple[Tensor, ...]
    loss: str
    kind: str

    def problem(self) -> Problem:
        """Return the flat network with rows of numbers, for contenders that take those alone."""
        x = self.x.flatten(1)
        case = Case(Size(x.shape[1], 1, 1, len(x), len(self.v)), kind=self.kind)
        return Problem(self.flat, x, self.v.flatten(2), self.loss, case)


class Flat(nn.Module):
    """A network of rows of numbers."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...], cond: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.net, self.shape, self.cond = net, shape, cond

    def forward(self, x: Tensor) -> Tensor:
        """Return rows of numbers."""
        output: Tensor = self.net(x.reshape(-1, *self.shape), *self.cond)
        return output.flatten(1)


def setting(network: Network, which: str, M: int, B: int | None = None, dtype: torch.dtype = torch.float32) -> Setting:
    """Draw a problem; every dtype gets the same rounded numbers."""
    count, d = B or network.B, prod(network.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net, written = network.build(False), network.build(True)
        written.load_state_dict(net.state_dict())
        x, t = torch.randn(count, *network.shape), torch.rand(count)
        v = basis(Size(d, 1, 1, count, M)) if which == EXACT_LOSS else torch.randn(M, count, d).sign()
    cond = (t.to(dtype),) if network.timed else ()
    flat = Flat(written.to(dtype), network.shape, cond)
    return Setting(net.to(dtype), flat, x.to(dtype), v.view(-1, *x.shape).to(dtype), cond, which, network.kind)


def double_backward(p: Problem) -> Tensor:
    """Plain autograd: the score once, and one more derivative along each direction."""
    x = p.x.detach().requires_grad_()
    score = rivals.score_at(p, x)
    total = rivals.squared_norm(score).mul(0.5).mean() if p.loss != "SSM" else score.new_zeros(())
    for v in p.v:
        projected = (score * v).sum(-1)
        (row,) = torch.autograd.grad(projected.sum(), x, create_graph=True)
        each = (row * v).sum(-1)
        total = total + (each if p.loss != "SSM" else each + projected.square() / 2).mean() / len(p.v)
    return total


def jets(s: Setting) -> Tensor:
    return loss(own_problem(s), backend="jets", cond=s.cond, kind=s.kind)


def own_problem(s: Setting) -> Problem:
    return s.problem()._replace(net=s.net, x=s.x, v=s.v)


def plain(s: Setting) -> Step:
    p = s.problem()
    return torch_step(p, BACKWARD, partial(double_backward, p))


def plain_compiled(s: Setting) -> Step:
    p = s.problem()
    return torch_step(p, BACKWARD, partial(torch.compile(rivals.func_vjp, dynamic=False, fullgraph=True), p))


def ours(s: Setting) -> Step:
    return torch_step(own_problem(s), BACKWARD, partial(jets, s))


def ours_compiled(s: Setting) -> Step:
    compiled = torch.compile(jets, dynamic=False, fullgraph=True)
    return torch_step(own_problem(s), BACKWARD, partial(compiled, s))


def package(prepare: Callable[[Problem], Callable[[], Tensor]]) -> Callable[[Setting], Step]:
    """Return a contender of ``bench.packages``, which takes an energy of rows of numbers."""

    def step(s: Setting) -> Step:
        p = s.problem()
        return torch_step(p, BACKWARD, prepare(p))

    return step


CONTENDERS: dict[str, Callable[[Setting], Step]] = {
    DOUBLE: plain,
    DOUBLE_COMPILED: plain_compiled,
    "torchebm": package(packages.torchebm),
    "ebmkit": package(packages.ebmkit),
    "jet-for-pytorch": package(packages.jet),
    JETS: ours,
    JETS_COMPILED: ours_compiled,
}
COMPILED = (DOUBLE_COMPILED, JETS_COMPILED)


def exact(s: Setting) -> Answer:
    """Return the answer by double backward in float64."""
    p = s.problem()
    wide = p._replace(net=deepcopy(p.net).double(), x=p.x.double(), v=p.v.double())
    wide.net.cond = tuple(c.double() for c in s.cond)
    return Answer(*torch_step(wide, BACKWARD, partial(double_backward, wide)).call())


def errors(found: Answer, wanted: Answer) -> dict[str, Any]:
    return {"max_rel_error": relative_error(found, wanted), "gradient_error": gradient_error(found, wanted)}


def error_in_float64(name: str, network: Network, which: str, M: int) -> float:
    """Return the largest relative error of a contender in float64, on a few samples."""
    few = setting(network, which, M, min(FEW, network.B), torch.float64)
    return relative_error(Answer(*CONTENDERS[name](few).call()), exact(few))
