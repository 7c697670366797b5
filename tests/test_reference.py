"""Plain autograd on modules of every kind: right derivatives, no silent zeros, compiled code, transforms."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastssm

DOUBLE = torch.float64


class Attention(nn.Module):
    """An energy of a set: normalisation, self-attention, a sum."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(3, width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        return self.out(h + F.scaled_dot_product_attention(q, k, v)).mean(1)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(3, 8), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation=F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.enter(x))).mean(1)


def norms(*norm: nn.Module, out: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), *norm, nn.SiLU(), nn.Linear(8, out))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 4, 3), nn.InstanceNorm1d(4), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, None])


ENERGIES = {
    "layer norm": (lambda: norms(nn.LayerNorm(8)), (5,)),
    "batch norm, train": (lambda: norms(nn.BatchNorm1d(8)), (5,)),
    "instance norm": (Convolutional, (5,)),
    "attention": (Attention, (4, 3)),
    "transformer": (Transformer, (4, 3)),
    "transformer, eval": (lambda: Transformer().eval(), (4, 3)),
}


@pytest.mark.parametrize("loss", ["ssm", "vr", "exact"])
@pytest.mark.parametrize("name", ENERGIES)
def test_energies_against_finite_differences(name: str, loss: str) -> None:
    """Along a random direction in the space of parameters; autograd itself is not trusted here."""
    torch.manual_seed(0)
    make, shape = ENERGIES[name]
    net, x, v = make().double(), torch.randn(6, *shape, dtype=DOUBLE), torch.randn(2, 6, *shape, dtype=DOUBLE).sign()

    def value() -> Tensor:
        if loss == "exact":
            return fastssm.exact_loss(net, x)
        return fastssm.sliced_loss(net, x, v=v, variance_reduced=loss == "vr")

    parameters = list(net.parameters())
    steps = [torch.randn_like(p) for p in parameters]
    grads = torch.autograd.grad(value(), parameters)
    expected = sum(float((g * s).sum()) for g, s in zip(grads, steps, strict=True))

    def moved(by: float) -> float:
        with torch.no_grad():
            for p, s in zip(parameters, steps, strict=True):
                p.add_(s, alpha=by)
            found = float(value())
            for p, s in zip(parameters, steps, strict=True):
                p.sub_(s, alpha=by)
        return found

    h = 1e-4
    found = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def numpy_energy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy() ** 2).sum(1)


class Cut(nn.Module):
    def __init__(self, how: str, out: int) -> None:
        super().__init__()
        self.how, self.net = how, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, out))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        return self.net(x.detach() if self.how == "detach" else torch.from_numpy(x.detach().numpy()))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("how", ["no_grad", "detach", "numpy"])
@pytest.mark.parametrize("out", [1, 3])
def test_a_forward_that_cuts_the_graph_raises(how: str, out: int, grad: bool) -> None:
    net, x = Cut(how, out), torch.randn(4, 3)
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=r"does not depend on x .* torch.no_grad"):
        fastssm.sliced_loss(net, x)
    if out == 3:
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="does not depend on x"):
            fastssm.divergence(net, x)
    else:
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="does not depend on x"):
            fastssm.score(net, x)


class Linear(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.map = nn.Linear(3, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) * 1.0


@pytest.mark.parametrize("out", [1, 3])
def test_a_constant_jacobian_is_no_cut(out: int) -> None:
    net, x = Linear(out).double(), torch.randn(4, 3, dtype=DOUBLE)
    loss = fastssm.exact_loss(net, x, backend="reference")
    weight = net.map.weight
    expected = weight.square().sum() / 2 if out == 1 else weight.trace() + 0.5 * net(x).square().sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_no_graph_is_kept_where_no_gradient_is_wanted() -> None:
    """The second derivative of one direction is freed before the next begins."""
    seen: list[bool] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            seen.append(torch.is_grad_enabled())
            return g

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Watch.apply(x)

    with torch.no_grad():
        fastssm.terms(Net(), torch.randn(2, 3), n_projections=3)
    assert seen == [False, False, False]


def compiled_outside(net: nn.Module) -> nn.Module:
    return torch.compile(net)


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile()
    return net


def compiled_inside(net: nn.Module) -> nn.Module:
    return nn.Sequential(torch.compile(net))


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("compiled", [compiled_outside, compiled_in_place, compiled_inside])
def test_a_compiled_network_is_differentiated_as_it_is_written(compiled) -> None:
    net = norms(nn.LayerNorm(8)).double()
    x, v = torch.randn(4, 5, dtype=DOUBLE), torch.randn(1, 4, 5, dtype=DOUBLE)
    expected = torch.autograd.grad(fastssm.sliced_loss(net, x, v=v), list(net.parameters()))
    other = compiled(copy.deepcopy(net))
    other(x)  # compiles
    found = torch.autograd.grad(fastssm.sliced_loss(other, x, v=v), list(other.parameters()))
    torch.testing.assert_close(found, expected)


NETS = {
    "layer norm energy": (lambda: norms(nn.LayerNorm(8)), (5,)),
    "layer norm score": (lambda: norms(nn.LayerNorm(8), out=5), (5,)),
    "attention": (Attention, (4, 3)),
}
QUICK = "layer norm score"  # to compile


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in NETS if name != QUICK)]
)
def test_inductor_compiles_a_step(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, x, v = make(), torch.randn(4, *shape), torch.randn(2, 4, *shape).sign()

    def step(x: Tensor, v: Tensor) -> Tensor:
        return fastssm.sliced_loss(net, x, v=v, backend="reference")

    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        loss = run(x, v)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("out", [1, 5])
def test_gradients_of_samples_by_torch_func(out: int) -> None:
    net = norms(nn.LayerNorm(8), out=out).double()
    x, v = torch.randn(3, 5, dtype=DOUBLE), torch.randn(3, 5, dtype=DOUBLE)

    def loss(parameters: dict[str, Tensor], x: Tensor, v: Tensor) -> Tensor:
        model = fastssm.SlicedScoreLoss(net)
        named = {f"model.{name}": p for name, p in parameters.items()}
        return torch.func.functional_call(model, named, (x[None],), {"v": v[None, None]})

    parameters = dict(net.named_parameters())
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, v)
    for i in range(3):
        one = torch.autograd.grad(fastssm.sliced_loss(net, x[i : i + 1], v=v[i : i + 1][None]), list(net.parameters()))
        torch.testing.assert_close([g[i] for g in found.values()], list(one))
