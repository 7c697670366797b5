"""What every loss promises besides its value: nothing changed, nothing hidden, no wait, the same bits again."""

import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import compiled, dispatcher, eager
from fastssm.nn import MLP
from tests import oracle

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
B, D, M = 6, 3, 2
REDUCTIONS = ("mean", "sum", "none")
OPERATORS = {"ops": dispatcher, "eager": eager}
ENTRIES = ("torch", *OPERATORS, "reference", *compiled.DEVICES)
FASTEST = (*compiled.DEVICES, "torch")[0]  # of what is built
NETS = {
    "energy": lambda: nn.Sequential(nn.Linear(D, 7), nn.Softplus(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)),
    "score": lambda: nn.Sequential(nn.Linear(D, 7), nn.SiLU(), nn.Linear(7, D)),
    "linear energy": lambda: nn.Sequential(nn.Linear(D, 1)),
    "concat": lambda: MLP(D, [7, 7], cond_dim=2, residual=True),
    "film": lambda: MLP(D, [7, 5], D, "silu", cond_dim=2, conditioning="film"),
    "additive": lambda: MLP(D, [7], cond_dim=2, conditioning="additive"),
}
CALLS = {
    "ssm": lambda *a, **o: fastssm.sliced_loss(*a, variance_reduced=False, **o),
    "vr": lambda *a, **o: fastssm.sliced_loss(*a, **o),
    "control": lambda *a, **o: fastssm.sliced_loss(*a, control_variate="optimal", **o),
    "exact": lambda *a, v=None, **o: fastssm.exact_loss(*a, **o),
}


@pytest.fixture(params=ENTRIES)
def backend(request, monkeypatch):
    """The name of a backend to pass; the entries are to the torch one through the operators that engines plug into."""
    if request.param in OPERATORS:
        monkeypatch.setitem(backends.BACKENDS, "torch", fused.Fused("torch", OPERATORS[request.param]))
    return "torch" if request.param in OPERATORS else request.param


def problem(name, dtype=torch.float64):
    torch.manual_seed(1)
    net = NETS[name]().to(dtype)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.6)
    given = {"v": torch.randn(M, B, D, dtype=dtype)}
    if isinstance(net, MLP):
        given["cond"] = torch.randn(B, 2, dtype=dtype)
    return net, torch.randn(B, D, dtype=dtype), given


def truth(net, x, given, loss="vr"):
    energy = net(x, *([given["cond"]] if "cond" in given else [])).shape[1] == 1
    return oracle.losses(net, x, given["v"], loss, energy=energy, cond=[given["cond"]] if "cond" in given else [])


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# --- nothing is changed ---


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("differentiated", [True, False])
def test_no_input_is_changed(backend, name, call, differentiated):
    net, x, given = problem(name)
    x, weight = x.requires_grad_(differentiated), torch.rand(B, dtype=x.dtype)
    held = [x, weight, *given.values(), *net.parameters()]
    before = [t.detach().clone() for t in held]
    versions, flags = [t._version for t in held], [t.requires_grad for t in held]
    CALLS[call](net, x, weight=weight, backend=backend, **given).backward()
    assert all(map(torch.equal, held, before))
    assert [t._version for t in held] == versions
    assert [t.requires_grad for t in held] == flags
    assert all(t.grad is None for t in held[1 : 2 + len(given)])


