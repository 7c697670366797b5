"""What is recognised, what is refused and why, and that recognising changes nothing."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastssm
from fastssm import FastSSMWarning, Network, Refusal, UnsupportedError, recognize
from fastssm.nn import MLP, Sin
from tests import oracle


class MyLinear(nn.Linear):
    """A subclass may compute anything."""


class Skip(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def net(*middle: nn.Module, out: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), *(middle or (nn.Tanh(),)), nn.Linear(4, out))


SHARED_ACTIVATION = nn.SiLU()
RECOGNISED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "plain": (net, "MLP 3-4-1 (tanh, identity)"),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU())), nn.Sequential(nn.Linear(4, 3))),
        "MLP 3-4-3 (relu, identity)",
    ),
    "lone linear": (lambda: nn.Linear(3, 3), "MLP 3-3 (identity)"),
    "consecutive": (lambda: net(nn.Linear(4, 4), nn.Mish()), "MLP 3-4-4-1 (identity, mish, identity)"),
    "activation first": (lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 1)), "MLP 3-3-1 (tanh, identity)"),
    "activation last": (lambda: nn.Sequential(nn.Linear(3, 1), nn.Softplus()), "MLP 3-1 (softplus)"),
    "two activations": (lambda: net(nn.Tanh(), Sin()), "MLP 3-4-4-1 (tanh, sin, identity)"),
    "shared activation": (
        lambda: net(SHARED_ACTIVATION, nn.Linear(4, 4), SHARED_ACTIVATION),
        "MLP 3-4-4-1 (silu, silu, identity)",
    ),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.ELU(), nn.Linear(4, 1)),
        "MLP 3-4-1 (elu, identity)",
    ),
    "gelu": (lambda: net(nn.GELU()), "MLP 3-4-1 (gelu, identity)"),
    "gelu tanh": (lambda: net(nn.GELU("tanh")), "MLP 3-4-1 (gelu_tanh, identity)"),
    "identity and dropout": (
        lambda: net(nn.Identity(), nn.CELU(), nn.Dropout(0.5)).eval(),
        "MLP 3-4-1 (celu, identity)",
    ),
    "dropout of nothing": (lambda: net(nn.Softsign(), nn.Dropout(0.0)), "MLP 3-4-1 (softsign, identity)"),
    "flatten": (lambda: nn.Sequential(nn.Flatten(), *net(nn.LogSigmoid())), "MLP 3-4-1 (log_sigmoid, identity)"),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "MLP 3-3 (identity)"),
    "mlp": (lambda: MLP(3, [4, 4], 3, "tanh", residual=True, cond_dim=2), "MLP 3-4-4-3 (tanh, tanh + skip, identity)"),
    "mlp film": (lambda: MLP(3, [4], cond_dim=2, conditioning="film"), "MLP 3-4-1 (softplus, identity)"),
    "mlp without layers": (lambda: MLP(3, [], 3), "MLP 3-3 (identity)"),
    "compiled": (lambda: torch.compile(net(), backend="eager"), "MLP 3-4-1 (tanh, identity)"),
}


def test_recognised() -> None:
    found = {name: recognize(build()) for name, (build, _) in RECOGNISED.items()}
    assert {name: str(each) for name, each in found.items()} == {name: text for name, (_, text) in RECOGNISED.items()}
    assert all(isinstance(each, Network) for each in found.values())


def hooked(register: str, *args: object) -> nn.Module:
    model = net()
    getattr(model[0], register)(*args or (lambda *_: None,))
    return model


def replaced() -> nn.Module:
    model = net()
    model[0].forward = lambda x: torch.cat([x, x[:, :1]], 1)
    return model


def tied() -> nn.Module:
    inner = nn.Linear(4, 4)
    return net(inner, nn.Tanh(), inner)


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return net(nn.Tanh(), nn.utils.weight_norm(nn.Linear(4, 4)), nn.Tanh())


def mlp_with_a_tower() -> nn.Module:
    return MLP(3, [4], activation=lambda: nn.Sequential(nn.Tanh(), nn.Tanh()))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward hook": (lambda: hooked("register_forward_hook"), r"0 \(Linear\): it has hooks"),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), r"0 \(Linear\): it has hooks"),
    "backward hook": (lambda: hooked("register_full_backward_hook"), r"0 \(Linear\): it has hooks"),
    "backward pre-hook": (lambda: hooked("register_full_backward_pre_hook"), r"0 \(Linear\): it has hooks"),
    "old weight norm": (old_weight_norm, r"2 \(Linear\): it has hooks"),
    "subclass": (lambda: net(MyLinear(4, 4)), r"1 \(MyLinear\): this layer is not an affine map or a known activation"),
    "subclassed MLP": (lambda: type("Mine", (MLP,), {})(3, [4]), r"Mine: this layer is not an affine map"),
    "shared linear": (tied, r"3 \(Linear\): the module is shared"),
    "dropout in training": (lambda: net(nn.Dropout(0.1)), r"1 \(Dropout\): dropout is active in train mode"),
    "batch norm": (lambda: net(nn.BatchNorm1d(4)), r"1 \(BatchNorm1d\): this layer is not"),
    "layer norm": (lambda: net(nn.LayerNorm(4)).eval(), r"1 \(LayerNorm\): this layer is not"),
    "prelu": (lambda: net(nn.PReLU()), r"1 \(PReLU\): its slope is a parameter, .* use nn\.LeakyReLU\(slope\)"),
    "replaced forward": (replaced, r"0 \(Linear\): its forward method was replaced"),
    "partial flatten": (lambda: net(nn.Flatten(0)), r"1 \(Flatten\): only Flatten\(start_dim=1, end_dim=-1\)"),
    "nested": (lambda: net(nn.Sequential(nn.Tanh(), Skip(4))), r"1\.1 \(Skip\): this layer is not"),
    "convolution": (lambda: nn.Conv2d(3, 3, 1), "Conv2d: this layer is not"),
    "no linear": (lambda: nn.Sequential(nn.Tanh(), nn.Flatten()), "there is no nn.Linear in it"),
    "empty": (nn.Sequential, "there is no nn.Linear in it"),
    "tower as activation": (mlp_with_a_tower, "it is not a single activation"),
}


def test_refused_with_the_reason() -> None:
    for name, (build, reason) in REFUSED.items():
        found = recognize(build())
        assert isinstance(found, Refusal), f"{name}: {found}"
        assert re.search(reason, str(found)), f"{name}: {found}"


def test_every_reason_is_listed() -> None:
    found = recognize(net(nn.BatchNorm1d(4), nn.Dropout(), MyLinear(4, 4)))
    assert isinstance(found, Refusal)
    assert len(found.reasons) == 3


@pytest.mark.parametrize(
    "register",
    [
        "register_module_forward_hook",
        "register_module_forward_pre_hook",
        "register_module_full_backward_hook",
        "register_module_full_backward_pre_hook",
    ],
)
def test_global_hooks_refuse_every_network(register: str) -> None:
    handle = getattr(nn.modules.module, register)(lambda *_: None)
    try:
        assert "a global module hook is registered" in str(recognize(net()))
    finally:
        handle.remove()
    assert isinstance(recognize(net()), Network)


@pytest.fixture
def single_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("single_process_group")
def test_distributed_tensors_are_refused() -> None:
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    model, mesh = net(), init_device_mesh("cpu", (1,))
    model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [Replicate()]))
    assert "its weights are DTensor, not plain tensors" in str(recognize(model))


def test_not_a_module() -> None:
    assert "it is not a torch.nn.Module" in str(recognize(lambda x: x))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or a function, got int"):
        recognize(3)


RECORDED = {
    "subclass",
    "subclassed MLP",
    "shared linear",
    "nested",
    "tower as activation",
}  # with data, by their forward


def test_what_its_structure_does_not_say_its_forward_does() -> None:
    for name in sorted(RECORDED):
        torch.manual_seed(0)
        model = REFUSED[name][0]().double()
        x, v = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
        assert isinstance(recognize(model, x), Network), name
        assert fastssm.explain(model, x, kind="energy").network is not None, name
        expected = oracle.losses(copy.deepcopy(model), x, v, "vr", energy=True).mean()
        oracle.assert_close([fastssm.sliced_loss(model, x, v=v)], [expected], 1e-10, name)


def test_what_is_refused_runs_by_another_backend_and_says_so() -> None:
    for name in sorted(REFUSED.keys() - RECORDED - {"convolution", "no linear", "empty", "partial flatten"}):
        torch.manual_seed(0)
        model = REFUSED[name][0]().double()
        x, v = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
        plan = fastssm.explain(model, x, kind="energy")
        assert plan.backend in ("jets", "reference"), name
        assert plan.network is None, name
        assert all(plan.reasons[other] for other in ("torch", "cpu", "cuda"))
        with pytest.raises(UnsupportedError, match='backend="torch" cannot run this call'):
            fastssm.sliced_loss(model, x, backend="torch")
        expected = (
            copy.deepcopy(model) if name not in ("backward hook", "backward pre-hook", "old weight norm") else model
        )
        torch.manual_seed(1)
        found = fastssm.sliced_loss(model, x, v=v)
        torch.manual_seed(1)
        oracle.assert_close([found], [oracle.losses(expected, x, v, "vr", energy=True).mean()], 1e-10, name)


@pytest.mark.parametrize(
    "normalise", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrizations_are_read_once_a_call(normalise: Callable[[nn.Module], nn.Module]) -> None:
    """Value, gradients and the state of the power iteration after the call are those of plain autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(
        normalise(nn.Linear(3, 5)), nn.Softplus(), normalise(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 1)
    )
    models = [model.double(), copy.deepcopy(model)]
    x, v = torch.randn(7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    assert fastssm.explain(models[0], x).network is not None
    for _ in range(3):
        found = fastssm.sliced_loss(models[0], x, v=v)
        expected = oracle.losses(models[1], x, v, "vr", energy=True).mean()
        grads = torch.autograd.grad(found, list(models[0].parameters()))
        oracle.assert_close([found, *grads], [expected, *oracle.gradients(expected, models[1].parameters())], 1e-10)
        states = [list(m.state_dict().values()) for m in models]
        oracle.assert_close(states[0], states[1], 1e-12)
        for m in models:
            with torch.no_grad():
                for p in m.parameters():
                    p.mul_(1.1)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_recognising_and_calling_leave_the_module_alone(backend: str) -> None:
    model = MLP(3, [4, 4], cond_dim=2, conditioning="film", residual=True)
    x, cond = torch.randn(5, 3), torch.randn(5, 2)
    before = copy.deepcopy(model.state_dict()), x.clone(), cond.clone(), dict(model.__dict__)
    fastssm.sliced_loss(model, x, cond=cond, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), model.state_dict().values(), strict=True))
    assert torch.equal(torch.cat(before[1:3], 1), torch.cat([x, cond], 1))
    assert before[3] == model.__dict__
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad


