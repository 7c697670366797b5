"""torch.compile without graph breaks, the operators under opcheck and gradcheck, torch.func, fake tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssm
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import dispatcher, flat, functions
from fastssm.diffusion import VE, VP, CustomSDE, ElboLoss, SlicedDiffusionLoss, SoftTruncation, TimeSampling
from fastssm.directions import Directions
from fastssm.nn import MLP, Periodic
from fastssm.recognition import matching, network
from fastssm.sweeps import Needs
from tests import covering

pytestmark = pytest.mark.usefixtures("_fresh_dynamo")


def energy() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def score() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).double()


def data(batch: int = 6, projections: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(projections, batch, 3, generator=generator, dtype=torch.float64)


def gradients(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], *args: Tensor) -> list[Tensor]:
    value = loss(*args)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()))]


LOSSES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "ssm": lambda net, x, v: fastssm.sliced_loss(net, x, v=v, variance_reduced=False),
    "vr": lambda net, x, v: fastssm.sliced_loss(net, x, v=v),
    "none": lambda net, x, v: fastssm.sliced_loss(net, x, v=v, reduction="none").square().sum(),
    "exact": lambda net, x, v: fastssm.exact_loss(net, x),
    "control": lambda net, x, v: fastssm.sliced_loss(net, x, v=v, control_variate="optimal"),
    "terms": lambda net, x, v: fastssm.terms(net, x, v=v).projected_score.exp().sum(),
    "reference": lambda net, x, v: fastssm.sliced_loss(net, x, v=v, backend="reference"),
}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((energy, name) for name in ("ssm", "vr", "terms", "reference")),
        *((score, n) for n in ("exact", "none", "control")),
    ],
)
def test_a_compiled_loss_has_no_graph_break_and_the_eager_gradients(make: Callable[[], nn.Module], name: str) -> None:
    net, (x, v) = make(), data()

    def loss(x: Tensor, v: Tensor) -> Tensor:
        return LOSSES[name](net, x, v)

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 9):
        x, v = data(batch)
        for a, b in zip(gradients(net, compiled, x, v), gradients(net, loss, x, v), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("projection", ["rademacher", "sphere", "basis"])
def test_directions_are_drawn_inside_the_graph(projection: str) -> None:
    net, (x, _) = energy(), data()
    module = fastssm.SlicedScoreLoss(net, projection=projection, n_projections=3)
    assert torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")(x).isfinite()


@pytest.mark.skipif(not hasattr(dynamo_config, "trace_autograd_ops"), reason="torch 2.10 traces no backward call")
def test_inductor_compiles_a_whole_training_step() -> None:
    """Loss, backward and update in one graph, fused by Inductor, against the same steps in eager mode.

    The update is written out: `torch.optim` breaks the graph itself, by a call to `graph_break` in its `step`.
    """
    nets = [energy(), energy()]
    nets[1].load_state_dict(nets[0].state_dict())
    x, v = data()

    def step_of(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def step(x: Tensor, v: Tensor) -> Tensor:
            loss = fastssm.sliced_loss(net, x, v=v, variance_reduced=False)
            loss.backward()
            with torch.no_grad():
                for p in net.parameters():
                    assert p.grad is not None
                    p.sub_(0.1 * p.grad)
                    p.grad = None
            return loss.detach()

        return step

    eager = step_of(nets[1])
    with dynamo_config.patch(trace_autograd_ops=True):
        compiled = torch.compile(step_of(nets[0]), fullgraph=True, dynamic=True)
        for _ in range(3):
            torch.testing.assert_close(compiled(x, v), eager(x, v), rtol=1e-10, atol=1e-12)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_conditioning_compiles() -> None:
    net = MLP(3, [8, 8], 3, "silu", residual=True, cond_dim=2, conditioning="film", fourier_time=True).double()
    x, v = data()
    c, t = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, dtype=torch.float64)

    def loss(x: Tensor, v: Tensor) -> Tensor:
        return fastssm.sliced_loss(net, x, v=v, cond=(c, t))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(net, compiled, x, v), gradients(net, loss, x, v), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


FILL = fastssm.GaussianProposal(torch.zeros(3), torch.eye(3))
LEVELS = fastssm.ContinuousTempering(lambda_min=1.0, radius=1.0)
TWINS: dict[str, tuple[type[nn.Module], dict[str, object], tuple[str, ...]]] = {
    "finite difference": (fastssm.FiniteDifferenceLoss, {}, ("v",)),
    "finite difference denoising": (fastssm.FiniteDifferenceDenoisingLoss, {"sigma": 0.3}, ("noise", "v")),
    "denoising": (fastssm.DenoisingLoss, {"sigma": 0.3}, ("noise",)),
    "denoising by autograd": (fastssm.DenoisingLoss, {"sigma": 0.3, "backend": "reference"}, ("noise",)),
    "annealed denoising": (fastssm.AnnealedDenoisingLoss, {"sigmas": [1.0, 0.5]}, ("level", "noise")),
    "domain": (fastssm.DomainLoss, {"domain": fastssm.domains.Ball(9.0)}, ("v",)),
    "domain, exact": (fastssm.DomainLoss, {"domain": fastssm.domains.Box(-9.0, 9.0), "exact": True}, ()),
    "preconditioned": (fastssm.PreconditionedLoss, {"precond": torch.eye(3).double() + 1}, ("v",)),
    "preconditioned by a field": (fastssm.PreconditionedLoss, {"precond": lambda x: 1 + x.square()}, ("v",)),
    "manifold": (fastssm.ManifoldLoss, {"manifold": "torus"}, ("v",)),
    "ratio": (fastssm.DensityRatioLoss, {}, ("base", "t", "noise")),
    "missing": (fastssm.MissingLoss, {"proposal": FILL, "n_imputations": 3}, ("v",)),
    "tempered": (fastssm.TemperedLoss, {"tempering": LEVELS}, ("beta", "noise", "v")),
    "annealed sliced": (fastssm.AnnealedSlicedLoss, {"sigmas": [1.0, 0.5]}, ("level", "noise", "v")),
    "likelihood bound": (ElboLoss, {"sde": VP()}, ("t", "noise", "v")),
    "weighted bound": (
        ElboLoss,
        {"sde": VE(), "form": "denoising", "times": TimeSampling(weight=SoftTruncation().weight)},
        ("t", "noise"),
    ),
    "simulated bound": (ElboLoss, {"sde": CustomSDE(lambda x, t: -x, torch.ones_like, steps=2)}, ("t", "noise", "v")),
    "sliced diffusion": (
        SlicedDiffusionLoss,
        {"sde": CustomSDE(lambda x, t: -x, torch.zeros_like, steps=2)},
        ("t", "v"),
    ),
}
TOLD = (
    "ratio",
    "annealed denoising",
    "annealed sliced",
    "likelihood bound",
    "weighted bound",
    "simulated bound",
    "sliced diffusion",
)


@pytest.mark.parametrize("given", [False, pytest.param(True, marks=pytest.mark.slow)])
@covering.each("name", TWINS, size=4)
def test_a_compiled_twin_has_no_graph_break(name: str, given: bool) -> None:
    """What is not given is drawn, inside the graph, and as in eager mode."""
    make, options, names = TWINS[name]
    net = MLP(3, [8], cond_dim=1).double() if name in TOLD else energy()
    net = MLP(4, [8]).double() if name == "tempered" else net
    net = nn.Sequential(Periodic(), MLP(6, [8])).double() if name == "manifold" else net
    x, v = data()
    every = {
        "v": v,
        "noise": torch.stack([x, *v]) if name == "simulated bound" else v[0],
        "base": v[1],
        "level": torch.tensor([0, 1, 1, 0, 1, 0]),
        "beta": torch.linspace(0, 9, 6).double(),
        "t": torch.linspace(0.1, 0.9, 6).double(),
    }
    module = make(net, **options)
    needed = {key: every[key] for key in names if given or key == "base"}
    results = []
    for call in (torch.compile(module, fullgraph=True, backend="eager"), module):
        torch.manual_seed(0)
        loss = call(x, **needed)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_soft_truncation_compiles() -> None:
    net, x = MLP(3, [8], 3, cond_dim=1).double(), data()[0]
    module = ElboLoss(net, sde=VP(), form="denoising", predicts="noise", times=TimeSampling(t_min=SoftTruncation()))
    values = []
    for call in (torch.compile(module, fullgraph=True, backend="eager"), module):
        torch.manual_seed(0)
        values.append(call(x))
    torch.testing.assert_close(*values, rtol=1e-7, atol=1e-9)


def flat_call(
    net: nn.Module, x: Tensor, v: Tensor, cond: object = None
) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Return the arguments of the operators `objective` and `terms` for a call."""
    inputs, tensors, static = fused.flat(backends.make_request(net, x, cond), Directions(len(v), v))
    kind, *lists = static.structure
    structure = (kind, *map(list, lists), static.n_projections, static.precision)
    return (*inputs, tensors, None, *structure, False, True, True, True), (*inputs, tensors, *structure)


