"""The table of trainable losses: every row trains, and draws the same batch however many ranks share it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fastssm.data import load, prepare
from fastssm.nn import MLP
from fastssm.training import LOSSES, OBJECTIVES, Ranks, TrainConfig, Training

CPU = torch.device("cpu")
PAIRS = [(loss, kind) for loss in LOSSES for kind in OBJECTIVES[loss].kinds]


@pytest.fixture(scope="module")
def prepared() -> Any:
    return prepare(load("moons"))


def config(**changes: Any) -> TrainConfig:
    return replace(TrainConfig("moons", hidden=(8, 8), steps=4, batch=12, evaluate_every=2, projections=2), **changes)


@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_every_row_takes_a_step_that_moves_every_weight(prepared: Any, loss: str, kind: str) -> None:
    training = Training(config(loss=loss, kind=kind), prepared, Ranks(CPU))
    before = {name: p.clone() for name, p in training.net.named_parameters()}
    assert training.advance().isfinite()
    still = [name for name, p in training.net.named_parameters() if torch.equal(p, before[name])]
    assert still == [] or (kind == "energy" and still in (["readout.bias"], ["head.readout.bias"]))
    training.advance()
    assert training.evaluate()["validation_loss"] < float("inf")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_batch_of_two_ranks_is_that_of_one(prepared: Any, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "_distributed", lambda self, module: module)
    whole, *parts = (Training(config(loss=loss), prepared, Ranks(CPU, *who))._batch() for who in ((), (0, 2), (1, 2)))
    assert torch.equal(torch.cat([rows for rows, _ in parts]), whole[0])
    for name, tensor in whole[1].items():
        axis = 1 if name == "v" else 0
        assert torch.equal(torch.cat([drawn[name] for _, drawn in parts], axis), tensor)


@pytest.mark.parametrize("loss", [n for n in LOSSES if OBJECTIVES[n].blurs and "noise" in OBJECTIVES[n].draws])
def test_losses_that_learn_from_noise_need_some(prepared: Any, loss: str) -> None:
    clean = prepare(load("moons"), noise=0.0)
    with pytest.raises(ValueError, match="pass --noise"):
        Training(config(loss=loss), clean, Ranks(CPU))


def test_the_tempered_network_is_evaluated_without_noise(prepared: Any) -> None:
    training = Training(config(loss="tempered"), prepared, Ranks(CPU))
    x = torch.randn(5, 2)
    found = OBJECTIVES["tempered"].evaluated(training.net, training.config, training.facts)
    torch.testing.assert_close(found(x), training.net(nn.functional.pad(x, (0, 1))))


def test_a_loss_refuses_the_kind_that_it_does_not_train() -> None:
    with pytest.raises(ValueError, match=r"kind \(with loss=finite-difference-denoising\) must be one of energy"):
        config(loss="finite-difference-denoising", kind="score")


@pytest.mark.parametrize("loss", ["annealed-denoising", "annealed-sliced"])
def test_noise_conditional_networks_are_evaluated_at_the_noise_of_the_rows(prepared: Any, loss: str) -> None:
    training = Training(config(loss=loss), prepared, Ranks(CPU))
    level = torch.full((len(prepared.test), 1), math.log(prepared.noise))
    expected = training.net(prepared.test, level)
    torch.testing.assert_close(training.evaluated(training.net)(prepared.test), expected)
    sigmas = training.loss.options["sigmas"]
    assert sigmas[-1] == pytest.approx(prepared.noise)
    assert sigmas[0] == pytest.approx(2.0)
    assert sigmas == sorted(sigmas, reverse=True)


def test_a_diffusion_is_evaluated_where_its_noise_is_that_of_the_rows(prepared: Any) -> None:
    training = Training(config(loss="likelihood"), prepared, Ranks(CPU))
    sde, start = training.loss.options["sde"], torch.zeros(len(prepared.test))
    assert float(sde.std(start[0])) == pytest.approx(prepared.noise)
    torch.testing.assert_close(training.evaluated(training.net)(prepared.test), training.net(prepared.test, start))


@pytest.mark.parametrize("out", [1, 3])
@pytest.mark.parametrize("options", [
    {"cond_dim": 2}, {"fourier_time": True}, {"cond_dim": 2, "conditioning": "film", "fourier_time": True},
    {"cond_dim": 2, "conditioning": "additive"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("widths", [[5, 5], []], ids=str)
def test_a_network_at_one_conditioning(widths: list[int], options: dict[str, Any], out: int) -> None:
    if not widths and "conditioning" in options:
        pytest.skip("nothing to modulate")
    torch.manual_seed(0)
    net = MLP(3, widths, out, "tanh", residual=True, **options).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(7, 3).double()
    cond = [torch.randn(1, 2).double()] * ("cond_dim" in options) + [torch.rand(1).double()] * (
        "fourier_time" in options
    )
    state = {name: t.clone() for name, t in net.state_dict().items()}
    found = net.at(*cond)
    torch.testing.assert_close(found(x), net(x, *(c.expand(7, *c.shape[1:]) for c in cond)))
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    assert all(p.requires_grad for p in found.parameters())
    with pytest.raises(ValueError, match="must have one row, got 2"):
        net.at(*(c.expand(2, *c.shape[1:]) for c in cond))


def test_a_parametrized_network_at_one_conditioning() -> None:
    net = MLP(3, [5], cond_dim=2, conditioning="film")
    nn.utils.parametrizations.weight_norm(net.hidden[0])
    nn.init.normal_(net.modulation[2].weight)
    x, cond = torch.randn(4, 3), torch.randn(1, 2)
    torch.testing.assert_close(net.at(cond)(x), net(x, cond.expand(4, 2)))
