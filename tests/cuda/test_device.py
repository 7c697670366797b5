"""What only a GPU can show: streams, graphs, devices, synchronisation. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends, directions
from fastssm.activations import TABLE
from fastssm.nn import MLP, make_activation
from tests import oracle

WHY = "; ".join(backends.availability()["cuda"])
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no GPU: {WHY}")
NETS: dict[str, Callable[[], nn.Module]] = {
    "small energy": lambda: MLP(3, [16, 16]),
    "wide energy": lambda: MLP(5, [300, 257], activation="tanh"),
    "score": lambda: MLP(4, [33, 40], 4, "silu", residual=True),
}


def problem(name: str, dtype: torch.dtype = torch.float64, batch: int = 67) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    net = NETS[name]()
    width = next(net.parameters()).shape[1]
    return net.to("cuda", dtype), torch.randn(batch, width, device="cuda", dtype=dtype)


def drawn(x: Tensor) -> Tensor:
    """The directions that `value_and_gradients` has drawn."""
    generator = torch.Generator(x.device).manual_seed(5)
    return directions.draw("rademacher", (3, *x.shape), dtype=x.dtype, device=x.device, generator=generator)


def value_and_gradients(net: nn.Module, x: Tensor, **options: object) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(5)
    x = x.detach().clone().requires_grad_()
    loss = fastssm.sliced_loss(net, x, generator=generator, backend="cuda", n_projections=3, **options)
    return [loss.detach(), *torch.autograd.grad(loss, [x, *net.parameters()])]


@pytest.mark.parametrize("loss", ["ssm", "vr"])
@pytest.mark.parametrize("name", NETS)
def test_every_kernel_is_right(name: str, loss: str) -> None:
    net, x = problem(name)
    found = value_and_gradients(net, x, **oracle.OPTIONS[loss])
    v = drawn(x)
    x.requires_grad_()
    expected = oracle.losses(net, x, v, loss, energy=name != "score").mean()
    oracle.assert_close(found, [expected, *oracle.gradients(expected, [x, *net.parameters()])], 1e-10)


def test_every_kernel_of_an_activation_is_right() -> None:
    for activation in (row.name for row in TABLE):
        net = nn.Sequential(nn.Linear(3, 40), make_activation(activation), nn.Linear(40, 3)).to("cuda", torch.float64)
        x = torch.randn(50, 3, device="cuda", dtype=torch.float64)
        v = torch.ones(1, 50, 3, device="cuda", dtype=torch.float64)
        losses = [fastssm.sliced_loss(net, x, v=v, backend=backend) for backend in ("cuda", "reference")]
        found, expected = ([loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))] for loss in losses)
        oracle.assert_close(found, expected, 1e-10, activation)


@pytest.mark.parametrize("name", NETS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    net, x = problem(name, torch.float32)
    first, second = value_and_gradients(net, x), value_and_gradients(net, x)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("precision", ["tf32", "bf16", "split"])
def test_rounded_products_are_close(precision: str) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no such tensor cores")
    net, x = problem("wide energy", torch.float32)
    full, rounded = value_and_gradients(net, x), value_and_gradients(net, x, precision=precision)
    assert not torch.equal(full[0], rounded[0])
    oracle.assert_close(rounded, [t.double() for t in full], 5e-2)


@pytest.mark.parametrize("setting", [("allow_tf32", True), ("fp32_precision", "tf32")])
def test_what_torch_allows_governs_full_precision_alone(
    setting: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no such tensor cores")
    net, x = problem("wide energy", torch.float32)
    precisions = ("full", "tf32", "bf16", "split")
    before = {p: value_and_gradients(net, x, precision=p) for p in precisions}
    monkeypatch.setattr(torch.backends.cuda.matmul, *setting)
    for p in precisions:
        assert all(map(torch.equal, value_and_gradients(net, x, precision=p), before[p])) == (p != "full"), p


def test_nothing_waits_for_the_device() -> None:
    net, x = problem("wide energy", torch.float32)
    value_and_gradients(net, x)
    seed = torch.Generator("cuda").manual_seed(5)
    x.requires_grad_()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastssm.sliced_loss(net, x, generator=seed, backend="cuda").backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_another_stream() -> None:
    net, x = problem("wide energy")
    expected = value_and_gradients(net, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = value_and_gradients(net, x)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", NETS)
def test_a_graph(name: str) -> None:
    net, x = problem(name, torch.float32)
    v = torch.ones(2, *x.shape, device="cuda")

    def step() -> Tensor:
        loss = fastssm.sliced_loss(net, x, v=v, backend="cuda")
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(side)
    net.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    found = [loss.clone(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
    net.zero_grad(set_to_none=True)
    expected = step()
    assert all(map(torch.equal, found, [expected, *(p.grad for p in net.parameters() if p.grad is not None)]))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_another_device() -> None:
    net, x = problem("wide energy")
    expected = value_and_gradients(net, x)
    net, x = net.to("cuda:1"), x.to("cuda:1")
    v = drawn(x)
    loss = fastssm.sliced_loss(net, x, v=v, backend="cuda")
    assert torch.equal(loss.cpu(), expected[0].cpu())
    assert torch.cuda.current_device() == 0


def test_auto_takes_it_and_compile_too() -> None:
    net, x = problem("small energy", torch.float32)
    assert fastssm.explain(net, x).backend == "cuda"
    v = torch.ones_like(x)
    compiled = torch.compile(lambda x: fastssm.sliced_loss(net, x, v=v), fullgraph=True)
    torch.testing.assert_close(compiled(x), fastssm.sliced_loss(net, x, v=v))
