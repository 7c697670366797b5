"""What a model may be, a function too, and what it may be given: None, names, one row for all samples, scalars."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import sampling
from fastssm.checks import modules_of
from fastssm.diagnostics import projection_study
from fastssm.diffusion import VP, elbo_loss
from fastssm.nn import MLP
from tests import oracle

B, D, C = 4, 3, 2
RTOL = 1e-9


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(*shape: int, seed: int) -> Tensor:
    return data(*shape, seed=seed).requires_grad_()


# --- functions ---


class Net(nn.Module):
    """A module whose energy is a method."""

    def __init__(self, a: Tensor, w: Tensor) -> None:
        super().__init__()
        self.a, self.w = nn.Parameter(a.detach().clone()), nn.Parameter(w.detach().clone())

    def energy(self, x: Tensor) -> Tensor:
        return energy(self.a, self.w, x)


class Callee:
    """A callable that is no module."""

    def __init__(self, a: Tensor, w: Tensor) -> None:
        self.a, self.w = a, w

    def __call__(self, x: Tensor) -> Tensor:
        return energy(self.a, self.w, x)


def energy(a: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return (torch.tanh(x @ w) * a).sum(1)


def field(a: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(x @ w) * a @ w.T


Made = tuple[Callable[..., Tensor], list[Tensor]]


def bound(a: Tensor, w: Tensor) -> Made:
    net = Net(a, w)
    return net.energy, [net.a, net.w]


WAYS: dict[str, Callable[[Tensor, Tensor], Made]] = {
    "closure": lambda a, w: (lambda x: energy(a, w, x), [a, w]),
    "partial": lambda a, w: (functools.partial(energy, a, w), [a, w]),
    "bound method": bound,
    "callable": lambda a, w: (Callee(a, w), [a, w]),
    "compiled": lambda a, w: (torch.compile(lambda x: energy(a, w, x), backend="aot_eager"), [a, w]),
}


@pytest.mark.parametrize("name", WAYS)
def test_losses_of_functions(name: str) -> None:
    model, leaves = WAYS[name](leaf(5, seed=1), leaf(D, 5, seed=2))
    x, v = data(B, D), data(2, B, D, seed=3)
    for loss, found in {
        "ssm": fastssm.sliced_loss(model, x, v=v, variance_reduced=False),
        "vr": fastssm.sliced_loss(model, x, v=v),
        "exact": fastssm.exact_loss(model, x),
    }.items():
        written = functools.partial(energy, *leaves)
        expected = oracle.losses(written, x, v, loss, energy=True).mean()  # type: ignore[arg-type]
        pairs = [[t, *torch.autograd.grad(t, leaves)] for t in (found, expected)]
        oracle.assert_close(*pairs, RTOL, f"{name}, {loss}")


def test_operators_of_functions() -> None:
    a, w, x, v = leaf(5, seed=1), leaf(D, 5, seed=2), data(B, D), data(2, B, D, seed=3)
    scalar, vector = functools.partial(energy, a, w), functools.partial(field, a, w)
    of_energy = oracle.terms(scalar, x, v, energy=True)  # type: ignore[arg-type]
    of_field = oracle.terms(vector, x, v, energy=False)  # type: ignore[arg-type]
    axes = torch.eye(D, dtype=torch.float64)[:, None].expand(D, B, D)
    whole = oracle.terms(vector, x, axes, energy=False)  # type: ignore[arg-type]
    checked = {
        "terms": (fastssm.terms(scalar, x, v=v).projected_jacobian, of_energy.along.mean(0)),
        "score": (fastssm.score(scalar, x), of_energy.score),
        "laplacian": (fastssm.laplacian(scalar, x, v=v), -of_energy.along.mean(0)),
        "hvp_form": (fastssm.hvp_form(scalar, x, v), -of_energy.along),
        "divergence": (fastssm.divergence(vector, x), whole.along.sum(0)),
        "divergence along v": (fastssm.divergence(vector, x, v=v), of_field.along.mean(0)),
        "jacobian_diag": (fastssm.jacobian_diag(vector, x), whole.along.T),
    }
    for name, (found, expected) in checked.items():
        pairs = [[t, *torch.autograd.grad(t.square().sum(), [a, w], retain_graph=True)] for t in (found, expected)]
        oracle.assert_close(*pairs, RTOL, name)


def test_only_what_requires_grad_gets_one() -> None:
    a, w, x = data(5, seed=1), leaf(D, 5, seed=2), data(B, D)
    fastssm.sliced_loss(lambda x: energy(a, w, x), x).backward()
    assert a.grad is None
    assert w.grad is not None
    assert w.grad.abs().sum() > 0


def test_a_function_that_cuts_the_graph_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not depend on x through autograd"):
        fastssm.sliced_loss(lambda x: (x.detach() * leaf(D, seed=1)).sum(1), data(B, D))


def test_explain_of_a_function() -> None:
    plan = fastssm.explain(lambda x: x.square().sum(1), data(B, D))
    assert plan.backend == "reference"
    assert plan.network is None
    assert any("it is not a torch.nn.Module" in reason for reason in plan.reasons["torch"])
    with pytest.raises(fastssm.UnsupportedError, match=r"it is not a torch\.nn\.Module"):
        fastssm.sliced_loss(lambda x: x.square().sum(1), data(B, D), backend="torch")


def test_a_function_around_a_data_parallel_wrapper_is_refused() -> None:
    wrapper = type("DistributedDataParallel", (nn.Module,), {"forward": lambda self, x: x.square().sum(1)})()
    for model in (lambda x: wrapper(x), functools.partial(wrapper), wrapper.forward):
        with pytest.raises(ValueError, match="never be averaged"):
            fastssm.sliced_loss(model, data(B, D))


def test_what_a_function_refers_to_is_found_once() -> None:
    net, empty = nn.Sequential(nn.Linear(2, 2)), None

    def around(x: Tensor) -> Tensor:
        return around(net(x)) if empty is not None else later(x)

    assert [type(m) for m in modules_of(around)] == [nn.Sequential, nn.Linear]  # though `later` is still empty
    later = net
    assert net in modules_of(functools.partial(around, later))


def test_functions_everywhere_else() -> None:
    a, w, x = leaf(5, seed=1), leaf(D, 5, seed=2), data(B, D)
    bowl = lambda x: x.square().sum(1) / 2 + 0.1 * energy(a, w, x)  # noqa: E731
    chains = sampling.langevin(bowl, x, step=0.01, n_steps=3, metropolis=True)
    assert chains.x.shape == x.shape
    losses = [
        fastssm.denoising_loss(bowl, x, sigma=0.1),
        fastssm.finite_difference_loss(bowl, x),
        fastssm.annealed_sliced_loss(lambda x, sigma: bowl(x) / sigma, x, sigmas=[1.0, 0.5]),
        elbo_loss(lambda x, t: -x * t[:, None].exp() + field(a, w, x), x, sde=VP()),
    ]
    for loss in losses:
        loss.backward()
    assert a.grad is not None
    assert w.grad is not None


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_functions_compile(backend: str) -> None:
    a, w, x, v = leaf(5, seed=1), leaf(D, 5, seed=2), data(B, D), data(1, B, D, seed=3)

    def step(x: Tensor, v: Tensor) -> Tensor:
        return fastssm.sliced_loss(lambda x: energy(a, w, x), x, v=v)

    torch._dynamo.reset()
    results = [run(x, v) for run in (step, torch.compile(step, fullgraph=True, backend=backend))]
    pairs = [[loss, *torch.autograd.grad(loss, [a, w])] for loss in results]
    oracle.assert_close(*pairs, RTOL, backend)


# --- conditioning ---


class Guided(nn.Module):
    """An energy given a time `[B]` or a scalar, and perhaps a label `[B, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D + 1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
        self.embed = nn.Linear(C + 1, D).double()

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        time = t.expand(len(x))[:, None]
        moved = x if label is None else x + self.embed(torch.cat([label, time], 1))
        return self.net(torch.cat([moved, time], 1))


def agree(found: Tensor, expected: Tensor, leaves: list[Tensor], name: str) -> None:
    pairs = [[t, *torch.autograd.grad(t, leaves, allow_unused=True, materialize_grads=True)] for t in (found, expected)]
    oracle.assert_close(*pairs, RTOL, name)


@pytest.mark.parametrize("loss", ["vr", "exact"])
def test_none_names_scalars_and_one_row(loss: str) -> None:
    net, x, v, t = Guided(), data(B, D), data(2, B, D, seed=3), data(B, seed=4).requires_grad_()
    label, one, scalar = leaf(B, C, seed=5), leaf(1, C, seed=6), leaf(seed=7)
    leaves = [*net.parameters(), t, label, one, scalar]
    every = one.expand(B, C)
    for name, cond, same in (
        ("None", (t, None), (t,)),
        ("names", {"t": t, "label": label}, (t, label)),
        ("names in another order", {"label": label, "t": t}, (t, label)),
        ("None by name", {"t": t, "label": None}, (t,)),
        ("one row", (t, one), (t, every)),
        ("one row by name", {"t": t, "label": one}, (t, every)),
        ("scalar", (scalar, one), (scalar.expand(B), every)),
        ("scalar by name", {"t": scalar}, (scalar.expand(B),)),
    ):
        expected = oracle.losses(net, x, v, loss, energy=True, cond=same).mean()
        chosen = {} if loss == "exact" else {"v": v}
        run = fastssm.exact_loss if loss == "exact" else fastssm.sliced_loss
        agree(run(net, x, cond=cond, **chosen), expected, leaves, name)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("conditioning", ["concat", "film", "additive"])
def test_mlp_takes_one_row_and_a_scalar_time(conditioning: str, backend: str) -> None:
    torch.manual_seed(0)
    net = MLP(D, [5], cond_dim=C, fourier_time=True, conditioning=conditioning).double()
    for p in net.parameters():
        nn.init.normal_(p, 0.0, 0.5)  # FiLM starts unconditioned
    x, v, one, scalar = data(B, D), data(2, B, D, seed=3), leaf(1, C, seed=6), leaf(seed=7)
    same = (one.expand(B, C), scalar.expand(B))
    leaves = [*net.parameters(), one, scalar]
    assert torch.equal(net(x, one, scalar), net(x, *same))
    expected = oracle.losses(net, x, v, "vr", energy=True, cond=same).mean()
    agree(fastssm.sliced_loss(net, x, v=v, cond=(one, scalar), backend=backend), expected, leaves, conditioning)
    first = net(x, one, scalar[None])
    assert torch.equal(first, net(x, *same))


def test_the_level_and_the_time_follow_what_is_given_by_name() -> None:
    x, label, level = data(B, D), data(B, C, seed=5), torch.tensor([0, 1, 1, 0])

    def model(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return net(x, t if t.ndim == 1 else t[:, 0], label)

    net = Guided()
    options = {"sigmas": [1.0, 0.5], "level": level, "noise": data(B, D, seed=8)}
    by_place = fastssm.annealed_denoising_loss(lambda x, label, t: model(x, t, label), x, cond=label, **options)
    assert torch.equal(fastssm.annealed_denoising_loss(model, x, cond={"label": label}, **options), by_place)
    path = {"sde": VP(), "t": torch.full((B,), 0.3, dtype=torch.float64), "noise": data(B, D, seed=8), "kind": "energy"}
    found = [
        elbo_loss(model, x, cond={"label": label}, form="denoising", **path),
        elbo_loss(lambda x, label, t: model(x, t, label), x, cond=label, form="denoising", **path),
    ]
    assert torch.equal(*found)


def test_what_repeats_the_batch_repeats_the_conditioning() -> None:
    net, x, v = Guided(), data(B, D), data(1, B, D, seed=3)
    label, t = data(B, C, seed=5), data(B, seed=4)
    for loss in (fastssm.finite_difference_loss, fastssm.sliced_loss):
        expected = loss(net, x, v=v, cond=(t, label))
        assert torch.equal(loss(net, x, v=v, cond={"t": t, "label": label}), expected)
    alone = fastssm.finite_difference_loss(net, x, v=v, cond=(t, None))
    assert torch.equal(alone, fastssm.finite_difference_loss(net, x, v=v, cond=t))
    study = projection_study(net, x.repeat(4, 1), counts=[1], cond={"t": t.repeat(4)}, chunks=2)
    assert study.rows