def test_torch_compiled_module_gives_the_same_loss() -> None:
    model = net().double()
    x, v = torch.randn(5, 3, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    values = [fastssm.sliced_loss(m, x, v=v) for m in (model, torch.compile(model, backend="eager"))]
    oracle.assert_close([values[1]], [values[0]], 1e-14)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity])
@pytest.mark.parametrize("loss", [fastssm.sliced_loss, fastssm.exact_loss])
def test_straight_energies_warn_once_per_model(activation: type[nn.Module], loss: Callable[..., Tensor]) -> None:
    x = torch.randn(5, 3)
    for _ in range(2):
        model = net(activation())
        with pytest.warns(FastSSMWarning, match="piecewise linear") as caught:
            loss(model, x)
        assert [w.filename for w in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss(model, x)
            fastssm.sliced_loss(model, x, variance_reduced=False)


def test_score_nets_and_bent_energies_do_not_warn() -> None:
    x = torch.randn(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastssm.sliced_loss(net(nn.ReLU(), out=3), x)
        fastssm.sliced_loss(net(nn.ReLU(), nn.Linear(4, 4), nn.SiLU()), x)
        fastssm.sliced_loss(MLP(3, [4], 3, "relu"), x)


def test_data_that_the_network_does_not_flatten_is_left_to_jets() -> None:
    x = torch.randn(5, 2, 3)
    assert fastssm.explain(net(out=3), x, kind="score").backend == "jets"
    assert fastssm.explain(nn.Sequential(nn.Flatten(), nn.Linear(6, 6)), x).network is not None


@pytest.mark.parametrize(("model", "count"), [(net(), 1), (MLP(3, [4], cond_dim=2), 0), (MLP(3, [4], cond_dim=2), 2)])
def test_conditioning_arguments_are_counted(model: nn.Module, count: int) -> None:
    with pytest.raises(ValueError, match=r"takes \d conditioning argument"):
        fastssm.sliced_loss(model, torch.randn(5, 3), cond=(torch.randn(5, 2),) * count)
