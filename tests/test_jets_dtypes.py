"""Jets in narrow dtypes and under autocast against float64, within what the dtype rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssm
from tests import oracle
from tests.jets.networks import NETWORKS, data, made

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDINGS = 64  # how many of a dtype's a loss or a gradient may be off, relative to its largest entry


def results(net: Any, x: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    value = fastssm.sliced_loss(net, x, v=v, kind=net.kind, backend="jets", **options)
    return [value, *torch.autograd.grad(value, list(net.parameters()))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_narrow_dtypes_agree_with_float64(dtype: torch.dtype) -> None:
    """The same rounded numbers in float64 are right; losses are in float32 at least, gradients in the dtype of each."""
    wrong = {}
    for name, network in NETWORKS.items():
        narrow = made(network, dtype)
        wide = copy.deepcopy(narrow).double()
        x, v = data(narrow, 16, 2, dtype)
        for reduced in (False, True):
            found = results(narrow, x, v, variance_reduced=reduced)
            right = results(wide, x.double(), v.double(), variance_reduced=reduced)
            assert found[0].dtype == torch.float32
            assert {g.dtype for g in found[1:]} == {dtype}
            try:
                oracle.assert_close(found, right, ROUNDINGS * torch.finfo(dtype).eps)
            except AssertionError as error:
                wrong[f"{name}, {reduced}"] = str(error)
    assert wrong == {}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_autocast_runs_the_model_as_autocast_does(network: Callable[[], Any]) -> None:
    """Products are in bfloat16 and parameters in float32; plain autograd under the same autocast is the judge."""
    net = made(network, torch.float32)
    x, v = data(net, 16, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(net, x, v, variance_reduced=False)
        by_reference = fastssm.sliced_loss(net, x, v=v, kind=net.kind, backend="reference", variance_reduced=False)
    wide = copy.deepcopy(net).double()
    right = results(wide, x.double(), v.double(), variance_reduced=False)
    eps = torch.finfo(torch.bfloat16).eps
    assert {g.dtype for g in found} == {torch.float32}
    oracle.assert_close(found, right, 32 * eps)
    oracle.assert_close([found[0]], [by_reference.double()], 16 * eps)
    assert oracle.largest(found[0] - right[0]) > 1e-2 * eps  # it did round
