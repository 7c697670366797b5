"""What the experiment with autoregressive models rests on: masks, constants and scores, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

import fastssm
from experiments import autoregressive as experiment
from experiments import autoregressive_mnist
from tests import covering

D, POINTS, END = 64, 1281, 32.0
SIZE = experiment.SMOKE._replace(width=64, features=3)
AT = torch.linspace(-END, END, POINTS, dtype=torch.float64)
BOUNDS = torch.tensor([[-END] * D, [END] * D], dtype=torch.float64)


def digits() -> experiment.Digits:
    torch.manual_seed(1)
    train = torch.randn(150, D, dtype=torch.float64) @ (torch.eye(D) + 0.1 * torch.randn(D, D)).double() + 0.3
    return experiment.Digits(train, train[:3], train[:3] + 0.4 * torch.randn(3, D), 0.4)


def problem(head: str, context: str) -> tuple[experiment.Model, Tensor]:
    data = digits()
    model = experiment.model_of(head, context, data, SIZE)
    for p in nn.ModuleList(model).double().parameters():
        nn.init.normal_(p, std=0.1)
    return model, data.test


@covering.each("context", ("linear", "MADE", "convolutional"))
def test_a_context_sees_the_pixels_before_it_and_its_neighbours_among_them(context: str) -> None:
    model, x = problem("Gaussian", context)
    seen = torch.autograd.functional.jacobian(lambda rows: model.context(rows)[0].sum(1), x[:1])[:, 0].abs()
    assert seen.shape == (D, D)
    assert (seen.triu() == 0).all()
    for d in range(D):
        row, column = divmod(d, 8)
        near = [(row, column - 1), (row - 1, column - 1), (row - 1, column), (row - 1, column + 1)]
        assert all(seen[d, 8 * r + c] > 0 for r, c in near if r >= 0 and 0 <= c < 8), d


def law_of(model: experiment.Model, contexts: Tensor) -> MixtureSameFamily:
    logits, means, logs = contexts.chunk(3, 2)
    return MixtureSameFamily(Categorical(logits=logits), Normal(means + model.head.centres, logs.exp()))


@covering.each("case", [(head, context) for head in ("Gaussian", "mixture") for context in ("MADE", "convolutional")])
def test_densities_scores_and_losses_of_mixtures_are_those_of_torch_distributions(case: tuple[str, str]) -> None:
    model, x = problem(*case)
    x = x.clone().requires_grad_()
    y = x * 1.0  # a node of its own: the contexts do not depend on it
    contexts = model.context(x)
    each = law_of(model, contexts).log_prob(y)
    (own,) = torch.autograd.grad(each.sum(), y, create_graph=True)
    (curved,) = torch.autograd.grad(own.sum(), y, create_graph=True)
    (joint,) = torch.autograd.grad(each.sum(), x, retain_graph=True)

    torch.testing.assert_close(experiment.log_prob(model, x, AT), each, rtol=1e-9, atol=1e-9)
    found = fastssm.composite_log_prob(*model, x.detach(), BOUNDS, points=POINTS)
    torch.testing.assert_close(found, each.sum(1).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(experiment.joint_score(model, x, AT), joint, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(experiment.conditional_score(model, x.detach()), own.detach(), rtol=1e-9, atol=1e-9)

    leaves = [*nn.ModuleList(model).parameters()]
    losses = {experiment.LIKELIHOOD: -each.sum() / 3, experiment.MATCHING: (curved + own.square() / 2).sum() / 3}
    for name, wanted in losses.items():
        value = experiment.loss_of(name, model, x.detach())
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)
        pairs = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (value, wanted)]
        torch.testing.assert_close(*pairs, rtol=1e-8, atol=1e-8)


def test_the_linear_model_is_a_multivariate_gaussian_and_denoises_as_wiener_filters() -> None:
    data = digits()
    model, x = experiment.model_of("Gaussian", "linear", data, SIZE), data.test
    signal, mean = torch.cov(data.train.mT), data.train.mean(0)
    whole = signal + data.noise**2 * torch.eye(D, dtype=torch.float64)
    law = MultivariateNormal(mean, whole)
    torch.testing.assert_close(experiment.log_prob(model, x, AT).sum(1), law.log_prob(x), rtol=1e-9, atol=1e-9)
    found = x + data.noise**2 * experiment.joint_score(model, x, AT)
    wanted = mean + torch.linalg.solve(whole, (x - mean).mT).mT @ signal
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    found = experiment.conditional_score(model, x)
    for d in (0, 1, 30, D - 1):
        weights = torch.linalg.solve(whole[:d, :d], whole[:d, d])
        variance = whole[d, d] - whole[d, :d] @ weights
        expected = mean[d] + (x[:, :d] - mean[:d]) @ weights
        torch.testing.assert_close(found[:, d], (expected - x[:, d]) / variance, rtol=1e-8, atol=1e-8)


def test_tiles_are_lines_of_digits() -> None:
    lines = [torch.rand(3, D), torch.rand(3, D)]
    found = experiment.tiles(lines)
    assert found.shape == (20, 30)
    for line in range(2):
        for place in range(3):
            tile = found[10 * line + 1 : 10 * line + 9, 10 * place + 1 : 10 * place + 9]
            assert torch.equal(tile, lines[line][place].view(8, 8))


def test_digits_of_mnist_keep_their_grey_levels_and_bits_are_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    levels = torch.randint(256, (500, D)).double()
    monkeypatch.setattr(autoregressive_mnist, "mnist", lambda: levels / 255)
    found = autoregressive_mnist.digits(300)
    assert (len(found.train), len(found.clean), len(found.test)) == (100, 300, 300)
    rows = torch.cat([found.clean, found.train])
    back = (256 * experiment.pixels(rows)).floor()
    held = {tuple(row) for row in levels.tolist()}
    assert all(tuple(row) in held for row in back.tolist())
    assert len({tuple(row) for row in back.tolist()}) == 400  # no test digit is a training digit
    residual = experiment.pixels(found.test) - experiment.pixels(found.clean)
    assert abs(float(residual.std()) - autoregressive_mnist.NOISE) < 0.005

    uniform = experiment.Result({"nats": "0.0"}, found.test, found.test)  # a density of one on [0, 1]^D
    monkeypatch.setattr(experiment, "results", lambda *_: iter([uniform]))
    (result,) = autoregressive_mnist.results(0, found, experiment.SMOKE)
    assert float(result.row["bits"]) == 8.0


def test_convolutions_on_larger_pictures_keep_the_order() -> None:
    torch.manual_seed(0)
    context = experiment.ConvContext(12, 3, 4, 5).double()
    x = torch.randn(1, 144).double()
    seen = torch.autograd.functional.jacobian(lambda rows: context(rows)[0].sum(1), x)[:, 0].abs()
    assert (seen.triu() == 0).all()
    assert (seen.diagonal(-1)[[0, 10, 100]] > 0).all()
