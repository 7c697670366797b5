"""Calls of the whole-net path on networks of torch, and the oracle's answer to the same call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastssm.activations import BY_NAME, INDEX
from fastssm.directions import rademacher
from fastssm.nn import make_activation
from tests import oracle
from tests.cuda.harness.device import copied, filled
from tests.cuda.harness.host import Host
from tests.cuda.harness.libraries import CSRC
from tests.cuda.harness.structures import Structures

NETWORK = Structures(CSRC / "engine" / "network.h")
REALS = {torch.float32: "float", torch.float64: "double"}
RTOL = {torch.float32: 2.0**-23 * 1024, torch.float64: 1e-10}
PRECISIONS = ("full", "tf32", "bf16", "split", "given")
KERNELS = {"energy": "small_objective", "score": "small_score"}


@dataclass(frozen=True)
class Case:
    """A network and a call.

    Attributes:
        kind: of the network: "energy" or "score".
        widths: of the hidden layers.
        activations: of each, or the one of all.
        samples: B.
        dim: D.
        count: M; for the basis, D.
        source: of the directions: "given", "seed" or "basis".
        library: whether there is a cuBLAS.
        skips: the hidden layers that skip.
    """

    widths: tuple[int, ...] = (8, 8)
    activations: str | tuple[str, ...] = "softplus"
    samples: int = 7
    dim: int = 2
    count: int = 2
    variance_reduced: bool = False
    dtype: torch.dtype = torch.float64
    source: str = "seed"
    extra: int = 0
    skips: tuple[int, ...] = ()
    of_inputs: bool = True
    of_layers: bool = True
    bias: bool = True
    precision: str = "full"
    library: bool = False
    kind: str = "energy"

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)

    def activation(self, layer: int) -> str:
        return self.activations if isinstance(self.activations, str) else self.activations[layer]


class Net(nn.Module):
    """An energy or a score of x and conditioning columns."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        widths = (case.dim + case.extra, *case.widths, 1 if case.kind == "energy" else case.dim)
        self.linears = nn.ModuleList(nn.Linear(a, b, case.bias) for a, b in pairwise(widths))
        self.functions = [make_activation(case.activation(layer)) for layer in range(len(case.widths))]
        self.skips = case.skips

    def forward(self, x: Tensor, *columns: Tensor) -> Tensor:
        h = torch.cat([x, *columns], dim=1)
        for layer, function in enumerate(self.functions):
            f = function(self.linears[layer](h))
            h = f + h if layer in self.skips else f
        return self.linears[-1](h)


class Problem(NamedTuple):
    """What a case is about, in float64 rounded to the case's dtype."""

    net: Net
    x: Tensor
    columns: list[Tensor]
    v: Tensor
    seed: Tensor
    weight: Tensor

    def leaves(self, case: Case) -> list[Tensor]:
        """Return what gradients are asked for."""
        return [
            *(self.net.parameters() if case.of_layers else ()),
            *((self.x, *self.columns) if case.of_inputs else ()),
        ]


class Result(NamedTuple):
    """What a call gave: whether it did anything; the terms, the loss and the gradients."""

    done: bool
    tensors: list[Tensor]


