"""The drop-in losses against the packages that they replace: same seed, same value, same gradients."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.nn import MLP
from tests import oracle

B, D = 9, 3


def network() -> nn.Module:
    torch.manual_seed(0)
    net = MLP(D, [8, 7], 1, "softplus").double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def data() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def value_and_gradients(loss: Any, parameters: Any) -> list[Tensor]:
    torch.manual_seed(3)
    value = loss()
    value = getattr(value, "loss", value)
    return [value.detach(), *torch.autograd.grad(value, list(parameters), allow_unused=True, materialize_grads=True)]


TORCHEBM = {
    "SlicedScoreMatching": [
        {"n_projections": m, "projection_type": p} for m in (1, 5) for p in ("rademacher", "sphere", "gaussian")
    ],
    "ScoreMatching": [{}, {"hessian_method": "exact"}],
    "DenoisingScoreMatching": [{"noise_scale": 0.2}],
}


@pytest.mark.covering(1)
@pytest.mark.parametrize(("name", "options"), [(n, o) for n, every in TORCHEBM.items() for o in every])
@pytest.mark.parametrize("regularised", [False, True])
def test_torchebm(name: str, options: dict[str, Any], regularised: bool) -> None:
    losses = pytest.importorskip("torchebm.losses")
    from fastssm.integrations import torchebm

    net, x = network(), data()
    options = (
        options | {"model": net, "dtype": torch.float64} | ({"regularization_strength": 0.3} if regularised else {})
    )
    ours, theirs = getattr(torchebm, name)(**options), getattr(losses, name)(**options)
    assert isinstance(ours, getattr(losses, name))
    found, expected = (value_and_gradients(lambda loss=loss: loss(x), net.parameters()) for loss in (ours, theirs))
    oracle.assert_close(found, expected, 1e-10)
    assert regularised or not x.requires_grad  # torchebm's own regulariser turns it on


def test_torchebm_draws_from_the_generator_and_keeps_its_own_paths() -> None:
    losses = pytest.importorskip("torchebm.losses")
    from fastssm.integrations.torchebm import SlicedScoreMatching

    net, x = network(), data()
    ours, theirs = (
        kind(net, n_projections=2, dtype=torch.float64) for kind in (SlicedScoreMatching, losses.SlicedScoreMatching)
    )
    values = [loss(x, generator=torch.Generator().manual_seed(5)) for loss in (ours, theirs)]
    torch.testing.assert_close(*values)
    with pytest.raises(NotImplementedError, match="Conditional"):
        ours(x, y=torch.zeros(B))
    functional = SlicedScoreMatching(net, use_autograd=False, dtype=torch.float64)  # for sharded weights: theirs
    assert functional(x).isfinite()
    clone = pickle.loads(pickle.dumps(ours))
    assert type(clone) is SlicedScoreMatching
    assert copy.deepcopy(ours)(x).isfinite()


def test_torchebm_trains_on_the_engine() -> None:
    pytest.importorskip("torchebm")
    from fastssm.integrations.torchebm import SlicedScoreMatching

    loss = SlicedScoreMatching(MLP(D, [8], 1))
    x = data().float()
    loss(x).backward()
    assert fastssm.explain(loss.model, x).backend != "reference"
    assert all(p.grad is not None for p in loss.parameters())


def energies(ebm: Any) -> dict[str, Any]:
    net = network()
    return {
        "module": net,
        "wrapper": ebm.EnergyModel(net),
        "mlp": ebm.nets.MLPEnergy(D, (8, 7)).double(),
        "normalised": ebm.nets.MLPEnergy(D, (8,), spectral_norm=True).double().eval(),
        "function": lambda x: net(x).squeeze(1) + x.square().sum(1),
    }


EBMKIT = {
    "SlicedScoreMatching": [{}, {"n_projections": 3}, {"n_projections": 2, "vr": False}],
    "ExactScoreMatching": [{}],
    "DenoisingScoreMatching": [{"sigma": 0.2}],
}


@pytest.mark.covering(1)
@pytest.mark.parametrize(("name", "options"), [(n, o) for n, every in EBMKIT.items() for o in every])
@pytest.mark.parametrize("energy", ["module", "wrapper", "mlp", "normalised", "function"])
def test_ebmkit(name: str, options: dict[str, Any], energy: str) -> None:
    ebm = pytest.importorskip("ebm")
    from fastssm.integrations import ebmkit

    model, x = energies(ebm)[energy], data()
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    callable_model = (lambda x: model(x).reshape(len(x))) if energy == "module" else model
    ours, theirs = getattr(ebmkit, name)(**options), getattr(ebm, name)(**options)
    given = {ours: model, theirs: callable_model}
    outputs = []
    for loss in (ours, theirs):
        torch.manual_seed(3)
        outputs.append(loss(given[loss], x))
    assert type(outputs[0]) is type(outputs[1]) is ebm.LossOutput
    assert outputs[0].metrics["loss"] == pytest.approx(outputs[1].metrics["loss"], rel=1e-10)
    if parameters:
        found, expected = (
            value_and_gradients(lambda loss=loss: loss(given[loss], x), parameters) for loss in (ours, theirs)
        )
        oracle.assert_close(found, expected, 1e-10)


def test_ebmkit_wrappers_run_fused() -> None:
    ebm = pytest.importorskip("ebm")
    from fastssm.integrations.ebmkit import network_of

    for name, energy in energies(ebm).items():
        fused = isinstance(fastssm.recognize(network_of(energy)), fastssm.Network)
        assert fused == (name != "function"), name
    hooked = ebm.EnergyModel(network())
    hooked.register_forward_hook(lambda *args: None)
    assert network_of(hooked) is hooked


def test_ebmkit_refuses_what_it_refuses() -> None:
    pytest.importorskip("ebm")
    from fastssm.integrations.ebmkit import DenoisingScoreMatching, SlicedScoreMatching

    with pytest.raises(ValueError, match="n_projections must be at least 1"):
        SlicedScoreMatching(0)
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        DenoisingScoreMatching(0.0)


@pytest.mark.parametrize("name", ["torchebm", "ebmkit"])
def test_without_the_package_the_message_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"torchebm": "torchebm", "ebmkit": "ebm"}[name], None)
    module = importlib.import_module(f"fastssm.integrations.{name}")
    if name == "torchebm":
        module._classes.cache_clear()
    with pytest.raises(ImportError, match=f"needs the package {name}.*pip install {name}"):
        module.SlicedScoreMatching()
    if name == "torchebm":
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            module.Nothing  # noqa: B018
