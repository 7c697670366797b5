"""A first look at a GPU: every path of the engine at real sizes, against float64 autograd on the same device.

`tools/device/check.sh` runs these before anything else. They are skipped without a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends, directions
from fastssm.nn import MLP
from tests import oracle

WHY = "; ".join(backends.availability()["cuda"])
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no GPU: {WHY}")
CHUNK = 8192  # samples that the oracle differentiates at once
EPS = 2.0**-23


@dataclass(frozen=True)
class Case:
    """A network on random data: an energy, or a score of as many outputs as there are features."""

    dim: int
    widths: tuple[int, ...]
    batch: int
    count: int = 1
    score: bool = False
    activation: str = "softplus"
    residual: bool = False
    cond: int = 0
    dtype: torch.dtype = torch.float32
    rtol: float = EPS * 512

    def net(self) -> nn.Module:
        options = {"cond_dim": self.cond, "conditioning": "film"} if self.cond else {}
        out = self.dim if self.score else 1
        torch.manual_seed(0)
        net = MLP(self.dim, list(self.widths), out, self.activation, residual=self.residual, **options)
        return net.to("cuda", self.dtype)

    def data(self) -> tuple[Tensor, list[Tensor], Tensor]:
        generator = torch.Generator("cuda").manual_seed(1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cuda", dtype=self.dtype)

        cond = [normal(self.batch, self.cond)] if self.cond else []
        return normal(self.batch, self.dim), cond, normal(self.count, self.batch, self.dim).sign()


CASES = {
    "whole net": Case(2, (64, 64), 128),
    "whole net, score": Case(10, (64, 64), 1000, 3, score=True, activation="silu"),
    "whole net, 1 000 000 samples": Case(2, (32, 32), 1_000_000, rtol=EPS * 4096),
    "layers": Case(10, (256, 256, 256), 1024),
    "784 features, 8 directions": Case(784, (1024, 1024, 1024), 512, 8),
    "several tiles": Case(100, (512, 512, 512), 65536, rtol=EPS * 2048),
    "300 directions": Case(10, (48, 40), 33, 300, activation="tanh"),
    "300 directions, score": Case(10, (200, 133), 33, 300, score=True, activation="tanh"),
    "residual": Case(16, (300, 300, 300), 200, 2, residual=True, activation="silu"),
    "FiLM": Case(16, (128, 128), 200, 2, cond=7, activation="silu"),
    "FiLM, residual, score": Case(16, (130, 130), 200, 2, score=True, residual=True, cond=7, activation="gelu"),
    "wide score": Case(100, (512, 512), 1024, 2, score=True, activation="tanh"),
    "float64, whole net": Case(3, (32, 32), 200, 2, dtype=torch.float64, rtol=1e-11),
    "float64, layers": Case(100, (512, 512), 300, 4, dtype=torch.float64, rtol=1e-11),
}


def found_and_leaves(
    net: nn.Module, x: Tensor, cond: Sequence[Tensor], **options: object
) -> tuple[list[Tensor], list[Tensor]]:
    """Return a loss of the CUDA engine with all its gradients, and what they are of."""
    x, *cond = (t.detach().requires_grad_() for t in (x, *cond))
    leaves = [x, *cond, *net.parameters()]
    loss = fastssm.sliced_loss(net, x, cond=tuple(cond) or None, backend="cuda", **options)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)], leaves


def expected(case: Case, net: nn.Module, x: Tensor, cond: Sequence[Tensor], v: Tensor, loss: str) -> list[Tensor]:
    """Return the oracle's loss and gradients in float64, chunk by chunk."""
    wide = copy.deepcopy(net).double()
    value, of_inputs, of_parameters = x.new_zeros((), dtype=torch.float64), [], None
    for first in range(0, len(x), CHUNK):
        part = slice(first, first + CHUNK)
        inputs = [t[part].double().requires_grad_() for t in (x, *cond)]
        each = oracle.losses(wide, inputs[0], v[:, part].double(), loss, energy=not case.score, cond=inputs[1:])
        mean = each.sum() / len(x)
        grads = oracle.gradients(mean, [*inputs, *wide.parameters()])
        value += mean.detach()
        of_inputs.append(grads[: len(inputs)])
        rest = grads[len(inputs) :]
        of_parameters = rest if of_parameters is None else [a + b for a, b in zip(of_parameters, rest, strict=True)]
    return [value, *map(torch.cat, zip(*of_inputs, strict=True)), *of_parameters]