@pytest.mark.parametrize("make", [energy, score])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_operators_pass_opcheck(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    x, v = data()
    x = x.to(dtype).requires_grad_()
    objective, terms = flat_call(make().to(dtype), x, v.to(dtype))
    torch.library.opcheck(torch.ops.fastssm.objective.default, objective)
    torch.library.opcheck(torch.ops.fastssm.terms.default, terms)
    found = torch.ops.fastssm.terms(*terms)
    given = tuple(torch.randn_like(t) for t in found)
    detached = (t.detach() if isinstance(t, Tensor) else t for t in terms[:4])
    weights = [t.detach() for t in terms[4]]  # type: ignore[attr-defined]
    backward = (*given, *detached, weights, *terms[5:], True, True)
    torch.library.opcheck(torch.ops.fastssm.terms_backward.default, backward)


def test_the_operators_pass_opcheck_with_conditioning() -> None:
    net = MLP(3, [5, 5], cond_dim=2, conditioning="film").double()
    x, v = data()
    objective, terms = flat_call(net, x, v, torch.randn(6, 2, dtype=torch.float64))
    torch.library.opcheck(torch.ops.fastssm.objective.default, objective)
    torch.library.opcheck(torch.ops.fastssm.terms.default, terms)


@pytest.mark.parametrize("make", [energy, score])
@pytest.mark.parametrize("name", ["ssm", "vr", "none", "terms"])
def test_gradcheck(make: Callable[[], nn.Module], name: str) -> None:
    """Against finite differences: the one check that shares nothing with any autograd."""
    net, (x, v) = make(), data(3)
    names = [key for key, _ in net.named_parameters()]
    own = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        called = _Called(net, dict(zip(names, parameters, strict=True)))
        return called(lambda: LOSSES[name](net, x, v))

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), *own))


