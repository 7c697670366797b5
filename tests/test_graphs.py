"""`fastssm.graphed` without a GPU: eagerly on a CPU, and its captures on a simulated CUDA graph."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import graphs
from fastssm.nn import MLP


def problem() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MLP(2, [8, 8]), torch.randn(6, 16, 2)


def trained(step: object, batches: Tensor) -> list[float]:
    torch.manual_seed(1)
    return [step(x).item() for x in batches]


class Plain:
    """The step as a user would write it."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.objective, self.optimizer = fastssm.SlicedScoreLoss(net), optimizer

    def __call__(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.objective(x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Graph:
    """A stand-in for a CUDA graph: a capture leaves no trace but memory, and a replay runs the step into that."""

    captures = 0
    captured_with: tuple[torch.Generator, ...] = ()
    step: graphs.GraphedStep
    generators: tuple[torch.Generator, ...] = ()  # registered before the capture began

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators = (*self.generators, generator)

    def replay(self) -> None:
        step, places = self.step, dict(self.step._gradients)
        loss = step._run_eagerly(step._inputs)
        step._loss.copy_(loss)
        for parameter, place in places.items():
            place.copy_(parameter.grad)


def simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every tensor for one on a GPU."""

    @contextmanager
    def capture(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        step = Graph.step
        Graph.captures += 1
        Graph.captured_with = graph.generators
        parameters = step._parameters()
        before = [p.detach().clone() for p in parameters], copy.deepcopy(step.optimizer), torch.get_rng_state()
        yield
        for parameter, value in zip(parameters, before[0], strict=True):
            parameter.data.copy_(value)
        if step.optimizer:
            step.optimizer.load_state_dict(before[1].state_dict())
        torch.set_rng_state(before[2])

    class Stream:
        def wait_stream(self, other: Stream) -> None: ...

    monkeypatch.setattr(Graph, "captures", 0)
    monkeypatch.setattr(graphs, "on_one_gpu", lambda inputs: True)
    for name, stand_in in (
        ("CUDAGraph", Graph),
        ("graph", capture),
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", lambda stream: nullcontext()),
        ("device", lambda device: nullcontext()),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    simulate(monkeypatch)
    return Graph


def watched(step: graphs.GraphedStep) -> graphs.GraphedStep:
    Graph.step = step
    return step


def sgd(net: nn.Module, lr: object = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr, momentum=0.9)


def test_on_a_cpu_it_is_the_step_as_written_and_says_why() -> None:
    net, batches = problem()
    twin = copy.deepcopy(net)
    step = fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net))
    assert trained(step, batches) == trained(Plain(twin, sgd(twin)), batches)
    assert step.reason == "the inputs are not all on one CUDA device"
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


def test_every_call_trains_and_the_fourth_captures(simulated: type[Graph]) -> None:
    net, batches = problem()
    twin = copy.deepcopy(net)
    step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net)))
    reasons, found = [], []
    torch.manual_seed(1)
    for x in batches:
        found.append(step(x))
        reasons.append(step.reason)
    assert reasons == [*(f"it is call {n} of the 3 before the capture" for n in (1, 2, 3)), "", "", ""]
    assert [loss.item() for loss in found] == trained(Plain(twin, sgd(twin)), batches)  # no replay overwrites a loss
    assert all(map(torch.equal, net.parameters(), twin.parameters()))
    assert simulated.captures == 1


def test_gradients_are_there_whatever_was_done_to_them(simulated: type[Graph]) -> None:
    net, batches = problem()
    objective = fastssm.SlicedScoreLoss(net, projection="hadamard", n_projections=2)
    step = watched(fastssm.graphed(objective))
    for x in batches:
        net.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        step(x)
        found = [p.grad.clone() for p in net.parameters()]
        torch.manual_seed(2)
        expected = torch.autograd.grad(objective(x), list(net.parameters()))
        assert all(map(torch.equal, found, expected))
    assert simulated.captures == 1


def test_another_shape_runs_as_written(simulated: type[Graph]) -> None:
    net, batches = problem()
    step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net)))
    trained(step, batches)
    before = [p.detach().clone() for p in net.parameters()]
    step(batches[0][:5])
    assert step.reason == "the inputs differ from those of the capture in shape or dtype"
    assert not any(map(torch.equal, before[:1], net.parameters()))
    step(batches[0])
    assert step.reason == ""
    assert simulated.captures == 1


def test_a_changed_option_is_captured_again_and_a_tensor_is_not(simulated: type[Graph]) -> None:
    for rate, captures in ((0.1, 2), (torch.tensor(0.1), 1)):
        net, batches = problem()
        optimizer = torch.optim.SGD(net.parameters(), rate)
        step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net), optimizer))
        simulated.captures = 0
        trained(step, batches)
        group = optimizer.param_groups[0]
        group["lr"].fill_(0.01) if isinstance(rate, Tensor) else group.update(lr=0.01)
        trained(step, batches)
        assert simulated.captures == captures


def test_an_optimizer_that_cannot_be_captured(simulated: type[Graph]) -> None:
    net, batches = problem()
    step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net), torch.optim.Adam(net.parameters())))
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="Adam must have capturable=True in a CUDA graph, got False; create it"):
        step(batches[0])
    assert all(map(torch.equal, before, net.parameters()))


def test_what_it_does_not_capture(simulated: type[Graph]) -> None:
    net, batches = problem()
    step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net)))
    step(batches[0].requires_grad_())
    assert step.reason == "an input requires grad"


def test_with_an_example_the_first_call_replays(simulated: type[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    net, batches = problem()
    twin = copy.deepcopy(net)
    monkeypatch.setattr(graphs.GraphedStep, "__init__", lambda self, *a: made(watched(self), *a))
    torch.manual_seed(1)
    step = fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net), (batches[0],))
    found = [step(x).item() for x in batches[1:]]
    assert step.reason == ""
    assert simulated.captures == 1
    assert found == trained(Plain(twin, sgd(twin)), torch.stack([*[batches[0]] * 3, *batches[1:]]))[3:]
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


made = graphs.GraphedStep.__init__


def test_an_example_on_a_cpu_runs_nothing() -> None:
    net, batches = problem()
    before = [p.detach().clone() for p in net.parameters()]
    fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net), example=(batches[0],))
    assert all(map(torch.equal, before, net.parameters()))
    for given, said in ((batches[0], "got a tensor; pass (x,)"), ((1,), "got (1,)"), (3, "got 3")):
        with pytest.raises(TypeError, match=re.escape("example must be a tuple of tensors") + ".*" + re.escape(said)):
            fastssm.graphed(fastssm.SlicedScoreLoss(net), sgd(net), example=given)


def test_the_incoming_gradient_of_a_step_is_known() -> None:
    loss = torch.ones((), dtype=torch.float64)
    assert graphs.is_one(graphs.one(loss))
    assert graphs.one(loss) is graphs.one(loss.clone())
    assert graphs.one(loss).dtype is torch.float64
    assert not graphs.is_one(torch.ones((), dtype=torch.float64))


def test_the_generator_of_a_loss_is_known() -> None:
    net, _ = problem()
    generator = torch.Generator()
    assert fastssm.graphed(fastssm.SlicedScoreLoss(net, generator=generator)).generator is generator
    other = torch.Generator()
    assert fastssm.graphed(fastssm.SlicedScoreLoss(net), generator=other).generator is other


def test_a_capture_registers_its_generator(simulated: type[Graph]) -> None:
    """Without that a replay would draw the directions of the capture again."""
    net, batches = problem()
    generator = torch.Generator()
    step = watched(fastssm.graphed(fastssm.SlicedScoreLoss(net, generator=generator)))
    step.prepare((batches[0],))
    assert simulated.captured_with == (generator,)
    assert len({step(batches[0]).item() for _ in range(5)}) == 5
    watched(fastssm.graphed(fastssm.SlicedScoreLoss(net))).prepare((batches[0],))
    assert simulated.captured_with == ()  # torch registers its default generator itself


def test_bad_arguments() -> None:
    net, _ = problem()
    with pytest.raises(TypeError, match="objective must be a module or a function that returns a loss, got 3"):
        fastssm.graphed(3)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer or None, got MLP"):
        fastssm.graphed(fastssm.SlicedScoreLoss(net), net)
    with pytest.raises(TypeError, match="without an optimizer, objective must be a module, got <function"):
        fastssm.graphed(lambda x: x.sum())
