"""The networks, backends and entries that tests of several functions share, each with the same draw of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import backends
from fastssm.activations import TABLE
from fastssm.backends import fused
from fastssm.backends.entries import compiled, dispatcher, eager
from fastssm.nn import MLP, make_activation
from tests.covering import each

BATCH, RTOL, DEVICE = 6, 1e-10, torch.get_default_device()
COMPILED = tuple(compiled.DEVICES)  # ("cpu",) where the engine is built
BACKENDS = ("torch", "reference", *COMPILED)  # jets are tried in test_nets.py and test_jets_*.py
OPERATORS = {"ops": dispatcher, "eager": eager}  # seen by torch, and from an autograd function of ours
ENTRIES = (*OPERATORS, *BACKENDS)


@dataclass(frozen=True)
class Case:
    name: str
    energy: bool
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3,)
    cond: tuple[int, ...] = ()  # widths of the conditioning arguments

    def problem(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, tuple[Tensor, ...]]:
        torch.manual_seed(sum(map(ord, self.name)))
        model = self.build().double()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(0.6 * torch.randn_like(p))
        x = 0.7 * torch.randn(BATCH, *self.shape, dtype=torch.float64)
        cond = tuple(torch.randn(BATCH, width, dtype=torch.float64).to(dtype) for width in self.cond)
        return model.to(dtype), x.to(dtype), cond


def sequential(*layers: nn.Module | int, bias: bool = True) -> nn.Sequential:
    """Put affine maps between neighbouring widths."""
    out: list[nn.Module] = []
    width = 3
    for layer in layers:
        out.append(nn.Linear(width, layer, bias=bias) if isinstance(layer, int) else layer)
        width = layer if isinstance(layer, int) else width
    return nn.Sequential(*out)


def mlps(energy: bool) -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    out = 1 if energy else 3

    def mlp(widths: list[int], cond: tuple[int, ...] = (), **options: object) -> object:
        return (lambda: MLP(3, widths, out, **options)), cond

    found = {f"depth-{n}": mlp([5, 4, 6][:n], activation="silu") for n in range(4)}
    found["residual"] = mlp([4, 4, 5, 5], residual=True, activation="tanh")
    for how in ("concat", "film", "additive"):
        found[how] = mlp([4, 4], (2,), cond_dim=2, conditioning=how, residual=True)
        found[f"{how}-time"] = mlp([4, 5], (1,), fourier_time=True, conditioning=how)
    found["two-conds"] = mlp([5, 4], (2, 1), cond_dim=2, fourier_time=True, conditioning="film")
    found["conditioned-depth-0"] = mlp([], (2,), cond_dim=2)
    return found


def sequentials(energy: bool) -> dict[str, Callable[[], nn.Module]]:
    out = 1 if energy else 3
    weight_norm = nn.utils.parametrizations.weight_norm
    return {
        **{
            row.name: lambda row=row: sequential(5, make_activation(row.name), 4, make_activation(row.name), out)
            for row in TABLE
        },
        "settings": lambda: sequential(
            5, nn.Softplus(2.0, 1.0), 4, nn.ELU(0.7), 5, nn.CELU(1.5), 4, nn.LeakyReLU(0.3), 4, fastssm.nn.Sin(2.5), out
        ),
        "no-bias": lambda: sequential(5, nn.Softplus(), 4, nn.Tanh(), out, bias=False),
        "consecutive": lambda: sequential(5, 4, nn.Softplus(), 4, 5, nn.SiLU(), out),
        "activation-first": lambda: sequential(nn.Tanh(), 5, nn.Softplus(), out),
        "activation-last": lambda: sequential(5, nn.Softplus(), out, nn.Tanh()),
        "two-activations": lambda: sequential(5, nn.Softplus(), nn.Tanh(), out),
        "one-map": lambda: sequential(out),
        "nested": lambda: nn.Sequential(
            nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh())),
            nn.Dropout(0.5).eval(),
            nn.Identity(),
            nn.Linear(4, out),
        ),
        "weight-norm": lambda: nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.SiLU(), weight_norm(nn.Linear(4, out))),
    }


CASES = [
    case
    for energy, kind in ((True, "energy"), (False, "score"))
    for case in (
        *(Case(f"{kind}-{name}", energy, build, cond=cond) for name, (build, cond) in mlps(energy).items()),
        *(Case(f"{kind}-{name}", energy, build) for name, build in sequentials(energy).items()),
    )
]
CASES += [
    Case(
        "energy-image",
        True,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 1)),
        (2, 2, 2),
    ),
    Case("score-image", False, lambda: MLP(8, [4], 8, "tanh"), (2, 2, 2)),
]
BY_NAME = {case.name: case for case in CASES}


def over(cases: Sequence[Case], size: int = 4) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test of one `case` on several of them, as subtests."""
    return each("case", cases, size, attrgetter("name"))


def through(entry: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a backend, having put the operators behind it where they are the entry."""
    if entry in OPERATORS:
        monkeypatch.setitem(backends.BACKENDS, "torch", fused.Fused("torch", OPERATORS[entry]))
    return "torch" if entry in OPERATORS else entry
