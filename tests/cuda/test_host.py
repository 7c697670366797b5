"""What a training step costs the host of the CUDA engine: operators, buffers and launches, seen on the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda.harness.operators import operators
from tests.cuda.harness.problems import run

COUNTED = """
from bench import dispatched
dispatched.enter_operators({library!r})
expected = {{"aten::randint": 1, "fastssm::objective_packed": 1, "fastssm::scale": 1}}
for name in dispatched.NETS:
    for reduction, weighted in (("mean", False), ("sum", False), ("mean", True)):
        found, inside, parameters = dispatched.calls(name, reduction, weighted)
        assert found["fastssm"] == expected, (name, reduction, weighted, found)
        assert found["backward"] == {{"aten::ones_like": 1, "aten::detach": parameters}}, found
        assert not any(part in each for each in inside for part in ("full", "zeros", "ones >", "cat", "detach")), inside
        products = inside["fastssm::scale > aten::mul"]
        assert products == (2 if "FiLM" in name else 1), (name, products)
        assert inside["fastssm::objective_packed > aten::mul"] == 0
print("right")
"""


def test_a_loss_and_its_backward_call_four_operators() -> None:
    """Three of fastssm, and PyTorch's incoming gradient; besides, PyTorch detaches the gradient of each parameter."""
    assert run(operators(), COUNTED.format(library=str(operators()))).splitlines()[-1] == "right"


SCALED = """
from fastssm.backends.entries import eager
backends.BACKENDS["torch"] = fused.Fused("torch", eager)
torch.manual_seed(0)
for out, options in ((1, {}), (3, {}), (1, dict(cond_dim=2, conditioning="film"))):
    net = fastssm.nn.MLP(3, [6, 5], out, activation="tanh", **options).double()
    net.readout.weight.requires_grad_(False)
    x, v = torch.randn(4, 3).double().requires_grad_(), torch.randn(2, 4, 3).double()
    cond = [torch.randn(4, 2).double().requires_grad_()] if options else []
    leaves = [x, *cond, *(p for p in net.parameters() if p.requires_grad)]
    loss = fastssm.sliced_loss(net, x, v=v, cond=tuple(cond), backend="torch")
    exact = oracle.losses(net, x, v, "vr", energy=out == 1, cond=cond).mean()
    expected = oracle.gradients(exact, leaves)
    for factor in (3.0, -0.5, 3.0):  # the graph stays, and nothing kept in it changes
        (factor * loss).backward(retain_graph=True)
        oracle.assert_close([t.grad for t in leaves], [factor * e for e in expected], 1e-10, str(options))
        shared = [p.grad for p in (net.hidden[0].weight, net.hidden[1].weight)]
        assert len({g.untyped_storage().data_ptr() for g in shared}) == 1  # one buffer
        assert x.grad.untyped_storage().data_ptr() != shared[0].untyped_storage().data_ptr()
        assert all(g.data_ptr() % 16 == 0 for g in shared)
        for t in leaves:
            t.grad = None
    try:
        torch.autograd.grad(torch.autograd.grad(2 * loss, net.hidden[0].weight, create_graph=True)[0].sum(), x)
        print("differentiated twice")
    except RuntimeError as error:
        assert "first derivatives only" in str(error), error
parts = [torch.arange(12.0)[2:5], torch.ones(2, 3).t(), torch.ones(0), torch.ones(3).half()]
both = torch.arange(10.0)
parts += [both[1:3], both[4:6].view(2, 1), both[0:1]]  # two of one buffer, and one that lies before them
found = torch.ops.fastssm.scale(parts, torch.tensor(2.0))
assert all(torch.equal(a, 2 * b) and a.dtype == b.dtype for a, b in zip(found, parts, strict=True))
assert found[4].untyped_storage().data_ptr() == found[5].untyped_storage().data_ptr()
torch.library.opcheck(torch.ops.fastssm.scale.default, (parts[:4], torch.tensor(2.0)))
try:
    torch.ops.fastssm.scale(parts, torch.ones(2))
except RuntimeError as error:
    print(error)
"""


def test_gradients_share_a_buffer_and_are_scaled_at_once() -> None:
    assert run(operators(), SCALED) == "the factor of gradients must be one number, got 2.\n"


GRAPHED = """
import pytest
from bench.dispatched import counted
from fastssm.backends.entries import eager
from tests import test_graphs
backends.BACKENDS["torch"] = fused.Fused("torch", eager)
test_graphs.simulate(pytest.MonkeyPatch())
net, x = fastssm.nn.MLP(2, [8, 8]), torch.randn(16, 2)
step = test_graphs.watched(fastssm.graphed(fastssm.SlicedScoreLoss(net, backend="torch")))
losses, gradients = [], []
for _ in range(20):
    losses.append(step(x).item())
    gradients.append(net.hidden[0].weight.grad.clone())
assert step.reason == ""
assert len(set(losses)) == 20, "a replay drew the directions of another"
called, inside = counted(lambda: step._run_eagerly([x]))  # what a capture records
assert called == {"aten::randint": 1, "fastssm::objective_packed": 1, "aten::detach": 7}, called  # 6 .grad, loss
loss = step._run_eagerly([x])
torch.manual_seed(5)
found = step._run_eagerly([x]), *(p.grad.clone() for p in net.parameters())
torch.manual_seed(5)
loss = fastssm.sliced_loss(net, x, backend="torch")
assert all(map(torch.equal, found, (loss, *torch.autograd.grad(loss, list(net.parameters())))))
print("right")
"""


def test_a_captured_step_is_two_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a gradient scaled, nor its incoming 1 made; the emulator's log counts the engine's launches."""
    file = tmp_path / "launches"
    monkeypatch.setenv("FASTSSM_LAUNCHES", str(file))
    assert run(operators(), GRAPHED).splitlines()[-1] == "right"
    launches = dict(line.split() for line in file.read_text().splitlines())
    assert launches.keys() == {"small_objective_float", "small_reduce_float"}
    assert len(set(launches.values())) == 1
    assert int(launches["small_objective_float"]) == 20 + 1 + 2 + 1 + 1 + 1  # calls, the capture, and those after
