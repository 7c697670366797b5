"""Training steps as CUDA graphs, to remove the launch overhead of small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

WARM_UP_CALLS = 3  # eager calls before the capture, as PyTorch recommends


def graphed(
    objective: Callable[..., Tensor],
    optimizer: Optimizer | None = None,
    example: Sequence[Tensor] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> GraphedStep:
    """Return a function that runs a training step, as one CUDA graph on a GPU.

    A step is `loss = objective(*inputs); loss.backward(); optimizer.step()`, after the gradients of the
    previous step are set to None. The first three calls run the step eagerly, and the fourth captures it. Each later
    call copies its inputs into the graph and replays it. Every call trains, including the first three. Each replay
    draws new directions.

    Args:
        objective: module or function that returns a scalar loss, such as `fastssm.SlicedScoreLoss(net)`.
        optimizer: optimizer to step after each backward pass. On a GPU it must have `capturable=True` if it has that
            option. If an option changes between calls, such as a scheduled learning rate, the step is captured again
            unless the option is a tensor. Without an optimizer, `objective` must be a module, and each step leaves the
            gradients in its parameters.
        example: a tuple of inputs like those of later calls. With it, the three eager steps and the capture run now, on
            these inputs, and the first call already replays. These three steps train too. Without a GPU nothing runs
            now.
        generator: generator that `objective` draws from, if it is neither the default generator of torch nor that of a
            loss module.

    Returns:
        A `GraphedStep`. It takes the arguments of `objective`, which must be tensors, and returns the detached loss.
        Inputs with other shapes than in the capture, such as a smaller last batch, run eagerly.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the optimizer cannot be captured; at the first call on a GPU, or now with an example.

    Example:
        >>> net = fastssm.nn.MLP(2, [16, 16])
        >>> optimizer = torch.optim.Adam(net.parameters(), capturable=torch.cuda.is_available())
        >>> step = graphed(fastssm.SlicedScoreLoss(net), optimizer, example=(torch.randn(32, 2),))
        >>> for _ in range(10):
        ...     loss = step(torch.randn(32, 2))  # runs eagerly, without a GPU
        >>> step.reason
        'the inputs are not all on one CUDA device'

    Source: "CUDA Graphs" in PyTorch's notes on CUDA semantics, whole-network capture.
    """
    step = GraphedStep(objective, optimizer, generator)
    if example is not None:
        step.prepare(example)
    return step


class GraphedStep:
    """A training step that replays a CUDA graph; returned by `fastssm.graphed`.

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
            raise TypeError(
                f"without an optimizer, objective must be a module, got {objective!r}; pass a module or an optimizer."
            )
        self.objective, self.optimizer = objective, optimizer
        self.generator = generator or getattr(objective, "options", {}).get("generator")
        self.reason = ""
        self._warm_up_calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._loss = torch.empty(0)
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._options: list[dict[str, Any]] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run one training step and return its loss."""
        self.reason = self._why_eager(inputs)
        if self.reason:
            return self._run_eagerly(inputs)
        with torch.cuda.device(inputs[0].device):
            if self._warm_up_calls < WARM_UP_CALLS:
                self._warm_up_calls += 1
                self.reason = f"it is call {self._warm_up_calls} of the {WARM_UP_CALLS} before the capture"
                return self._run_on_side_stream(inputs)
            self._capture_if_needed(inputs)
            assert self._graph is not None
            for captured, given in zip(self._inputs, inputs, strict=True):
                captured.copy_(given)
            self._graph.replay()
        for parameter, gradient in self._gradients:  # the caller may have replaced it since
            parameter.grad = gradient
        return self._loss.clone()  # the next replay overwrites it

    def prepare(self, example: Sequence[Tensor]) -> None:
        """Run the steps before the capture, and capture; if a call with these inputs would run eagerly, do nothing."""
        if not isinstance(example, (tuple, list)) or not all(isinstance(t, Tensor) for t in example):
            given = "a tensor" if isinstance(example, Tensor) else repr(example)
            raise TypeError(f"example must be a tuple of tensors, the inputs of a call, got {given}; pass (x,).")
        if self._why_eager(example):
            return
        for _ in range(WARM_UP_CALLS):
            self(*example)
        with torch.cuda.device(example[0].device):
            self._capture_if_needed(example)

    def _why_eager(self, inputs: Sequence[Tensor]) -> str:
        """Return why this call cannot be captured or replayed, or an empty string if it can."""
        if not on_one_gpu(inputs):
            return "the inputs are not all on one CUDA device"
        if isinstance(self.objective, DistributedDataParallel):
            return "the gradient synchronisation of DistributedDataParallel is not captured"
        if any(t.requires_grad for t in inputs):
            return "an input requires grad"
        if self._graph is not None and _signatures(inputs) != _signatures(self._inputs):
            return "the inputs differ from those of the capture in shape or dtype"
        for group in self.optimizer.param_groups if self.optimizer else ():
            if group.get("capturable") is False:
                name = type(self.optimizer).__name__
                raise ValueError(
                    f"{name} must have capturable=True in a CUDA graph, got False; create it with capturable=True."
                )
        return ""

    def _optimizer_options(self) -> list[dict[str, Any]]:
        """Return the options of the optimizer that a capture bakes in: all but tensors."""
        groups = self.optimizer.param_groups if self.optimizer else []
        return [{k: v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)} for group in groups]

    def _parameters(self) -> list[Tensor]:
        """Return the parameters that get gradients."""
        if self.optimizer:
            return [p for group in self.optimizer.param_groups for p in group["params"]]
        assert isinstance(self.objective, nn.Module)
        return list(self.objective.parameters())

    def _run_eagerly(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the step eagerly."""
        for parameter in self._parameters():
            parameter.grad = None
        loss = self.objective(*inputs)
        loss.backward(one(loss) if loss.ndim == 0 else None)  # type: ignore[no-untyped-call]
        if self.optimizer:
            self.optimizer.step()
        return loss.detach()

    def _run_on_side_stream(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the step eagerly on a side stream, as required before a capture."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            loss = self._run_eagerly(inputs)
        current.wait_stream(side)
        return loss

    def _capture_if_needed(self, inputs: Sequence[Tensor]) -> None:
        """Capture the step, unless there is a capture with the current options."""
        if self._graph is None or self._options != self._optimizer_options():
            self._graph = self._capture(inputs)

    def _capture(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        """Capture the step without running it, allocate the gradients, and return the graph."""
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self._inputs = [t.detach().clone() for t in inputs]
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # data loader threads may pin memory
            self._loss = self._run_eagerly(self._inputs)
        self._gradients = [(p, p.grad) for p in self._parameters() if p.grad is not None]
        self._options = self._optimizer_options()
        return graph


_ones: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def one(loss: Tensor) -> Tensor:
    """Return the incoming gradient 1 of a loss, always the same tensor, which `is_one` knows without a look at it."""
    key = loss.device, loss.dtype
    if key not in _ones:
        _ones[key] = torch.ones((), device=loss.device, dtype=loss.dtype)
    return _ones[key]


def is_one(factor: Tensor) -> bool:
    """Return whether an incoming gradient is that of `one`."""
    return _ones.get((factor.device, factor.dtype)) is factor


def on_one_gpu(inputs: Sequence[Tensor]) -> bool:
    """Return whether there are inputs and all are on one CUDA device."""
    return bool(inputs) and all(isinstance(t, Tensor) and t.is_cuda and t.device == inputs[0].device for t in inputs)


def _signatures(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(t.shape, t.dtype, t.device) for t in tensors]