class _Called:
    """Runs a function while a module has other parameters."""

    def __init__(self, net: nn.Module, parameters: dict[str, Tensor]) -> None:
        self.net, self.parameters = net, parameters

    def __call__(self, function: Callable[[], Tensor]) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(self.net, self.parameters):
            return function()


def test_an_operator_is_one_node_of_a_compiled_graph() -> None:
    """What native engines will do: the operators' entry is opaque to torch.compile."""
    net, (x, v) = energy(), data()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def loss(x: Tensor, v: Tensor) -> Tensor:
        inputs, tensors, static = fused.flat(backends.make_request(net, x), Directions(2, v))
        return dispatcher.objective(inputs, None, tensors, static, flat.Form(True, True))[0]

    compiled = torch.compile(loss, fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x, v), LOSSES["vr"](net, x, v))
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("fastssm.objective" in name for name in called) == 1
    assert not any("mm" in name for name in called)


def test_what_is_constant_under_compile_is_marked_as_torch_marks_it() -> None:
    """`fastssm.compiling` sets the mark itself, as the decorator would import Dynamo."""

    def function() -> None: ...

    torch.compiler.assume_constant_result(function)
    (mark,) = vars(function)
    assert getattr(functions.transformed, mark) is True
    handed = torch.__version__ >= (2, 13)  # torch.compile can hand a module to such a function
    assert hasattr(matching.objection_to, mark) is hasattr(network.parametrized, mark) is handed


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_of_the_operators_is_float32(half: torch.dtype) -> None:
    net, (x, v) = energy().float(), data()
    x, v = x.float(), v.float()
    objective, _ = flat_call(net, x, v)
    expected = torch.ops.fastssm.objective(*objective)[0]
    with torch.autocast("cpu", half):
        assert torch.equal(torch.ops.fastssm.objective(*objective)[0], expected)


def test_fake_tensors_pass_through() -> None:
    net = energy()
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(6, 3, dtype=torch.float64)
        loss = fastssm.sliced_loss(net, x, v=torch.randn(2, 6, 3, dtype=torch.float64))
        assert loss.shape == ()


@pytest.mark.parametrize("name", ["vr", "none", "terms"])
def test_torch_func_transforms(name: str) -> None:
    """`torch.func.grad` of the loss, and per-sample gradients by `vmap` over it."""
    net, (x, v) = energy(), data(4, 1)
    parameters = {key: p.detach() for key, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, v: Tensor) -> Tensor:
        return _Called(net, parameters)(lambda: LOSSES[name](net, x, v))

    found = torch.func.grad(loss)(parameters, x, v)
    for key, expected in zip(parameters, gradients(net, lambda x, v: LOSSES[name](net, x, v), x, v)[1:], strict=True):
        torch.testing.assert_close(found[key], expected, rtol=1e-10, atol=1e-12)
    if name == "vr":
        each = torch.func.vmap(torch.func.grad(lambda p, x, v: loss(p, x[None], v[:, None])), (None, 0, 1))
        per_sample = each(parameters, x, v)
        for key in parameters:
            torch.testing.assert_close(per_sample[key].mean(0), found[key], rtol=1e-10, atol=1e-12)


def test_needs_follow_what_requires_grad() -> None:
    """Nothing is computed for what is frozen: the operator returns gradients of x alone, of weights alone, or none."""
    net, (x, v) = energy(), data()
    counts = {}
    for needs in (Needs(True, False), Needs(False, True), Needs(False, False)):
        arguments = (*flat_call(net, x, v)[0][:-2], *needs)
        counts[needs] = len(torch.ops.fastssm.objective(*arguments)[3])
    assert counts == {Needs(True, False): 1, Needs(False, True): 6, Needs(False, False): 0}
