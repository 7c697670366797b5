"""The command `fastssm check`: right networks pass, wrong networks and a wrong library do not."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastssm.cli import check, main
from fastssm.cli.autograd import autograd_loss, basis

NETS = """
import torch
from torch import nn
from fastssm.nn import MLP

class BadCube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x**2

class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
    def forward(self, x):
        return self.last(BadCube.apply(self.first(x)))

class Detached(Bad):
    def forward(self, x):
        return self.last(torch.tanh(self.first(x)) * self.first(x).detach())

class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
    def forward(self, x):
        return self.net(x)

def mlp(): return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))
def score(): return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
def conditioned(): return MLP(3, [8], cond_dim=2), torch.randn(5, 3), torch.randn(5, 2)
def pictures(): return Energy()
def normed(): return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Softplus(), nn.Linear(8, 1))
class Sets(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)
    def forward(self, x):
        return self.last(self.attention(x, x, x, need_weights=False)[0].mean(1))
def sets(): return Sets()
def conditional(): return MLP(3, [8], cond_dim=2)
def one(): return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
def no_network(): return 3
instance = mlp()
class Flat(nn.Module):
    def __init__(self, side=20, channels=3):
        super().__init__()
        self.last = nn.Linear(4 * (side - 2) ** 2, 1)  # before the convolution, though it is used after
        self.first = nn.Conv2d(channels, 4, 3)
    def forward(self, x):
        return self.last(torch.tanh(self.first(x)).flatten(1))
def pooled():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
def series(): return nn.Sequential(nn.Conv1d(2, 3, 5), nn.SiLU(), nn.Flatten(), nn.Linear(3 * 30, 1))
def needs(width): return mlp()
def classes(): return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))
number = 3
def bad_batch(): return mlp(), [1, 2]
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("mlp", []),
        ("score", []),
        ("conditioned", []),
        ("pictures", ["--shape", "2,4,4"]),
        ("normed", []),
        ("sets", ["--shape", "3,4"]),
        ("one", ["--kind", "score"]),
        ("one", ["--kind", "energy"]),
        ("mlp", ["--backend", "reference"]),
        ("instance", []),
        ("pooled", []),
        ("series", []),
    ],
)
def test_check_of_right_networks(
    nets: str, factory: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", f"{nets}:{factory}", *options]) == 0
    text = capsys.readouterr().out
    assert "all agree" in text
    assert "WRONG" not in text
    assert "gradient along a direction" in text


@pytest.mark.parametrize("factory", ["Bad", "Detached"])
def test_check_of_wrong_networks(nets: str, factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--model", f"{nets}:{factory}"]) == 1
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("dE/dx") and line.endswith("WRONG")]
    assert "rows are WRONG" in text


def test_check_finds_a_wrong_library(
    nets: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fastssm

    exact = fastssm.exact_loss
    monkeypatch.setattr(fastssm, "exact_loss", lambda *args, **options: exact(*args, **options) * (1 + 1e-8))
    assert main(["check", "--model", f"{nets}:mlp"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("WRONG") for line in lines) >= 4


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("one", [], "pass --kind energy or --kind score"),
        ("no_network", [], "must be a network or return one"),
        ("bad_batch", [], "must return tensors after the network, got list"),
        ("absent", [], "has no attribute 'absent'"),
        ("number", [], "must be a network or return one, alone or first in a tuple, got int"),
        ("needs", [], "is called without arguments, but that fails (missing a required argument: 'width')"),
        ("classes", [], "no shape of a sample that the layers of the network suggest gives energies or scores; pass"),
        ("sets", [], "pass --shape, such as --shape 10"),
        ("conditional", [], "pass --shape"),
        ("mlp", ["--shape", "4"], "the network fails on a batch of shape (8, 4) (RuntimeError: mat1 and mat2"),
    ],
)
def test_check_refusals(
    nets: str, factory: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", f"{nets}:{factory}", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_oracle_against_explicit_jacobians() -> None:
    net, generator = (
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double(),
        torch.Generator().manual_seed(0),
    )
    x, v = torch.randn(4, 3, generator=generator).double(), torch.randn(2, 4, 3, generator=generator).double()

    def score(row: Tensor) -> Tensor:
        return -torch.func.grad(lambda r: net(r).squeeze())(row)

    scores = torch.stack([score(row) for row in x])
    jacobians = torch.stack([torch.func.jacrev(score)(row) for row in x])
    curvature = torch.einsum("mbi,bij,mbj->mb", v, jacobians, v)
    plain = curvature + (v * scores).sum(-1).square() / 2
    reduced = curvature + scores.square().sum(-1) / 2
    exact = jacobians.diagonal(dim1=1, dim2=2).sum(-1) + scores.square().sum(-1) / 2
    for directions, variance_reduced, expected in ((v, False, plain), (v, True, reduced), (basis(x), True, exact)):
        found = autograd_loss(net, x, directions, kind="energy", variance_reduced=variance_reduced)
        torch.testing.assert_close(found, expected.mean())


def test_the_shape_of_a_sample_is_found(nets: str) -> None:
    found = importlib.import_module(nets)
    expected = {
        "mlp": (3,), "score": (3,), "Flat": (3, 20, 20), "pooled": (2, 8, 8), "series": (2, 34), "pictures": (2, 4, 4)
    }  # fmt: skip
    for name, shape in expected.items():
        assert check.guess_shape(getattr(found, name)().double().eval()) == shape, name
    large, state = found.Flat(64, 1).double(), torch.random.get_rng_state()
    assert check.guess_shape(large) == (1, 64, 64)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_relative_error() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert check.relative_error(zero, zero) == 0
    assert check.relative_error(one, zero) == pytest.approx(2**0.5)
    assert check.relative_error(1.1 * one, one) == pytest.approx(0.1, rel=1e-5)
    assert not check.Row("x", (float("nan"),), 1e-9).passed
