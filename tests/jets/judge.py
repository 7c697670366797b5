"""The comparison of a case on jets with plain autograd in float64: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends import BACKENDS, make_request
from tests import oracle
from tests.jets.case import Case, Energy, Score
from tests.nets.oracle import written_out

LOSSES = ("ssm", "vr", "each")  # for scores "each" is the divergence along coordinates


def loss_on_jets(net: nn.Module, x: Tensor, v: Tensor, loss: str, kind: str = "energy") -> Tensor:
    """Return a loss; "each" is one number of the second derivatives along every direction."""
    if loss == "each" and kind == "energy":
        return oracle.contracted(-fastssm.hvp_form(net, x, v, backend="jets").flatten())
    if loss == "each":
        return oracle.contracted(fastssm.jacobian_diag(net, x, kind=kind, backend="jets").flatten(1).t().flatten())
    return fastssm.sliced_loss(net, x, v=v, kind=kind, backend="jets", **oracle.OPTIONS[loss])


def loss_by_autograd(net: nn.Module, x: Tensor, v: Tensor, loss: str, kind: str = "energy") -> Tensor:
    energy = kind == "energy"
    with written_out():
        if loss == "each":
            v = v if energy else oracle.directions(x, None, "exact")
            value = oracle.contracted(oracle.terms(net, x, v, energy=energy).along.flatten())
        else:
            value = oracle.losses(net, x, v, loss, energy=energy).mean()
        return value + 0.0 * x.sum()  # connected where nothing is curved


Loss = Callable[[nn.Module, Tensor, Tensor, str, str], Tensor]


def evaluated(net: Energy | Score, loss: str, by: Loss) -> list[Tensor]:
    """Return a loss and its gradients in x and in every parameter, with the same random numbers each time."""
    torch.manual_seed(0)
    x = net.x.clone().requires_grad_()
    leaves = [x, *net.parameters()]
    value = by(net, x, net.v, loss, "energy" if isinstance(net, Energy) else "score")
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


@cache
def expected(case: Case, loss: str, network: type[Energy] | type[Score]) -> list[Tensor]:
    found = evaluated(network(case.by_primitives()), loss, loss_by_autograd)
    assert all(t.isfinite().all() for t in found), "the oracle is not finite"
    return found


def agree(case: Case, network: type[Energy] | type[Score] = Energy, losses: Iterable[str] = LOSSES) -> None:
    """Check that jets take a case, and that all losses and gradients are the oracle's."""
    net = network(case)
    kind = "energy" if network is Energy else "score"
    reasons = BACKENDS["jets"].unsupported(make_request(net, net.x, kind=kind), "objective")
    assert reasons == [], reasons
    for loss in losses:
        found = evaluated(net, loss, loss_on_jets)
        oracle.assert_close(found, expected(case, loss, network), case.rtol, loss)


def is_score(case: Case) -> bool:
    """Say whether a case's function returns as many numbers as it gets, so that it may be a score."""
    net = Energy(case)
    found = net.outputs(net.x.clone())
    return len(found) == 1 and found[0].numel() == net.x.numel() and found[0].dtype == net.x.dtype


def failures(cases: Iterable[Case], network: type[Energy] | type[Score] = Energy) -> dict[str, str]:
    """Return what went wrong, by case."""
    failed = {}
    for case in cases:
        try:
            agree(case, network)
        except Exception as error:
            failed[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
    return failed