@pytest.mark.parametrize("loss", ["ssm", "vr"])
@pytest.mark.parametrize("name", CASES)
def test_every_path(name: str, loss: str) -> None:
    case = CASES[name]
    net, (x, cond, v) = case.net(), case.data()
    found, _ = found_and_leaves(net, x, cond, v=v, **oracle.OPTIONS[loss])
    oracle.assert_close(found, expected(case, net, x, cond, v, loss), case.rtol, name)


@pytest.mark.parametrize("loss", ["ssm", "vr"])
@pytest.mark.parametrize(("precision", "rtol"), [("tf32", 1e-2), ("bf16", 5e-2), ("split", 1e-4)])
def test_products_on_tensor_cores(precision: str, rtol: float, loss: str) -> None:
    case = CASES["784 features, 8 directions"]
    net, (x, cond, v) = case.net(), case.data()
    found, _ = found_and_leaves(net, x, cond, v=v, precision=precision, **oracle.OPTIONS[loss])
    oracle.assert_close(found, expected(case, net, x, cond, v, loss), rtol, precision)


@pytest.mark.parametrize("name", ["whole net", "layers", "wide score", "300 directions"])
def test_directions_made_inside(name: str) -> None:
    case = CASES[name]
    net, (x, cond, _) = case.net(), case.data()
    first, second = (torch.Generator("cuda").manual_seed(7) for _ in range(2))
    v = directions.draw("rademacher", (case.count, *x.shape), dtype=x.dtype, device=x.device, generator=first)
    found, _ = found_and_leaves(net, x, cond, generator=second, n_projections=case.count)
    given, _ = found_and_leaves(net, x, cond, v=v)
    oracle.assert_close(found, [t.double() for t in given], EPS * 16, name)


def captured(step: Callable[[], Tensor], *generators: torch.Generator) -> torch.cuda.CUDAGraph:
    """Return a graph of a step that was run a few times on another stream, as PyTorch advises."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        step()
    return graph


@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
@pytest.mark.parametrize("name", ["whole net", "layers", "wide score"])
def test_a_graph_draws_new_directions(name: str, own: bool) -> None:
    """Replays continue the generator's sequence, bit for bit as eager calls do."""
    case = CASES[name]
    net, (x, _, _) = case.net(), case.data()
    generator = torch.Generator("cuda") if own else None
    parameters, kept = list(net.parameters()), {}

    def step() -> Tensor:
        loss = fastssm.sliced_loss(net, x, generator=generator, backend="cuda")
        kept["found"] = [loss.detach(), *torch.autograd.grad(loss, parameters)]
        return loss

    def seed() -> None:
        generator.manual_seed(3) if generator else torch.cuda.manual_seed(3)

    graph = captured(step, *([generator] if generator else []))
    static = kept["found"]
    seed()
    replayed = []
    for _ in range(3):
        graph.replay()
        replayed.append([t.clone() for t in static])
    assert not torch.equal(replayed[0][0], replayed[1][0])
    assert not torch.equal(replayed[1][0], replayed[2][0])
    seed()
    for each in replayed:
        step()
        assert all(map(torch.equal, each, kept["found"]))


def test_a_graph_reads_new_data_and_weights() -> None:
    case = CASES["layers"]
    net, (x, _, v) = case.net(), case.data()
    parameters, kept = list(net.parameters()), {}

    def step() -> Tensor:
        loss = fastssm.sliced_loss(net, x, v=v, backend="cuda")
        kept["found"] = [loss.detach(), *torch.autograd.grad(loss, parameters)]
        return loss

    graph = captured(step)
    static = kept["found"]
    with torch.no_grad():
        x.mul_(0.5)
        for p in parameters:
            p.mul_(1.1)
    graph.replay()
    step()
    assert all(map(torch.equal, static, kept["found"]))