class InPlace(nn.Module):
    """A model that works in place on what it is given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, 1)

    def forward(self, x):
        return self.linear(torch.tanh(x.mul_(0.5)))


@pytest.mark.parametrize("net", [
    InPlace(),
    nn.Sequential(nn.SiLU(inplace=True), nn.Linear(D, 1)),
    nn.Sequential(nn.Linear(D, 4), nn.SiLU(inplace=True), nn.Linear(4, 1)),
    nn.Sequential(nn.ELU(inplace=True), nn.Linear(D, 4), nn.Mish(inplace=True), nn.Linear(4, D)),
], ids=["own", "first", "hidden", "score"])  # fmt: skip
@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("name", ["auto", "reference"])
def test_in_place_layers_do_not_reach_x(net, leaf, name):
    net = net.double()
    x = torch.randn(B, D, dtype=torch.float64).requires_grad_()
    given, before = x if leaf else x * 1.0, x.detach().clone()
    v = torch.randn(1, B, D, dtype=torch.float64)
    loss = fastssm.sliced_loss(net, given, v=v, backend=name)
    close(loss, fastssm.sliced_loss(net, before, v=v, backend="reference"))
    loss.backward()
    assert torch.equal(given, before)
    assert x.grad.isfinite().all()


# --- values without gradients ---


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_without_gradients(backend, name, call, mode):
    net, x, given = problem(name)
    expected = truth(net, x, given, call).detach()
    with mode():
        inside = {key: t.clone() for key, t in given.items()}  # under inference_mode: inference tensors
        for data, extra in ((x, given), (x.clone(), inside), (x.clone().requires_grad_(), given)):
            loss = CALLS[call](net, data, backend=backend, reduction="none", **extra)
            assert not loss.requires_grad
            close(loss, expected)
            close(CALLS[call](net, data, backend=backend, **extra), expected.mean())


@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "hadamard"])
def test_inference_tensors_can_be_trained_on(backend, projection):
    net, x, given = problem("concat")
    with torch.inference_mode():
        samples, cond = x.clone(), given["cond"].clone()
        drawn = fastssm.sliced_loss(net, x, cond=cond, projection=projection, backend=backend)
    assert drawn.isfinite()
    loss = fastssm.sliced_loss(net, samples, cond=cond, v=given["v"], backend=backend)
    close(loss, truth(net, x, given).mean())
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


# --- gradients ---


@pytest.mark.covering(1)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["energy", "score", "linear energy", "concat"])
def test_every_parameter_gets_a_gradient_and_frozen_ones_none(backend, name, call):
    net, x, given = problem(name)
    CALLS[call](net, x, backend=backend, **given).backward()
    every = gradients(net)
    assert all(g is not None for g in every)
    if name != "score":
        assert not every[-1].any()  # log p does not feel the last bias
    for index, parameter in enumerate(net.parameters()):
        net.zero_grad()
        parameter.requires_grad_(False)
        if any(p.requires_grad for p in net.parameters()):
            CALLS[call](net, x, backend=backend, **given).backward()
        assert parameter.grad is None
        parameter.requires_grad_(True)
        for other, (g, e) in enumerate(zip(gradients(net), every, strict=True)):
            if other != index and g is not None:
                close(g, e)


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", ["ssm", "vr", "exact"])
@pytest.mark.parametrize(("asked", "leaf"), [
    ("x cond weight", True), ("x cond weight", False), ("x", True), ("cond", False), ("weight", True),
])  # fmt: skip
def test_gradients_of_data_conditioning_and_weight(backend, name, call, asked, leaf):
    found = []
    for measured in (True, False):
        net, x, given = problem(name)
        given |= {"x": x, "weight": torch.rand(B, dtype=x.dtype)}
        leaves = [given[key].requires_grad_() for key in asked.split() if key in given]
        made = {key: t * 2.0 if t.requires_grad and not leaf else t for key, t in given.items()}
        x, weight = made.pop("x"), made["weight"]
        each = truth(net, x, made, call) * weight
        loss = CALLS[call](net, x, backend=backend, **made) if measured else each.mean()
        loss.backward()
        found.append([loss.detach(), *(t.grad for t in leaves), *gradients(net)])
    for a, e in zip(*found, strict=True):
        close(a, torch.zeros_like(a) if e is None else e)  # plain autograd leaves None where there is no dependence


@pytest.mark.covering(1)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_returned_terms_are_detached(backend, call, reduction):
    net, x, given = problem("energy")
    loss, terms = CALLS[call](net, x, backend=backend, reduction=reduction, return_terms=True, **given)
    assert loss.requires_grad
    assert isinstance(terms, fastssm.LossTerms)
    assert isinstance(terms, tuple)
    assert terms._fields == ("projected_jacobian", "square")
    assert all(t.shape == (B,) and not t.requires_grad and t.grad_fn is None for t in terms)
    close(terms.projected_jacobian + terms.square, truth(net, x, given, call).detach())


@pytest.mark.covering(1)
@pytest.mark.parametrize(("dtype", "expected"), [
    (torch.float64, torch.float64), (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32),
])  # fmt: skip
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dtypes(backend, dtype, expected, reduction):
    net, x, given = problem("energy", dtype)
    x.requires_grad_()
    loss = fastssm.sliced_loss(net, x, backend=backend, reduction=reduction, weight=torch.rand(B), **given)
    assert loss.dtype == expected
    loss.sum().backward()
    assert {t.grad.dtype for t in (x, *net.parameters())} == {dtype}


# --- NaN comes out as NaN ---


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", CALLS)
def test_nan_anywhere_shows(backend, name, call):
    net, x, given = problem(name)
    weight = torch.ones(B, dtype=x.dtype)
    sources = {"x": x, "weight": weight, **given, **dict(net.named_parameters())}
    if call == "exact":
        del sources["v"]
    for source, tensor in sources.items():
        place = (tensor.ndim - 1) * (0,) + (-1,)
        kept = tensor.data[place].clone()
        tensor.data[place] = torch.nan
        for reduction in REDUCTIONS:
            loss = CALLS[call](net, x, weight=weight, reduction=reduction, backend=backend, **given)
            assert loss.isnan().any(), (source, reduction)
            shared = dict(net.named_parameters()).get(source) is not None
            if shared and reduction == "none":
                assert loss.isnan().all(), source
        tensor.data[place] = kept


@pytest.mark.covering(1)
@pytest.mark.parametrize("call", ["ssm", "vr", "exact"])
@pytest.mark.parametrize("name", NETS)
def test_nan_stays_in_its_sample(backend, name, call):
    net, x, given = problem(name)
    weight = torch.ones(B, dtype=x.dtype)
    for tensor in (x, weight, given.get("cond")):
        if tensor is None:
            continue
        kept = tensor[2].clone()
        tensor[2] = torch.nan
        loss = CALLS[call](net, x, weight=weight, reduction="none", backend=backend, **given)
        assert loss.isnan().nonzero().flatten().tolist() == [2]
        _, terms = CALLS[call](net, x, weight=weight, backend=backend, return_terms=True, **given)
        assert (terms.projected_jacobian + terms.square).isnan().nonzero().flatten().tolist() == (
            [] if tensor is weight else [2]
        )
        tensor[2] = kept


# --- no host sync ---


class NoSync(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._opname not in {"_local_scalar_dense", "nonzero", "is_nonzero", "equal"}, func
        return func(*args, **kwargs or {})


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", CALLS)
def test_no_value_is_read_back(backend, name, call):
    net, x, given = problem(name)
    with NoSync():
        for reduction in REDUCTIONS:
            loss = CALLS[call](net, x.requires_grad_(), reduction=reduction, backend=backend, **given)
            loss.sum().backward()


def test_the_mode_that_watches_sees_item():
    with NoSync(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()


@pytest.mark.covering(1)
@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere", "hadamard", "basis"])
@pytest.mark.parametrize("name", ["energy", "film"])
def test_shapes_on_a_device_without_values(backend, name, projection):
    net, x, given = problem(name, torch.float32)
    options = {"cond": given["cond"].to("meta")} if "cond" in given else {}
    backend = "auto" if backend in compiled.DEVICES else backend  # which needs values
    loss = fastssm.sliced_loss(net.to("meta"), x.to("meta"), projection=projection, backend=backend, **options)
    loss.backward()
    assert (loss.device.type, loss.shape) == ("meta", ())
    assert all(p.grad.shape == p.shape for p in net.parameters())


# --- the same again ---


@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere", "hadamard", "basis"])
def test_the_same_seed_gives_the_same_bits(backend, projection):
    net, x, _ = problem("energy")

    def run(seed):
        net.zero_grad()
        source = torch.Generator().manual_seed(seed) if seed is not None else None
        loss = fastssm.sliced_loss(
            net, x, n_projections=2, projection=projection, generator=source, backend=backend, variance_reduced=False
        )
        loss.backward()
        return [loss.detach(), *gradients(net)]

    random = torch.get_rng_state()
    first = run(7)
    assert all(map(torch.equal, first, run(7)))
    assert not torch.equal(first[0], run(8)[0])
    assert torch.equal(torch.get_rng_state(), random)  # a generator of one's own leaves torch's alone
    torch.manual_seed(3)
    default = run(None)
    assert not torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(3)
    assert all(map(torch.equal, default, run(None)))


def test_explicit_directions_draw_nothing(backend):
    net, x, given = problem("energy")
    random = torch.get_rng_state()
    fastssm.sliced_loss(net, x, backend=backend, **given)
    fastssm.exact_loss(net, x, backend=backend)
    assert torch.equal(torch.get_rng_state(), random)


# --- which backend ---


def chosen(**options):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return fastssm.explain(net, torch.zeros(1, 2), **options).backend


def test_the_order_of_the_switches(monkeypatch):
    auto = chosen()
    assert auto == FASTEST
    monkeypatch.setenv("FASTSSM_BACKEND", "reference")
    assert chosen() == "reference"  # the environment
    with fastssm.backend("torch"):
        assert chosen() == "torch"  # a block beats it
        assert chosen(backend="reference") == "reference"  # the call beats both
        with fastssm.backend("reference"):
            assert chosen() == "reference"
            with fastssm.backend("auto"):
                assert chosen() == auto  # also over the environment
        assert chosen() == "torch"
    assert chosen() == "reference"
    monkeypatch.setenv("FASTSSM_BACKEND", "")
    assert chosen() == auto


def test_a_block_ends_with_an_error():
    with pytest.raises(KeyError), fastssm.backend("reference"):
        raise KeyError
    assert chosen() == FASTEST


def test_a_block_is_its_thread_s_own():
    entered, found, barrier = [], {}, threading.Barrier(2, timeout=20)

    def work(name):
        with fastssm.backend(name):
            entered.append(name)
            barrier.wait()  # both are inside
            found[name] = chosen()
            barrier.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("reference", "torch")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"reference": "reference", "torch": "torch"}
