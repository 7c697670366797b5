"""Preconditioned score matching: against plain autograd, whitened coordinates, closed forms, and the domains' loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.domains import Box, Halfspaces, Weight
from fastssm.nn import MLP
from tests import oracle, oracle_weights

B, D, M = 6, 3, 2
BACKENDS = ("torch", "reference", *compiled.DEVICES)


def diagonal(x: Tensor) -> Tensor:
    """Every entry depends on every coordinate."""
    return (0.5 * x @ torch.tensor([[0.3, 1.0, -0.5], [0.2, 0.4, 0.1], [-0.6, 0.2, 0.7]], dtype=x.dtype)).exp()


def matrix(x: Tensor) -> Tensor:
    outer = (x[:, :, None] * x[:, None, :]).sin() / 4
    return torch.diag_embed(1 + diagonal(x)) + outer


PRECONDS: dict[str, Tensor | Callable[[Tensor], Tensor]] = {
    "constant diagonal": torch.tensor([0.5, 2.0, 1.0]).double(),
    "constant matrix": torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.7]]).double(),
    "diagonal": diagonal,
    "matrix": matrix,
}
FORMS: dict[str, dict[str, object]] = {"vr": {}, "ssm": {"variance_reduced": False}, "exact": {"exact": True}}


def problem(kind: str = "energy") -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    net = MLP(D, [5, 4], 1 if kind == "energy" else D, "silu").double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    return net, torch.randn(B, D, dtype=torch.float64), torch.randn(M, B, D, dtype=torch.float64)


def full(precond: Tensor | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a metric of any form as a function to matrices `[B, D, D]`, which follows x."""

    def matrices(x: Tensor) -> Tensor:
        d = precond(x) if callable(precond) else precond.expand(len(x), *precond.shape)
        d = d + 0.0 * x.sum()
        return torch.diag_embed(d) if d.ndim == 2 else d

    return matrices


EQUAL = [
    *((name, "energy", form, "torch") for name in PRECONDS for form in FORMS),
    *(("matrix", kind, form, backend) for kind in ("energy", "score") for form in FORMS for backend in BACKENDS[1:]),
    *(("constant diagonal", "score", "vr", backend) for backend in BACKENDS),
]


@pytest.mark.parametrize(("name", "kind", "form", "backend"), EQUAL)
def test_value_and_gradients_are_those_of_plain_autograd(name: str, kind: str, form: str, backend: str) -> None:
    net, x, v = problem(kind)
    given = {} if form == "exact" else {"v": v}
    weight = torch.rand(B, dtype=torch.float64)
    loss = fastssm.preconditioned_loss(
        net, x, precond=PRECONDS[name], backend=backend, weight=weight, **FORMS[form], **given
    )
    other = copy.deepcopy(net)
    each = oracle_weights.generalized(other, x, v, full(PRECONDS[name]), energy=kind == "energy", form=form)
    expected = oracle.reduced(each, weight, "mean")
    grads = torch.autograd.grad(loss, list(net.parameters()))
    oracle.assert_close([loss, *grads], [expected, *oracle.gradients(expected, other.parameters())], 1e-10, name)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("name", ["constant diagonal", "constant matrix"])
def test_a_constant_matrix_is_ssm_in_whitened_coordinates(name: str, variance_reduced: bool) -> None:
    """`x' = B^-1 x`, whose energy is `E(B x')`: the same value, and the same gradients, that of x included."""
    net, x, v = problem()
    d = PRECONDS[name]
    b = torch.linalg.cholesky(torch.diag(d) if d.ndim == 1 else d)
    options = {"v": v, "variance_reduced": variance_reduced}
    x = x.requires_grad_()
    found = fastssm.preconditioned_loss(net, x, precond=d, **options)
    colour = nn.Linear(D, D, bias=False).double()
    colour.weight = nn.Parameter(b, requires_grad=False)
    whitened = torch.linalg.solve(b, x.mT).mT
    expected = fastssm.sliced_loss(
        nn.Sequential(colour, net.hidden[0], net.activations[0], net.hidden[1], net.activations[1], net.readout),
        whitened,
        **options,
    )
    leaves = [x, *net.parameters()]
    grads = [torch.autograd.grad(loss, leaves) for loss in (found, expected)]
    oracle.assert_close([found, *grads[0]], [expected, *grads[1]], 1e-10)