def problem(case: Case, seed: int = 0) -> Problem:
    """Draw a network and its inputs."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        t = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        return t.to(case.dtype).double()

    net = Net(case).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(drawn(*p.shape, scale=1.2 / p.shape[-1] ** 0.5 if p.ndim == 2 else 0.3))
    key = torch.tensor([0x123456789ABCDEF ^ seed])  # of more than 32 bits
    if case.source == "basis":
        v = (case.dim**0.5 * torch.eye(case.dim, dtype=torch.float64))[:, None].expand(-1, case.samples, -1)
    elif case.source == "seed":
        v = rademacher(key[0], (case.count, case.samples, case.dim), dtype=torch.float64)
    else:
        v = drawn(case.count, case.samples, case.dim)
    columns = [drawn(case.samples, case.extra).requires_grad_()] if case.extra else []
    return Problem(net, drawn(case.samples, case.dim).requires_grad_(), columns, v, key, drawn(case.samples).abs())


def expected(case: Case, p: Problem) -> list[Tensor]:
    """Return what the oracle says: the terms of every sample, the loss, the gradients."""
    terms = oracle.terms(p.net, p.x, p.v, energy=case.kind == "energy", cond=p.columns)
    jacobian = terms.along.mean(0)
    square = (terms.score.square().sum(1) if case.variance_reduced else terms.projected_score.square().mean(0)) / 2
    loss = (p.weight * (jacobian + square)).sum()
    leaves = p.leaves(case)
    gradients = oracle.gradients(loss, leaves) if leaves else []
    return [jacobian, square, loss.reshape(1), *gradients]


class Arguments:
    """The structs of csrc/engine/network.h for a case, with NaN in all that it is to write, and what they point to."""

    def __init__(self, case: Case, p: Problem) -> None:
        self.case, self.p, self.real, self.kept = case, p, REALS[case.dtype], []
        self.parameters = list(p.net.parameters())
        self.jacobian, self.square, self.loss = self.empty(case.samples), self.empty(case.samples), self.empty(1)
        self.on_parameters = [self.empty(*t.shape) for t in self.parameters] if case.of_layers else []
        self.on_inputs = [self.empty(*t.shape) for t in (p.x, *p.columns)] if case.of_inputs else []

    def array(self, t: Tensor | Sequence[float]) -> Any:
        values = torch.as_tensor(t, dtype=torch.float64).detach().to(self.case.dtype).numpy()
        self.kept.append(copied(values, values.dtype))
        return self.kept[-1]

    def empty(self, *shape: int) -> Any:
        return self.array(torch.full(shape, torch.nan, dtype=torch.float64))

    def struct(self, name: str, **values: Any) -> ctypes.Structure:
        return filled(NETWORK[f"{name}<{self.real}>"], **values)

    def several(self, name: str, each: Iterator[Any]) -> int:
        structs = list(each)
        self.kept.append((NETWORK[f"{name}<{self.real}>"] * len(structs))(*structs))
        return ctypes.addressof(self.kept[-1])

    def of(self, layer: int, tensors: Sequence[Any]) -> dict[str, Any]:
        """Return the weight and the bias of a layer."""
        mine = tensors[layer * (1 + self.case.bias) :][: 1 + self.case.bias]
        return {"weight": mine[0], "bias": mine[1] if self.case.bias else None, "scale": None, "shift": None}

    def layer(self, index: int) -> ctypes.Structure:
        name = self.case.activation(index) if index < len(self.case.widths) else "identity"
        module = make_activation(name)
        out, width = self.p.net.linears[index].weight.shape
        return self.struct(
            "Layer",
            **self.of(index, [self.array(t) for t in self.parameters]),
            **{"in": width, "out": out},
            activation=INDEX[name],
            constants=self.array([float(getattr(module, c)) for c in BY_NAME[name].parameters] + [0.0]),
            skip=index in self.case.skips,
        )

    def problem(self) -> ctypes.Structure:
        case, p = self.case, self.p
        v = self.array(p.v) if case.source == "given" else None
        depth = len(p.net.linears)
        return self.struct(
            "Problem",
            kind=list(KERNELS).index(case.kind),
            layers=self.several("Layer", map(self.layer, range(depth))),
            depth=depth,
            x=self.array(p.x),
            columns=self.array(p.columns[0]) if p.columns else None,
            samples=case.samples,
            dim=case.dim,
            extra=case.extra,
            directions={"count": len(p.v), "v": v, "seeded": case.source == "seed", "seed": 0},
        )

    def objective(self) -> ctypes.Structure:
        return self.struct(
            "Objective",
            variance_reduced=self.case.variance_reduced,
            weight=self.array(2 * self.p.weight),
            projected_jacobian=self.jacobian,
            square=self.square,
            target=None,
            factor=0.5,
        )

    def gradients(self) -> ctypes.Structure:
        x, columns = (*self.on_inputs, None, None)[:2]
        each = (self.struct("LayerGradient", **self.of(i, self.on_parameters)) for i in range(len(self.p.net.linears)))
        layers = self.several("LayerGradient", each) if self.case.of_layers else None
        return self.struct("Gradients", x=x, columns=columns, layers=layers)

    def results(self) -> list[Tensor]:
        arrays = (self.jacobian, self.square, self.loss, *self.on_parameters, *self.on_inputs)
        return [torch.from_numpy(t) for t in arrays]


class WholeNet(Host):
    """The whole-net path on a device."""

    def run(self, case: Case, p: Problem, small: bool = True) -> Result:
        """Run a case, on the whole-net path or layer by layer."""
        given = Arguments(case, p)
        structs = given.problem(), given.objective(), given.gradients()
        problem, objective, gradients = (ctypes.byref(struct) for struct in structs)
        key = copied(p.seed.numpy(), np.int64)
        seed, loss = (ctypes.c_void_p(array.ctypes.data) for array in (key, given.loss))
        function, precision = f"fastssm_objective_{given.real}", PRECISIONS.index(case.precision)
        done = self.call(function, problem, seed, objective, loss, gradients, precision, small, case.library)
        return Result(done, given.results())

    def check(self, case: Case, seed: int = 0) -> Result:
        """Run a case and compare all that it gives with the oracle."""
        p = problem(case, seed)
        found = self.run(case, p)
        kernels = [f"{kernel}_{REALS[case.dtype]}" for kernel in (KERNELS[case.kind], "small_reduce")]
        assert [launch.kernel for launch in self.launches] == kernels
        oracle.assert_close(found.tensors, expected(case, p), RTOL[case.dtype], str(case))
        return found
