"""What every loss promises to autograd: accumulation, checkpoints, autocast, and no silent second derivative."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastssm
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import compiled, dispatcher, eager
from fastssm.nn import MLP
from tests import oracle

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
B, D, M = 6, 3, 2
OPERATORS = {"ops": dispatcher, "eager": eager}
ENTRIES = ("torch", *OPERATORS, "reference", "jets", *compiled.DEVICES)


@pytest.fixture(params=ENTRIES)
def backend(request, monkeypatch):
    """The name of a backend to pass; the entries are to the torch one through the operators that engines plug into."""
    if request.param in OPERATORS:
        monkeypatch.setitem(backends.BACKENDS, "torch", fused.Fused("torch", OPERATORS[request.param]))
    return "torch" if request.param in OPERATORS else request.param


@pytest.fixture(params=["energy", "score"])
def case(request):
    torch.manual_seed(2)
    out = 1 if request.param == "energy" else D
    net = MLP(D, [7, 5], out, "softplus", cond_dim=2, conditioning="film").double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, cond, v = (torch.randn(*shape).double() for shape in ((B, D), (B, 2), (M, B, D)))
    return net, x, {"cond": cond, "v": v}


def truth(net, x, given, loss="vr"):
    energy = net.readout.out_features == 1
    return oracle.losses(net, x, given["v"], loss, energy=energy, cond=[given["cond"]])


def weights(net):
    return list(net.parameters())


def close(a, b):
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# --- the second backward ---

PENALTIES = {
    "gradient": lambda loss, sources: sum(g.square().sum() for g in grad(loss, sources)),
    "scaled": lambda loss, sources: sum(g.square().sum() for g in grad(3.0 * loss, sources)),
    "squared": lambda loss, sources: sum(g.sum() for g in grad(loss.square(), sources)),
}


def grad(loss, sources, create_graph=True):
    return torch.autograd.grad(loss, sources, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def one_loss(net, x, given, reduction, backend):
    if reduction == "terms":
        terms = fastssm.terms(net, x, backend=backend, **given)
        return (terms.projected_jacobian + terms.score_sqnorm / 2).mean()
    return fastssm.sliced_loss(net, x, reduction=reduction, backend=backend, **given).mean()


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("reduction", ["mean", "none", "terms"])
@pytest.mark.parametrize("of_x", [True, False])
def test_a_second_backward_is_right_or_refused(case, backend, penalty, reduction, of_x):
    net, x, given = case
    x.requires_grad_(of_x)
    sources = [x] if of_x else weights(net)
    loss = one_loss(net, x, given, reduction, backend)
    if backend != "reference":
        with pytest.raises(RuntimeError, match='backend="reference"'):
            PENALTIES[penalty](loss, sources).backward()
        return
    expected = grad(PENALTIES[penalty](truth(net, x, given).mean(), sources), weights(net), create_graph=False)
    close(grad(PENALTIES[penalty](loss, sources), weights(net), create_graph=False), expected)


def test_create_graph_alone_gives_the_gradient(case, backend):
    net, x, given = case
    found = grad(fastssm.sliced_loss(net, x, backend=backend, **given), weights(net))
    close(found, grad(truth(net, x, given).mean(), weights(net)))


def test_a_loss_may_be_an_inner_term(case, backend):
    """Squares, sums and weights that depend on the same parameters need first derivatives only."""
    net, x, given = case

    def total(each):
        return (each.square().sum() * 0.5 + each.mean()) * next(net.parameters()).sum().exp()

    each = fastssm.sliced_loss(net, x, reduction="none", backend=backend, **given)
    close(grad(total(each), weights(net), False), grad(total(truth(net, x, given)), weights(net), False))
    mean = fastssm.sliced_loss(net, x, backend=backend, **given)
    close(grad(mean.square(), weights(net), False), grad(truth(net, x, given).mean().square(), weights(net), False))


# --- several backwards ---


def test_accumulation_scaling_and_retained_graphs(case, backend):
    net, x, given = case
    once = grad(truth(net, x, given).mean(), weights(net), False)
    loss = 2.0 * fastssm.sliced_loss(net, x, backend=backend, **given)
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    fastssm.sliced_loss(net, x, backend=backend, **given).backward()
    close([p.grad for p in net.parameters()], [5.0 * g for g in once])
    net.zero_grad()
    loss.backward()
    close([p.grad for p in net.parameters()], [2.0 * g for g in once])


def test_microbatches_add_up(case, backend):
    net, x, given = case
    expected = grad(truth(net, x, given).mean(), weights(net), False)
    for part in (slice(0, 1), slice(1, B)):
        piece = {"cond": given["cond"][part], "v": given["v"][:, part]}
        (fastssm.sliced_loss(net, x[part], reduction="sum", backend=backend, **piece) / B).backward()
    close([p.grad for p in net.parameters()], expected)


SUMS = {
    "projected_score": lambda projected, jacobian, norm, score: projected.sum(),
    "projected_jacobian": lambda projected, jacobian, norm, score: jacobian.sum(),
    "score_sqnorm": lambda projected, jacobian, norm, score: norm.sum(),
    "score": lambda projected, jacobian, norm, score: score.sum(),
    "all": lambda *terms: sum(t.square().sum() for t in terms),
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", SUMS)
def test_terms_take_any_incoming_gradient(case, backend, name):
    """The gradient of a plain sum arrives with strides of zero, and those of unused terms not at all."""
    net, x, given = case
    x.requires_grad_()
    found = fastssm.terms(net, x, backend=backend, **given)
    projected, along, score = oracle.terms(
        net, x, given["v"], energy=net.readout.out_features == 1, cond=[given["cond"]]
    )
    expected = projected, along.mean(0), score.square().sum(1), score
    close(found, expected)
    sources = [x, *weights(net)]
    close(grad(SUMS[name](*found), sources, False), grad(SUMS[name](*expected), sources, False))


@pytest.mark.covering(1)
@pytest.mark.parametrize("view", [
    lambda t: t.mT.contiguous().mT,
    lambda t: torch.stack([t, t], -1)[..., 0],
    lambda t: t.repeat_interleave(2, -2)[..., ::2, :],
    lambda t: t[..., :1, :].expand_as(t),
], ids=["transposed", "strided", "every other", "expanded"])  # fmt: skip
def test_strides_do_not_matter(case, backend, view):
    net, x, given = case
    x, given = view(x), {key: view(t) for key, t in given.items()}
    assert not x.is_contiguous()
    loss = fastssm.sliced_loss(net, x, backend=backend, **given)
    dense = {key: t.clone(memory_format=torch.contiguous_format) for key, t in given.items()}
    expected = truth(net, x.clone(memory_format=torch.contiguous_format), dense).mean()
    close([loss], [expected])
    close(grad(loss, weights(net), False), grad(expected, weights(net), False))


# --- what wraps a loss ---


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_checkpoint(case, backend, reentrant, reduction):
    net, x, given = case
    x.requires_grad_()  # the re-entrant kind needs an input that asks for a gradient

    def loss(x):
        return fastssm.sliced_loss(net, x, cond=given["cond"], reduction=reduction, backend=backend, n_projections=M)

    torch.manual_seed(5)
    plain = loss(x).sum()
    expected = grad(plain, [x, *weights(net)], False)
    torch.manual_seed(5)
    kept = checkpoint(loss, x, use_reentrant=reentrant).sum()
    torch.manual_seed(6)  # the recomputation must find its own directions again
    kept.backward()
    close([kept, x.grad, *(p.grad for p in net.parameters())], [plain, *expected])


@pytest.mark.covering(1)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same_and_share_nothing(case, backend, clone):
    net, x, given = case
    net.zero_grad()
    loss = fastssm.SlicedScoreLoss(net, n_projections=M, backend=backend, variance_reduced=False)
    other = clone(loss)
    assert other.extra_repr() == loss.extra_repr()
    assert not {p.data_ptr() for p in loss.parameters()} & {p.data_ptr() for p in other.parameters()}
    value, twin = loss(x, **given), other(x, **given)
    assert torch.equal(value, twin)
    twin.backward()
    assert all(p.grad is None for p in net.parameters())
    close(grad(value, weights(net), False), [p.grad for p in other.model.parameters()])
    alone = clone(net)
    assert torch.equal(alone(x, given["cond"]), net(x, given["cond"]))


def test_the_module_is_the_function(case, backend):
    net, x, given = case
    weight = torch.rand(B, dtype=x.dtype)
    for options in ({}, {"variance_reduced": False, "reduction": "none"}, {"control_variate": "optimal"}):
        loss = fastssm.SlicedScoreLoss(net, backend=backend, **options)(x, weight=weight, **given)
        assert torch.equal(loss, fastssm.sliced_loss(net, x, weight=weight, backend=backend, **options, **given))
    assert list(fastssm.SlicedScoreLoss(net).state_dict()) == [f"model.{key}" for key in net.state_dict()]


# --- autocast ---


@pytest.mark.parametrize("entry", ["torch", *OPERATORS])
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_computes_in_single_precision(monkeypatch, entry, kind, reduction):
    if entry in OPERATORS:
        monkeypatch.setitem(backends.BACKENDS, "torch", fused.Fused("torch", OPERATORS[entry]))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 9), nn.Softplus(), nn.Linear(9, 1 if kind == "energy" else D))
    x, v = torch.randn(B, D), torch.randn(M, B, D)

    def run(x):
        net.zero_grad()
        loss = fastssm.sliced_loss(net, x, v=v, reduction=reduction, backend="torch")
        loss.sum().backward()
        return loss.detach(), *(p.grad for p in net.parameters())

    plain, rounded = run(x), run(x.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16  # autocast is on
        cast, from_half = run(x), run(x.bfloat16())
    assert cast[0].dtype == torch.float32
    assert all(map(torch.equal, cast, plain))
    assert all(map(torch.equal, from_half, rounded))


def test_autocast_leaves_double_precision_alone(case):
    net, x, given = case
    expected = truth(net, x, given).mean()
    with torch.autocast("cpu", torch.bfloat16):
        found = fastssm.sliced_loss(net, x, backend="torch", **given)
    assert found.dtype == torch.float64
    close([found], [expected])


# --- gradcheck ---


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_gradcheck(case, reduction):
    net, x, given = case
    leaves = [x.requires_grad_(), given["cond"].requires_grad_(), *net.parameters()]

    def loss(x, cond, *_):
        return fastssm.sliced_loss(net, x, cond=cond, v=given["v"], reduction=reduction, backend="torch")

    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)
