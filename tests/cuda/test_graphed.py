"""`fastssm.graphed` on a GPU: replays train as eager steps do, bit for bit. Skipped without one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastssm
from fastssm import backends
from fastssm.nn import MLP

WHY = "; ".join(backends.availability()["cuda"])
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no GPU: {WHY}")
NETS = {"whole net": lambda: MLP(2, [64, 64]), "layers": lambda: MLP(10, [256, 256]), "score": lambda: MLP(3, [40], 3)}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), 1e-3, capturable=True),
    "fused AdamW": lambda net: torch.optim.AdamW(net.parameters(), 1e-3, fused=True, capturable=True),
}


@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
def test_replays_train_as_eager_steps_do(name: str, optimizer: str, own: bool) -> None:
    torch.manual_seed(0)
    net = NETS[name]().cuda()
    twin = copy.deepcopy(net)
    batches = torch.randn(8, 128, next(net.parameters()).shape[1], device="cuda")
    losses = []
    for model in (net, twin):
        generator = torch.Generator("cuda").manual_seed(3) if own else None
        torch.cuda.manual_seed(3)
        objective, update = fastssm.SlicedScoreLoss(model, generator=generator), OPTIMIZERS[optimizer](model)
        step = fastssm.graphed(objective, update)
        for x in batches:
            if model is net:
                losses.append(step(x))
                continue
            update.zero_grad()
            loss = objective(x)
            loss.backward()
            update.step()
            losses.append(loss.detach())
        if model is net:
            assert step.reason == ""
    assert all(map(torch.equal, losses[:8], losses[8:]))
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


def test_gradients_are_left_and_a_last_batch_is_run() -> None:
    torch.manual_seed(0)
    net = MLP(2, [64, 64]).cuda()
    objective = fastssm.SlicedScoreLoss(net)
    step = fastssm.graphed(objective)
    for batch in (128, 128, 128, 128, 100, 128):
        x = torch.randn(batch, 2, device="cuda")
        torch.cuda.manual_seed(4)
        net.zero_grad()
        loss = step(x)
        found = [p.grad.clone() for p in net.parameters()]
        torch.cuda.manual_seed(4)
        expected = objective(x)
        assert torch.equal(loss, expected)
        assert all(map(torch.equal, found, torch.autograd.grad(expected, list(net.parameters()))))
    assert step.reason == ""
