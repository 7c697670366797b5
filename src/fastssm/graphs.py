"""A training step as one CUDA graph, so that the host no longer limits small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

WARM = 3  # eager calls before the capture, as PyTorch advises


def graphed(
    objective: Callable[..., Tensor], optimizer: Optimizer | None = None, *, generator: torch.Generator | None = None
) -> GraphedStep:
    """Return a function that runs a whole training step, on a GPU as one CUDA graph.

    A step is `loss = objective(*inputs); loss.backward(); optimizer.step()`, with the gradients of the last step
    dropped before. The first three calls run it as it is written, and the fourth captures it; from then on a call
    copies its inputs into the graph and replays it. All of them train: none is wasted on warming up. Directions are
    drawn anew at every replay.

    Args:
        objective: returns the loss, a scalar; a module such as `fastssm.SlicedScoreLoss(net)`, or a function.
        optimizer: stepped after each backward pass. On a GPU it needs `capturable=True` where it has that option, and
            an option that changes between calls, as a learning rate under a scheduler, costs another capture unless it
            is a tensor. Without an optimizer, the gradients of each step are left in the parameters of `objective`,
            which must be a module then.
        generator: the one that `objective` draws from, if it is not torch's default. That of a loss module is known.

    Returns:
        A `GraphedStep`: called with the tensors that `objective` takes, it returns the loss, detached. Inputs of
        another shape than those of the capture, as a last smaller batch has, run as the step is written.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: at the first call on a GPU, if the optimizer cannot be captured.

    Example:
        >>> net = fastssm.nn.MLP(2, [16, 16])
        >>> step = graphed(fastssm.SlicedScoreLoss(net), torch.optim.Adam(net.parameters()))
        >>> loss = step(torch.randn(32, 2))  # no GPU here: as it is written
        >>> step.reason
        'the inputs are not all on one CUDA device'

    Source: "CUDA Graphs" in PyTorch's notes on CUDA semantics, whole-network capture.
    """
    return GraphedStep(objective, optimizer, generator)


class GraphedStep:
    """A training step that replays a CUDA graph, returned by `fastssm.graphed`.

    Attributes:
        reason: why the last call did not replay a graph; empty if it did.
    """

    def __init__(
        self, objective: Callable[..., Tensor], optimizer: Optimizer | None, generator: torch.Generator | None
    ) -> None:
        if not callable(objective):
            raise TypeError(f"objective must be a module or a function that returns a loss, got {objective!r}.")
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}.")
        if optimizer is None and not isinstance(objective, nn.Module):
            raise TypeError("without an optimizer, objective must be a module, whose parameters get the gradients.")
        self.objective, self.optimizer = objective, optimizer
        self.generator = generator or getattr(objective, "options", {}).get("generator")
        self.reason = ""
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._loss = torch.empty(0)
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._options: list[dict[str, Any]] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run one training step and return its loss."""
        self.reason = self._obstacle(inputs)
        if self.reason:
            return self._step(inputs)
        with torch.cuda.device(inputs[0].device):
            if self._warm < WARM:
                self._warm += 1
                self.reason = f"it is call {self._warm} of the {WARM} before the capture"
                return self._aside(inputs)
            if self._graph is None or self._options != self._options_now():
                self._graph = self._captured(inputs)
            for held, given in zip(self._inputs, inputs, strict=True):
                held.copy_(given)
            self._graph.replay()
        for parameter, gradient in self._gradients:  # whatever was done to them since
            parameter.grad = gradient
        return self._loss.clone()  # the next replay overwrites it

    def _obstacle(self, inputs: Sequence[Tensor]) -> str:
        """Return why this call cannot be part of a capture or a replay; empty if it can."""
        if not on_one_gpu(inputs):
            return "the inputs are not all on one CUDA device"
        if isinstance(self.objective, DistributedDataParallel):
            return "DistributedDataParallel averages gradients by calls that this capture does not prepare"
        if any(t.requires_grad for t in inputs):
            return "an input requires a gradient"
        if self._graph is not None and _kinds(inputs) != _kinds(self._inputs):
            return "the inputs have other shapes or dtypes than those of the capture"
        for group in self.optimizer.param_groups if self.optimizer else ():
            if group.get("capturable") is False:
                name = type(self.optimizer).__name__
                raise ValueError(f"{name} must be made with capturable=True to be part of a CUDA graph.")
        return ""

    def _options_now(self) -> list[dict[str, Any]]:
        """Return the optimizer's options that a capture takes as they are: all but tensors."""
        groups = self.optimizer.param_groups if self.optimizer else []
        return [{k: v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)} for group in groups]

    def _parameters(self) -> list[Tensor]:
        """Return what the step gives gradients to."""
        if self.optimizer:
            return [p for group in self.optimizer.param_groups for p in group["params"]]
        assert isinstance(self.objective, nn.Module)
        return list(self.objective.parameters())

    def _step(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the step as it is written."""
        for parameter in self._parameters():
            parameter.grad = None
        loss = self.objective(*inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.optimizer:
            self.optimizer.step()
        return loss.detach()

    def _aside(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the step on another stream, as must be done before a capture."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            loss = self._step(inputs)
        here.wait_stream(aside)
        return loss

    def _captured(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        """Return a graph of the step; nothing of it runs, and the gradients get their places."""
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self._inputs = [t.detach().clone() for t in inputs]
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a data loader's thread may pin memory
            self._loss = self._step(self._inputs)
        self._gradients = [(p, p.grad) for p in self._parameters() if p.grad is not None]
        self._options = self._options_now()
        return graph


def on_one_gpu(inputs: Sequence[Tensor]) -> bool:
    """Say whether there are inputs, all of them on one CUDA device."""
    return bool(inputs) and all(isinstance(t, Tensor) and t.is_cuda and t.device == inputs[0].device for t in inputs)


def _kinds(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(t.shape, t.dtype, t.device) for t in tensors]
