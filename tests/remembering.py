"""Networks to recognise, and what tests of remembered recognitions ask of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssm
from fastssm import Network, recognize
from fastssm.backends import guarded
from fastssm.backends.entries import compiled
from fastssm.backends.entries.flat import Form
from fastssm.nn import MLP, Sin
from fastssm.recognition import cache

D = 3


class MyLinear(nn.Linear):
    """A subclass may compute anything."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(D, 4),
        nn.Sequential(nn.Softplus(), nn.Dropout(0.5).eval(), nn.Linear(4, 4, bias=False)),
        nn.GELU(),
        nn.Linear(4, 4),
        Sin(),
        nn.Identity(),
        nn.Linear(4, 1),
    ).double()


def mlp() -> nn.Module:
    return MLP(D, [4, 4, 4], activation="celu").double()


MODELS = {"sequential": sequential, "mlp": mlp}
X = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
V = torch.randn(2, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def remembered(model: nn.Module) -> Network:
    found = cache.recognize_cached(model)
    assert cache.recognize_cached(model) is found, "it is recognised anew each time, so that the test says nothing"
    assert isinstance(found, Network)
    fastssm.exact_loss(model, X)
    assert again(model) or not compiled.DEVICES, "there is no guarded call, so that the test says nothing"
    return found


def again(model: nn.Module) -> bool:
    """Say whether the guarded call runs (fastssm/backends/guarded.py)."""
    return guarded.objective(model, X, None, 0, Form(False, True)) is not None


def same(model: nn.Module) -> None:
    """Compare what is recalled of a model with what is recognised, errors included."""
    if again(model):
        entry = cache.recognised(model)
        assert entry is not None
        assert entry.holds()
    found: list[object] = []
    for ask in (cache.recognize_cached, recognize):
        try:
            answer = ask(model)
            found.append((answer, str(answer)) if isinstance(answer, Network) else str(answer))
        except Exception as error:
            found.append(repr(error))
    assert found[0] == found[1]
