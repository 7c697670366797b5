"""What the experiment with image models rests on: the flow's likelihood, its score and its inverse, and the energy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import fastssm
from experiments import image_models
from tests import covering

ROWS = 3


def moments(dim: int) -> image_models.Moments:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(2, dim, generator=generator, dtype=torch.float64)
    return image_models.Moments(drawn[0], 0.2 * drawn[1])


def flow(layers: int = 3) -> image_models.Nice:
    """Return a flow of six pixels, whose last layers are no longer zero."""
    torch.manual_seed(2)
    net = image_models.Nice(moments(6), layers, 5).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return net


def mapped(net: image_models.Nice, x: Tensor) -> Tensor:
    """Map one picture, coordinate by coordinate, with the weights as numbers."""
    y = [(x[j] - net.mean[j]) / (moments(6).variance[j] + 0.01) ** 0.5 for j in range(6)]
    weights = list(net.couplings.parameters())
    for place in range(len(weights) // 6):
        a, b, c, d, e, f = weights[6 * place : 6 * place + 6]
        moved, given = (range(0, 6, 2), range(1, 6, 2)) if place % 2 == 0 else (range(1, 6, 2), range(0, 6, 2))
        h = torch.stack([y[j] for j in given])
        h = (1 + (a @ h + b).exp()).log()
        h = (1 + (c @ h + d).exp()).log()
        for place_of, j in enumerate(moved):
            y[j] = y[j] + e[place_of] @ h + f[place_of]
    order = [0, 2, 4, 1, 3, 5]
    return torch.stack([y[j] * net.log_scale[i].exp() for i, j in enumerate(order)])


def log_density(net: image_models.Nice, x: Tensor) -> Tensor:
    """Return log p of one picture by a change of variables, with the determinant of autograd's Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda row: mapped(net, row), x, create_graph=True)
    uniform = 1 / (1 + (-mapped(net, x)).exp())
    return (uniform * (1 - uniform)).log().sum() + torch.linalg.slogdet(jacobian).logabsdet


def gradients(value: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(net.parameters()), materialize_grads=True))


def pictures(dim: int = 6) -> Tensor:
    return torch.rand(ROWS, dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_the_likelihood_of_the_flow_and_its_score_are_those_of_a_change_of_variables() -> None:
    net, x = flow(), pictures()
    wanted = torch.stack([log_density(net, row) for row in x])
    torch.testing.assert_close(-net(x), wanted)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(gradients(-(weight * net(x)).sum(), net), gradients((weight * wanted).sum(), net))
    at = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(sum(log_density(net, row) for row in at), at)
    torch.testing.assert_close(fastssm.score(net, x), score)


def loss_of(log: Tensor, x: Tensor, v: Tensor, name: str) -> Tensor:
    """Return a score matching loss of one picture from its log-density, with the whole Hessian."""
    (s,) = torch.autograd.grad(log, x, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(s[j], x, create_graph=True)[0] for j in range(len(s))])
    along, square = v @ hessian @ v, s @ s
    return {"SSM": along + (v @ s) ** 2 / 2, "SSM-VR": along + square / 2, "exact": hessian.trace() + square / 2}[name]


@covering.each("name", ("SSM", "SSM-VR", "exact"))
def test_losses_of_the_flow_are_those_of_its_density(name: str) -> None:
    net, x = flow(), pictures()
    v = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    if name == "exact":
        found = fastssm.exact_loss(net, x)
    else:
        found = fastssm.sliced_loss(net, x, v=v, variance_reduced=name == "SSM-VR")
    separate = [row.clone().requires_grad_() for row in x]
    losses = [loss_of(log_density(net, row), row, along, name) for row, along in zip(separate, v, strict=True)]
    wanted = sum(losses) / ROWS
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, net), gradients(wanted, net))


@covering.each("layers", (1, 2, 5))
def test_the_inverse_of_the_flow_undoes_it_and_samples_are_logistic(layers: int) -> None:
    net, x = flow(layers), pictures()
    torch.testing.assert_close(net.pictures(net.latent(x)), x)
    size = image_models.SMOKE._replace(samples=4000)
    with torch.no_grad():
        uniform = net.latent(image_models.drawn(net.float(), size)).sigmoid()
    reached = torch.arange(1, size.samples + 1)[:, None] / size.samples
    assert ((uniform.sort(0).values - reached).abs() < 2 / size.samples**0.5).all()
    assert (uniform.T.corrcoef() - torch.eye(6)).abs().max() < 5 / size.samples**0.5


def energy_of(net: image_models.Convolutional, x: Tensor, sigma: float) -> Tensor:
    """Return the energy of one picture, its convolutions as products with patches."""
    given = moments(64)
    variance, off = given.variance + sigma**2, x - given.mean
    level = net.level.weight[:, 0] * torch.tensor(sigma, dtype=torch.float64).log() + net.level.bias
    h, places = (off / variance**0.5).reshape(1, 1, 8, 8), ((net.first, level[:16], 1), (net.second, level[16:], 2))
    for layer, shift, stride in places:
        patches = nn.functional.unfold(h, 3, padding=1, stride=stride)[0]
        found = layer.weight.flatten(1) @ patches + (layer.bias + shift)[:, None]
        h = (1 + found.exp()).log().reshape(1, len(found), 8 // stride, 8 // stride)
    last = net.head[1].weight @ h.flatten() + net.head[1].bias
    return (off**2 / (2 * variance)).sum() + (net.head[3].weight[0] @ (1 + last.exp()).log() + net.head[3].bias) / sigma


@covering.each("name", ("SSM", "SSM-VR"))
def test_the_energy_and_its_losses_are_those_of_its_formula_at_every_level(name: str) -> None:
    torch.manual_seed(4)
    net, x = image_models.Convolutional(moments(64)).double(), pictures(64)
    sigma = torch.tensor([0.1, 0.6, 2.0], dtype=torch.float64)
    v = torch.randn(ROWS, 64, dtype=torch.float64)
    found = fastssm.sliced_loss(net, x, cond=sigma, v=v, variance_reduced=name == "SSM-VR")
    losses = []
    for row, level, along in zip(x, sigma.tolist(), v, strict=True):
        at = row.clone().requires_grad_()
        energy = energy_of(net, at, level).squeeze()
        losses.append(loss_of(-energy, at, along, name))
        torch.testing.assert_close(net(row[None], sigma.new_tensor([level]))[0], energy)
    wanted = sum(losses) / ROWS
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, net), gradients(wanted, net))
    torch.testing.assert_close(net(x), net(x, torch.full_like(sigma, image_models.NOISE)))


def test_training_keeps_the_best_checkpoint() -> None:
    torch.manual_seed(0)
    net, sets = nn.Linear(2, 1), SimpleNamespace(train=torch.randn(9, 2), validation=torch.randn(3, 2))
    values, seen = iter([3.0, 1.0, float("nan"), 2.0]), list[Tensor]()

    def judge(model: nn.Module, x: Tensor) -> Tensor:
        assert x is sets.validation
        seen.append(model.get_parameter("weight").detach().clone())
        return torch.tensor(next(values))

    best = image_models.trained(net, lambda model, x: model(x).square().mean(), judge, sets, 4)
    assert len(seen) == image_models.CHECKS
    torch.testing.assert_close(best.get_parameter("weight").detach(), seen[1], rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(best.get_parameter("weight").detach(), seen[3], rtol=0, atol=0)
