"""Random programs of jets' rules against plain autograd in float64: losses, and every gradient.

A program is a list of operations on `[B, n]` or `[B, c, n]`, some with parameters, some of two earlier results. One
that fails prints itself. FASTSSM_FUZZ_EXAMPLES sets how many there are; under CI they are the same each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import oracle
from tests.jets.judge import loss_by_autograd, loss_on_jets

EXAMPLES = int(os.environ.get("FASTSSM_FUZZ_EXAMPLES", "100"))
RTOL = 1e-9
BATCH = 3


class Operation(NamedTuple):
    """One line of a program: of some earlier results, with parameters."""

    text: str
    sources: tuple[int, ...]
    function: Callable[..., Tensor]
    weights: tuple[tuple[int, ...], ...] = ()


class Program(nn.Module):
    """An energy: the last result, and the one before it, summed with uneven weights."""

    def __init__(self, operations: list[Operation], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.operations = operations
        self.weights = nn.ParameterList(
            0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)
            for o in operations
            for shape in o.weights
        )

    def forward(self, x: Tensor) -> Tensor:
        results, weights = [x], iter(self.weights)
        for operation in self.operations:
            given = [results[i] for i in operation.sources]
            results.append(operation.function(*given, *[next(weights) for _ in operation.weights]))
        parts = [r.flatten(1) for r in results[-2:]]
        return sum((part * torch.linspace(0.6, 1.4, part.shape[1], dtype=part.dtype)).sum(1) for part in parts)

    def __str__(self) -> str:
        lines = [f"h{i} = {o.text.format(*o.sources)}" for i, o in enumerate(self.operations, 1)]
        return "\n".join(["h0 = x", *lines])


# Functions of one result that keep its shape; the arguments stay where third derivatives are tame.
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "h{0}.tanh()": torch.tanh,
    "h{0}.sin()": torch.sin,
    "F.silu(h{0})": F.silu,
    "F.softplus(h{0})": F.softplus,
    "F.gelu(h{0})": F.gelu,
    "F.relu(h{0})": F.relu,
    "(0.2 * h{0}).exp()": lambda h: (0.2 * h).exp(),
    "(1 + h{0}**2).log()": lambda h: (1 + h**2).log(),
    "(0.5 + h{0}.square()).sqrt()": lambda h: (0.5 + h.square()).sqrt(),
    "1 / (1.5 + h{0} * h{0})": lambda h: 1 / (1.5 + h * h),
    "torch.erf(h{0})": torch.erf,
    "h{0}.abs() + 0.3": lambda h: h.abs() + 0.3,
    "h{0}.clamp(-0.8, 0.9)": lambda h: h.clamp(-0.8, 0.9),
    "torch.where(h{0} > 0, h{0}, 0.2 * h{0})": lambda h: torch.where(h > 0, h, 0.2 * h),
    "h{0} - 0.3": lambda h: h - 0.3,
    "2 - h{0}": lambda h: 2 - h,
    "h{0}.flip(-1)": lambda h: h.flip(-1),
    "h{0}.roll(1, -1)": lambda h: h.roll(1, -1),
    "h{0}.cumsum(1)": lambda h: 0.5 * h.cumsum(1),
    "torch.softmax(h{0}, -1)": lambda h: torch.softmax(h, -1),
    "torch.log_softmax(h{0}, 1)": lambda h: torch.log_softmax(h, 1),
    "h{0} - h{0}.mean(-1, keepdim=True)": lambda h: h - h.mean(-1, keepdim=True),
    "h{0} + h{0}.amax(1, keepdim=True)": lambda h: h + h.amax(1, keepdim=True),
    "h{0} * h{0}.logsumexp(-1, keepdim=True)": lambda h: h * h.logsumexp(-1, keepdim=True),
    "h{0} / (0.5 + h{0}.norm(dim=1, keepdim=True))": lambda h: h / (0.5 + h.norm(dim=1, keepdim=True)),
    "h{0} + h{0}.var(-1, keepdim=True, correction=0)": lambda h: h + h.var(-1, keepdim=True, correction=0),
    "F.layer_norm(h{0}, h{0}.shape[-1:], eps=0.1)": lambda h: F.layer_norm(h, h.shape[-1:], eps=0.1),
    "F.rms_norm(h{0}, h{0}.shape[-1:], eps=0.1)": lambda h: F.rms_norm(h, h.shape[-1:], eps=0.1),
    "h{0}.sort(-1).values": lambda h: h.sort(-1).values,
}
# Functions of two results of one shape.
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "h{0} + h{1}": torch.add,
    "h{0} - 0.5 * h{1}": lambda a, b: a - 0.5 * b,
    "h{0} * h{1}": torch.mul,
    "h{0} / (1.5 + h{1}.square())": lambda a, b: a / (1.5 + b.square()),
    "torch.maximum(h{0}, h{1})": torch.maximum,
    "torch.lerp(h{0}, h{1}, 0.3)": lambda a, b: torch.lerp(a, b, 0.3),
    "torch.addcmul(h{0}, h{1}, h{0}, value=0.3)": lambda a, b: torch.addcmul(a, b, a, value=0.3),
    "h{0} * h{1}.sum(-1, keepdim=True).tanh()": lambda a, b: a * b.sum(-1, keepdim=True).tanh(),
    "torch.hypot(h{0}, 0.5 + h{1}.exp())": lambda a, b: torch.hypot(a, 0.5 + b.sin().exp()),
}


def weighted(choose: st.DrawFn, i: int, shape: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
    """Return an operation with parameters, and the shape of its result."""
    *rest, n = shape
    out = choose(st.integers(1, 5))
    options = {
        "w * h{0}": (lambda h, w: w * h, [(n,)], shape),
        "h{0} + w": (torch.add, [shape], shape),
        "F.linear(h{0}, w, b)": (F.linear, [(out, n), (out,)], (*rest, out)),
        "h{0} @ w": (torch.matmul, [(n, out)], (*rest, out)),
        "F.layer_norm(h{0}, w.shape, w, b)": (lambda h, w, b: F.layer_norm(h, w.shape, w, b, 0.1), [(n,)] * 2, shape),
        "F.prelu(h{0} - 0.1, w)": (lambda h, w: F.prelu(h - 0.1, w), [(1,)], shape),
        "torch.cat([h{0}, w.expand(...)], -1)": (
            lambda h, w: torch.cat([h, w.expand(*h.shape[:-1], 2)], -1), [(2,)], (*rest, n + 2),
        ),
    }  # fmt: skip
    if rest:
        (c,) = rest
        options |= {
            "F.conv1d(h{0}, w, b, padding=1)": (
                lambda h, w, b: F.conv1d(h, w, b, padding=1), [(out, c, 3), (out,)], (out, n),
            ),
            "F.group_norm(h{0}, 1, w, b)": (lambda h, w, b: F.group_norm(h, 1, w, b, 0.1), [(c,)] * 2, shape),
            "w @ h{0}": (lambda h, w: w @ h, [(out, c)], (out, n)),
            "einsum('bcn,kc,kn->bkn', h{0}, w, u)": (
                lambda h, w, u: torch.einsum("bcn,kc,kn->bkn", h, w, u), [(out, c), (out, n)], (out, n),
            ),
        }  # fmt: skip
    text = choose(st.sampled_from(list(options)))
    function, weights, result = options[text]
    return Operation(text, (i,), function, tuple(weights)), result


def reshaping(choose: st.DrawFn, i: int, shape: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
    """Return an operation that changes the number of axes, or attends over channels."""
    if len(shape) == 1:
        (n,) = shape
        options = {
            "h{0}[:, None, :]": (lambda h: h[:, None, :], (1, n)),
            "h{0}[:, :, None] * h{0}[:, None, :2]": (lambda h: h[:, :, None] * h[:, None, :2], (n, min(n, 2))),
            "torch.stack([h{0}, h{0}.sin()], 1)": (lambda h: torch.stack([h, h.sin()], 1), (2, n)),
        }
    else:
        c, n = shape
        options = {
            "h{0}.mean(1)": (lambda h: h.mean(1), (n,)),
            "h{0}.sum(-1)": (lambda h: h.sum(-1), (c,)),
            "h{0}.flatten(1)": (lambda h: h.flatten(1), (c * n,)),
            "h{0}.transpose(1, 2)": (lambda h: h.transpose(1, 2), (n, c)),
            "h{0}.amin(-1)": (lambda h: h.amin(-1), (c,)),
            "h{0}[:, 0]": (lambda h: h[:, 0], (n,)),
            "h{0}.tanh() @ h{0}.mT": (lambda h: h.tanh() @ h.mT, (c, c)),
            "F.scaled_dot_product_attention(h{0}, h{0}.sin(), h{0})": (
                lambda h: F.scaled_dot_product_attention(h, h.sin(), h), (c, n),
            ),
        }  # fmt: skip
    text = choose(st.sampled_from(list(options)))
    function, result = options[text]
    return Operation(text, (i,), function), result


@st.composite
def programs(choose: st.DrawFn) -> tuple[list[Operation], tuple[int, ...]]:
    shape = choose(st.sampled_from([(4,), (5,), (2, 3), (3, 4)]))
    shapes: list[tuple[int, ...]] = [shape]
    operations: list[Operation] = []
    for _ in range(choose(st.integers(2, 9))):
        i = choose(st.integers(max(0, len(shapes) - 3), len(shapes) - 1))
        sort = choose(st.sampled_from(["unary", "unary", "binary", "weighted", "weighted", "reshaping"]))
        if sort == "unary":
            text = choose(st.sampled_from(list(UNARY)))
            operation, result = Operation(text, (i,), UNARY[text]), shapes[i]
        elif sort == "binary":
            text = choose(st.sampled_from(list(BINARY)))
            j = choose(st.sampled_from([j for j, other in enumerate(shapes) if other == shapes[i]]))
            operation, result = Operation(text, (i, j), BINARY[text]), shapes[i]
        else:
            operation, result = (weighted if sort == "weighted" else reshaping)(choose, i, shapes[i])
        if torch.Size(result).numel() > 40:
            continue
        operations.append(operation)
        shapes.append(result)
    return operations, shape


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(drawn=programs(), seed=st.integers(0, 2**31), loss=st.sampled_from(["ssm", "vr"]), directions=st.integers(1, 3))
@pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
def test_random_programs_agree_with_autograd(
    drawn: tuple[list[Operation], tuple[int, ...]], seed: int, loss: str, directions: int
) -> None:
    operations, shape = drawn
    net = Program(operations, seed)
    note(f"{loss}, M = {directions}, seed {seed}, x of shape [{BATCH}, {', '.join(map(str, shape))}]\n{net}")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    v = torch.randn(directions, BATCH, *shape, generator=generator, dtype=torch.float64)
    results = []
    for by in (loss_on_jets, loss_by_autograd):
        value = by(net, x, v, loss)
        leaves = [x, *net.parameters()]
        grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        results.append([value.detach(), *grads])
    found, expected = results
    assert all(t.isfinite().all() for t in expected)
    oracle.assert_close(found, expected, RTOL)