@pytest.mark.parametrize("name", ["whole net", "layers", "several tiles"])
def test_another_stream(name: str) -> None:
    case = CASES[name]
    net, (x, cond, v) = case.net(), case.data()
    there, _ = found_and_leaves(net, x, cond, v=v)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        elsewhere, _ = found_and_leaves(net, x, cond, v=v)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(map(torch.equal, there, elsewhere))


@pytest.mark.parametrize("name", ["whole net", "layers", "wide score"])
def test_memory_of_any_layout(name: str) -> None:
    """Data and weights that are strided, or begin at an odd place of a larger buffer."""
    case = CASES[name]
    net, (x, cond, v) = case.net(), case.data()
    plain, _ = found_and_leaves(net, x, cond, v=v)
    apart = torch.randn(case.batch, 2 * case.dim + 1, device="cuda")
    apart[:, 1::2] = x
    found, _ = found_and_leaves(net, apart[:, 1::2], cond, v=v.flip(2).flip(2).transpose(1, 2).contiguous().mT)
    oracle.assert_close(found, [t.double() for t in plain], EPS * 64, "strides")
    flat = torch.empty(sum(p.numel() + 1 for p in net.parameters()) + x.numel() + 1, device="cuda")
    at = 1
    for p in net.parameters():
        flat[at : at + p.numel()] = p.detach().flatten()
        p.data = flat[at : at + p.numel()].view_as(p)
        at += p.numel() + 1
    moved = flat[-x.numel() :].view_as(x).copy_(x)
    found, _ = found_and_leaves(net, moved, cond, v=v)
    oracle.assert_close(found, [t.double() for t in plain], EPS * 64, "storage offsets")


def test_memory_stays_flat_in_the_batch() -> None:
    case = CASES["several tiles"]
    net, (x, _, v) = case.net(), case.data()

    def peak(batch: int) -> float:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = fastssm.sliced_loss(net, x[:batch], v=v[:, :batch], backend="cuda")
        loss.backward()
        net.zero_grad(set_to_none=True)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    peak(64)
    assert peak(65536) < 1.1 * peak(32768) + 8  # MiB


@pytest.mark.parametrize("name", ["whole net", "layers", "wide score"])
def test_the_operators(name: str) -> None:
    case = CASES[name]
    net, (x, _, v) = case.net().double(), case.data()
    x, v = x[:64].double(), v[:, :64].double()
    leaves = [x.requires_grad_(), *net.parameters()]
    projected, along, score = oracle.terms(net, x, v, energy=not case.score)
    found = fastssm.terms(net, x, v=v, backend="cuda")
    wanted = [projected, along.mean(0), score.square().sum(1), score]
    oracle.assert_close(list(found), wanted, 1e-10, "terms")
    sums = [sum((t.sin() * torch.linspace(1, 2, t.numel(), device="cuda").view_as(t)).sum() for t in terms)
            for terms in (found, wanted)]  # fmt: skip
    oracle.assert_close(
        torch.autograd.grad(sums[0], leaves), oracle.gradients(sums[1], leaves), 1e-10, "gradients of the terms"
    )
    oracle.assert_close([fastssm.score(net, x, backend="cuda")], [score], 1e-10, "score")
    units = torch.eye(case.dim, dtype=x.dtype, device="cuda")[:, None].expand(-1, len(x), -1)
    diagonal = oracle.terms(net, x, units, energy=not case.score)[1].t()
    found = fastssm.jacobian_diag(net, x, backend="cuda")
    oracle.assert_close([found], [diagonal], 1e-10, "Jacobian's diagonal")
    every = [torch.autograd.grad(found.sin().sum(), leaves), oracle.gradients(diagonal.sin().sum(), leaves)]
    oracle.assert_close(*every, 1e-10, "gradients of the diagonal")


def test_training_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    net = MLP(2, [64, 64]).cuda()
    x = torch.randn(4096, 2, device="cuda") * torch.tensor([1.0, 0.3], device="cuda")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        fastssm.sliced_loss(net, x, backend="cuda").backward()
        optimizer.step()
    with torch.no_grad():
        loss = fastssm.exact_loss(net, x, backend="cuda")
    best = -(1 + 1 / 0.3**2) / 2  # of the Gaussian itself
    assert best - 0.5 < loss.item() < 0.8 * best
