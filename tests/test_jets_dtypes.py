"""Jets in narrow dtypes and under autocast against float64, within what the dtype rounds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssm
from tests import oracle
from tests.jets.networks import NETWORKS, data, made
from tests.nets.oracle import written_out

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDINGS = {"conv": 4, "attention": 24, "score": 4}  # of the dtype, of the largest gradient and of the loss's terms


def results(net: Any, x: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    value = fastssm.sliced_loss(net, x, v=v, kind=net.kind, backend="jets", **options)
    return [value, *torch.autograd.grad(value, list(net.parameters()))]


def errors(found: list[Tensor], net: Any, x: Tensor, v: Tensor, loss: str) -> tuple[float, float]:
    """Return the errors of a loss and of gradients, by the same network and numbers in float64."""
    wide, x, v, energy = copy.deepcopy(net).double(), x.double(), v.double(), net.kind == "energy"
    with written_out():
        magnitude = oracle.magnitudes(wide, x, v, loss, energy=energy).mean().item()
        value = oracle.losses(wide, x, v, loss, energy=energy).mean()
    grads = oracle.gradients(value, list(wide.parameters()))
    worst = max(oracle.largest(f.double() - g) for f, g in zip(found[1:], grads, strict=True))
    return abs(found[0].item() - value.item()) / magnitude, worst / max(map(oracle.largest, grads))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_narrow_dtypes_agree_with_float64(dtype: torch.dtype) -> None:
    """Losses are in float32 at least, gradients in the dtype of each parameter."""
    wrong = {}
    for name, network in NETWORKS.items():
        net = made(network, dtype)
        x, v = data(net, 16, 2, dtype)
        for loss in ("ssm", "vr"):
            found = results(net, x, v, **oracle.OPTIONS[loss])
            assert found[0].dtype == torch.float32
            assert {g.dtype for g in found[1:]} == {dtype}
            off = errors(found, net, x, v, loss)
            if max(off) > ROUNDINGS[name] * torch.finfo(dtype).eps:
                wrong[f"{name}, {loss}"] = off
    assert wrong == {}


def test_autocast_runs_the_model_as_autocast_does() -> None:
    """Products are in bfloat16, parameters and gradients in float32."""
    eps, wrong = torch.finfo(torch.bfloat16).eps, {}
    for name, network in NETWORKS.items():
        net = made(network, torch.float32)
        x, v = data(net, 16, 2, torch.float32)
        for loss in ("ssm", "vr"):
            with torch.autocast("cpu", torch.bfloat16):
                found = results(net, x, v, **oracle.OPTIONS[loss])
            assert {t.dtype for t in found} == {torch.float32}
            off = errors(found, net, x, v, loss)
            if not 0.01 * eps < max(off) <= 4 * eps:  # it rounds, and no more than that
                wrong[f"{name}, {loss}"] = off
    assert wrong == {}