def test_a_gaussian_on_paper() -> None:
    """`s = -A (x - m)`, `J = -A`: `loss = (x-m) A D A (x-m) / 2 - tr(D A)`."""
    _, x, _ = problem()
    root = torch.randn(D, D, dtype=torch.float64)
    a, mean, d = root @ root.mT, torch.randn(D, dtype=torch.float64), PRECONDS["constant matrix"]
    net = nn.Linear(D, D).double()
    net.weight.data, net.bias.data = -a, a @ mean
    found = fastssm.preconditioned_loss(net, x, precond=d, exact=True, reduction="none")
    torch.testing.assert_close(found, torch.einsum("bi,ij,bj->b", x - mean, a @ d @ a, x - mean) / 2 - (d @ a).trace())


def test_the_divergence_by_hand_is_the_one_found() -> None:
    """`D = (1 + |x|^2) I`: `div D = 2 x`; and leaving it out is another loss."""
    net, x, v = problem()

    def precond(x: Tensor) -> Tensor:
        return 1 + x.square().sum(1, keepdim=True).expand_as(x)

    automatic = fastssm.preconditioned_loss(net, x, precond=precond, v=v)
    for given in (lambda x: 2 * x, 2 * x):
        torch.testing.assert_close(
            fastssm.preconditioned_loss(net, x, precond=precond, divergence=given, v=v), automatic
        )
    zero = fastssm.preconditioned_loss(net, x, precond=precond, divergence=torch.zeros(D).double(), v=v)
    assert abs(float(zero - automatic)) > 1e-3


def test_a_domain_is_a_preconditioner() -> None:
    """`D = diag(g)`."""
    net, x, v = problem()
    x = x.sigmoid()
    found = fastssm.domain_loss(net, x, domain=Box(0.0, 1.0), h=Weight("power", 2.0), v=v)
    expected = fastssm.preconditioned_loss(net, x, precond=lambda x: torch.minimum(x, 1 - x).square(), v=v)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_is_unbiased(variance_reduced: bool) -> None:
    net, x, _ = problem()
    count = 20_000
    options = {"precond": matrix, "variance_reduced": variance_reduced, "generator": torch.Generator().manual_seed(1)}
    each = fastssm.preconditioned_loss(net.requires_grad_(False), x[:1].expand(count, D), reduction="none", **options)
    exact = fastssm.preconditioned_loss(net, x[:1], precond=matrix, exact=True)
    error = float(each.std()) / math.sqrt(count)
    assert error < 0.03 * abs(float(exact))
    assert abs(float(each.mean() - exact)) < 5 * error


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_the_weights_alone(backend: str) -> None:
    net, x, v = problem()
    net, x, v = net.float(), x.float(), v.float()
    faces = Halfspaces(torch.randn(4, D), torch.full((4,), 99.0))
    for loss, more in (
        (fastssm.preconditioned_loss, {"precond": PRECONDS["constant matrix"].float()}),
        (
            fastssm.preconditioned_loss,
            {"precond": lambda x: torch.eye(D) + 0.1 * (x @ x.mT).sum().expand(B, 1, 1)},
        ),
        (fastssm.domain_loss, {"domain": faces, "h": Weight("tanh", 0.02)}),
    ):
        plain = loss(net, x, v=v, backend=backend, **more)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(net, x, v=v, backend=backend, **more)
        assert found.item() == pytest.approx(plain.item(), rel=1e-5 if backend != "reference" else 0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(half: torch.dtype, backend: str) -> None:
    net, x, v = problem()
    net, x, v = net.to(half), x.sigmoid().to(half), v.to(half)
    options: dict[str, object] = {"v": v, "backend": backend}
    for loss, more in (
        (fastssm.preconditioned_loss, {"precond": PRECONDS["constant matrix"]}),
        (fastssm.preconditioned_loss, {"precond": diagonal}),
        (fastssm.domain_loss, {"domain": Box(0.0, 1.0)}),
    ):
        found = loss(net, x, **options, **more)
        assert found.dtype == torch.float32
        exact = loss(copy.deepcopy(net).float(), x.float(), v=v.float(), **more)
        assert found.item() == pytest.approx(exact.item(), rel=0.05, abs=0.02)


def test_terms_no_grad_and_the_twin() -> None:
    net, x, v = problem()
    loss, terms = fastssm.preconditioned_loss(net, x, precond=matrix, v=v, reduction="none", return_terms=True)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, loss.detach())
    with torch.no_grad():
        assert torch.equal(fastssm.preconditioned_loss(net, x, precond=matrix, v=v, reduction="none"), loss.detach())
    module = fastssm.PreconditionedLoss(net, precond=matrix, reduction="none")
    assert torch.equal(module(x, v=v), loss)
