"""What is remembered of a model keeps neither the model nor a layer of it alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastssm.nn import MLP
from fastssm.recognition import cache
from tests.remembering import MODELS, D, remembered, sequential


def with_a_parent() -> nn.Module:
    model = sequential()
    model[1].__dict__["parent"] = model
    return model


LIVES = {
    **MODELS,
    "lone linear": lambda: nn.Linear(D, D),
    "conditioned": lambda: MLP(D, [4], cond_dim=2),
    "refused": lambda: nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 1)),
    "compiled": lambda: torch.compile(sequential(), backend="eager"),
}


@pytest.mark.parametrize("build", LIVES.values(), ids=LIVES)
def test_a_model_dies_with_its_last_reference(build: Callable[[], nn.Module]) -> None:
    model = build()
    cache.recognize_cached(model)
    cache.recognize_cached(model)
    lives = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
    del model
    gc.collect()
    assert [life() for life in lives] == [None] * len(lives)


def test_a_layer_that_was_replaced_dies() -> None:
    model = sequential()
    remembered(model)
    life = weakref.ref(model[1])
    model[1] = nn.LayerNorm(D).double()
    cache.recognize_cached(model)
    gc.collect()
    assert life() is None


def test_children_that_know_their_parent_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_MODELS", 2)
    lives = []
    for _ in range(4):
        model = with_a_parent()
        remembered(model)
        lives.append(weakref.ref(model))
    del model
    gc.collect()
    assert sum(life() is not None for life in lives) <= 2
