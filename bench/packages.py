"""Published packages as contenders; each function prepares a problem and returns the call to time."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.problems import Problem
from bench.rivals import as_tensor, energies_only, sliced, squared_norm, trainable


def torchebm(p: Problem) -> Callable[[], Tensor]:
    """``torchebm.losses.SlicedScoreMatching`` with the given directions."""
    energies_only(p)
    if p.variance_reduced:
        raise NotImplementedError("torchebm 0.8 has no variance-reduced sliced loss")
    loss = importlib.import_module("torchebm.losses").SlicedScoreMatching(
        p.net, n_projections=len(p.v), dtype=p.x.dtype, device="cpu"
    )
    directions = p.v.reshape(-1, p.v.shape[-1])
    loss._get_random_projections = lambda shape, generator=None: directions
    return lambda: as_tensor(loss(p.x))


def ebmkit(p: Problem) -> Callable[[], Tensor]:
    """``ebm.losses.SlicedScoreMatching`` with the given directions."""
    energies_only(p)
    loss = importlib.import_module("ebm.losses").SlicedScoreMatching(n_projections=len(p.v), vr=p.variance_reduced)

    def call() -> Tensor:
        with _given_directions(p.v):
            return as_tensor(loss(p.net, p.x).loss)

    return call


def jet(p: Problem) -> Callable[[], Tensor]:
    """Collapsed Taylor mode of jet-for-pytorch, plus autograd for the score of SSM-VR."""
    energies_only(p)
    module = importlib.import_module("jet")
    _register_activations()
    transformed, zero = module.jet(p.net, (p.x,), collapsed=True), torch.zeros_like(p.x)

    def call() -> Tensor:
        _, slopes, curvature = transformed((p.x, p.v, zero))
        sqnorm = _score_sqnorm(p) if p.variance_reduced else None
        return sliced(-curvature.squeeze(-1)[None] / len(p.v), slopes.squeeze(-1), sqnorm)

    return call


def _score_sqnorm(p: Problem) -> Tensor:
    x = p.x.detach().requires_grad_()
    with torch.enable_grad():
        return squared_norm(torch.autograd.grad(p.net(x).sum(), x, create_graph=trainable(p.net))[0])


@contextmanager
def _given_directions(v: Tensor) -> Iterator[None]:
    """Make ``torch.randn_like`` return the given directions, one per call; ebmkit has no other entry for them."""
    original, remaining = torch.randn_like, iter(v)
    torch.randn_like = lambda *args, **kwargs: next(remaining)
    try:
        yield
    finally:
        torch.randn_like = original


def _register_activations() -> None:
    """Register softplus and SiLU with jet-for-pytorch, which lacks them; their derivatives come from the sigmoid."""
    rules, primitives = importlib.import_module("jet._rules"), importlib.import_module("jet.primitives")

    def softplus(x: Tensor, order: int) -> dict[int, Tensor]:
        sigmoid = primitives._sigmoid_derivatives(x, order - 1)
        return {0: F.softplus(x)} | {k: sigmoid[k - 1] for k in range(1, order + 1)}

    def silu(x: Tensor, order: int) -> dict[int, Tensor]:
        sigmoid = primitives._sigmoid_derivatives(x, order)
        return {0: F.silu(x)} | {k: x * sigmoid[k] + k * sigmoid[k - 1] for k in range(1, order + 1)}

    for operator, derivatives in ((torch.ops.aten.softplus.default, softplus), (torch.ops.aten.silu.default, silu)):
        rule = rules._defelementwise(derivatives)[False]  # one rule for both modes; options keep their defaults
        rules.RULES.setdefault(operator, rules._defshared(lambda x, *defaults, rule=rule: rule(x)))
