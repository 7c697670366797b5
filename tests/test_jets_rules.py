"""Every rule of jets against plain autograd in float64: the loss, and every gradient."""

from __future__ import annotations

import pytest
import torch

import fastssm
from fastssm.backends import BACKENDS, make_request
from tests import oracle
from tests.jets.cases import CASES, Energy, Rule

RTOL = 1e-10


def agree(case: Rule) -> None:
    net = Energy(case)
    for loss in ("ssm", "vr"):
        x = net.x.clone().requires_grad_()
        leaves = [x, *net.parameters()]
        found = fastssm.sliced_loss(net, x, v=net.v, kind="energy", backend="jets", **oracle.OPTIONS[loss])
        expected = oracle.losses(net, x, net.v, loss, energy=True).mean()
        grads = torch.autograd.grad(found, leaves, allow_unused=True)
        oracle.assert_close(
            [found, *grads], [expected, *oracle.gradients(expected, leaves)], RTOL, f"{case.name} {loss}"
        )


@pytest.mark.parametrize("part", range(8))
def test_each_rule_agrees_with_autograd(part: int) -> None:
    failed = {}
    for case in CASES[part::8]:
        net = Energy(case)
        reasons = BACKENDS["jets"].unsupported(make_request(net, net.x, kind="energy"), "objective")
        try:
            assert reasons == []
            agree(case)
        except Exception as error:
            failed[case.name] = f"{type(error).__name__}: {str(error)[:200]}"
    assert failed == {}
