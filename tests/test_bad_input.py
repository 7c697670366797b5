"""Bad input: the documented error, which says what is required, what came and what to do; nothing is touched."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import fastssm
from fastssm import backends
from fastssm.backends.entries import compiled
from fastssm.nn import MLP, FourierFeatures, MADEContext
from tests.covering import each
from tests.refusals import assert_all_refused

B, D = 5, 3


class Unrecognised(nn.Module):
    """A module that only plain autograd runs, with whatever output the test wants."""

    def __init__(self, output):
        super().__init__()
        self.output, self.weight = output, nn.Parameter(torch.ones(D))

    def forward(self, x):
        return self.output(x, self.weight)


@pytest.fixture
def s():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 1))
    found = SimpleNamespace(
        net=net,
        wide=nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 2)),
        field=nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D)),
        dropout=nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 1)),
        mlp=MLP(D, [8], cond_dim=2),
        film=MLP(D, [8], cond_dim=2, conditioning="film", fourier_time=True),
        pair=Unrecognised(lambda x, w: (x * w, x)),
        matrix=Unrecognised(lambda x, w: (x * w)[:, :, None] * w),
        scalar=nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
        x=torch.randn(B, D),
        v=torch.randn(2, B, D),
        cond=torch.randn(B, 2),
        t=torch.rand(B),
        weight=torch.rand(B),
    )
    for model in (m for m in vars(found).values() if isinstance(m, nn.Module)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    return found


def sliced(s, model="net", x=None, **options):
    return fastssm.sliced_loss(getattr(s, model), s.x if x is None else x, **options)


def wrapped(s, name):
    kind = type(name, (nn.Module,), {"forward": lambda self, x: s.net(x)})  # told apart by its name alone
    return kind()


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    # x
    "x is an array": (lambda s: sliced(s, x=np.zeros((B, D))), TypeError, ("torch.Tensor", "ndarray", "as_tensor")),
    "x is a list": (lambda s: sliced(s, x=[[0.0] * D]), TypeError, ("torch.Tensor", "list", "as_tensor")),
    "x is an integer": (lambda s: sliced(s, x=s.x.long()), TypeError, ("floating point", "int64", "x.float()")),
    "x is boolean": (lambda s: sliced(s, x=s.x > 0), TypeError, ("floating point", "bool", "x.float()")),
    "x is complex": (lambda s: sliced(s, x=s.x + 0j), TypeError, ("floating point", "complex64")),
    "x is sparse": (lambda s: sliced(s, x=s.x.to_sparse()), TypeError, ("dense", "sparse_coo", "to_dense")),
    "x is one-dimensional": (lambda s: sliced(s, x=s.x[0]), ValueError, ("[B, ...]", "(3,)", "x[:, None]")),
    "x is a scalar": (lambda s: sliced(s, x=s.x[0, 0]), ValueError, ("[B, ...]", "()", "x[:, None]")),
    "x has no coordinate": (lambda s: sliced(s, x=s.x[:, :0]), ValueError, ("at least one coordinate", "(5, 0)")),
    "x is too wide": (lambda s: sliced(s, x=torch.zeros(B, 4)), ValueError, ("takes 3", "(5, 4)", "that width")),
    "x is too wide for an MLP": (
        lambda s: sliced(s, "mlp", torch.zeros(B, 2, 2), cond=s.cond),
        ValueError,
        ("takes 3", "(5, 2, 2)", "that width"),
    ),
    "x is empty, mean": (lambda s: sliced(s, x=s.x[:0]), ValueError, ("no samples", "mean", 'reduction="sum"')),
    "x is on another device": (lambda s: sliced(s, x=s.x.to("meta")), ValueError, ("one device", "meta", ".to(")),
    "x is on another device, reference": (
        lambda s: sliced(s, x=s.x.to("meta"), backend="reference"),
        ValueError,
        ("one device", "meta", ".to("),
    ),
    "x has another dtype": (lambda s: sliced(s, x=s.x.double()), TypeError, ("one dtype", "float64", ".to(")),
    "x has another dtype, reference": (
        lambda s: sliced(s, x=s.x.double(), backend="reference"),
        TypeError,
        ("one dtype", "float64", ".to("),
    ),
    # v and n_projections
    "v is an array": (
        lambda s: sliced(s, v=s.v.numpy()),
        TypeError,
        ("v must be a torch.Tensor", "ndarray", "as_tensor"),
    ),
    "v has signs as integers": (lambda s: sliced(s, v=s.v.sign().long()), TypeError, ("floating", "int64", "v.to(")),
    "v has too few samples": (lambda s: sliced(s, v=s.v[:, 1:]), ValueError, ("[M, *x.shape]", "(2, 4, 3)", "draw")),
    "v is one vector": (lambda s: sliced(s, v=s.v[0, 0]), ValueError, ("[M, *x.shape]", "(3,)", "draw")),
    "v holds none": (lambda s: sliced(s, v=s.v[:0]), ValueError, ("at least one direction", "M = 0")),
    "v requires grad": (
        lambda s: sliced(s, v=s.v.clone().requires_grad_()),
        ValueError,
        ("must not require grad", "detach"),
    ),
    "v is on another device": (lambda s: sliced(s, v=s.v.to("meta")), ValueError, ("device of x", "meta", "v.to(")),
    "v contradicts n_projections": (
        lambda s: sliced(s, v=s.v, n_projections=3),
        ValueError,
        ("=3", "2", "leave one out"),
    ),
    "no projections": (lambda s: sliced(s, n_projections=0), ValueError, ("at least 1", "got 0")),
    "too many projections": (
        lambda s: sliced(s, n_projections=2**32 + 1),
        ValueError,
        ("at most 4294967296", "4294967297"),
    ),
    "projections in part": (lambda s: sliced(s, n_projections=1.5), TypeError, ("integer", "float")),
    "projections as a bool": (lambda s: sliced(s, n_projections=True), TypeError, ("integer", "bool")),
    # names
    "unknown projection": (lambda s: sliced(s, projection="normal"), ValueError, ("one of rademacher", "'normal'")),
    "unknown kind": (lambda s: sliced(s, kind="density"), ValueError, ("one of auto, energy", "'density'")),
    "unknown reduction": (lambda s: sliced(s, reduction="avg"), ValueError, ("one of mean, sum, none", "'avg'")),
    "unknown backend": (lambda s: sliced(s, backend="tpu"), ValueError, ("one of reference, jets, torch", "'tpu'")),
    "unknown control variate": (lambda s: sliced(s, control_variate="best"), ValueError, ("None, optimal", "'best'")),
    "control variate of one sample": (
        lambda s: sliced(s, x=s.x[:1], control_variate="optimal"),
        ValueError,
        ("two samples", "got 1"),
    ),
    "generator is a seed": (lambda s: sliced(s, generator=7), TypeError, ("torch.Generator", "int", "manual_seed")),
    # cond
    "cond is an array": (lambda s: sliced(s, "mlp", cond=s.cond.numpy()), TypeError, ("tuple of tensors", "ndarray")),
    "cond has fewer rows": (lambda s: sliced(s, "mlp", cond=s.cond[1:]), ValueError, ("one row per sample", "(4, 2)")),
    "cond has fewer features": (lambda s: sliced(s, "mlp", cond=s.cond[:, :1]), ValueError, ("2 features", "(5, 1)")),
    "cond is missing": (lambda s: sliced(s, "mlp"), ValueError, ("takes 1", "got 0", "cond=")),
    "cond is too much": (lambda s: sliced(s, "mlp", cond=(s.cond, s.t)), ValueError, ("takes 1", "got 2")),
    "cond that nothing takes": (lambda s: sliced(s, cond=s.cond), ValueError, ("takes 0", "got 1")),
    "cond is a number": (lambda s: sliced(s, "mlp", cond=torch.tensor(1.0)), ValueError, ("2 features", "(5,)")),
    "cond is None in a tuple": (
        lambda s: sliced(s, "film", cond=(s.cond, None)),
        ValueError,
        ("got None", "position 1"),
    ),
    "cond by name": (lambda s: sliced(s, "mlp", cond={"c": s.cond}), ValueError, ("by position", "names c", "tuple")),
    "cond by name that nothing takes": (lambda s: sliced(s, cond={"c": s.cond}), ValueError, ("takes 0", "got 1")),
    "cond by number": (lambda s: sliced(s, "mlp", cond={1: s.cond}), TypeError, ("names of arguments", "got 1")),
    "cond by name is a list": (lambda s: sliced(s, "mlp", cond={"c": [1.0]}), TypeError, ("tensors", "list", "'c'")),
    "cond holds labels": (
        lambda s: sliced(s, "mlp", cond=s.cond.long()),
        TypeError,
        ("dtype of x", "int64", "one_hot"),
    ),
    "cond has another dtype": (
        lambda s: sliced(s, "film", cond=(s.cond.double(), s.t)),
        TypeError,
        ("dtype of x", "float64", ".to("),
    ),
    "cond is on another device": (
        lambda s: sliced(s, "mlp", cond=s.cond.to("meta")),
        ValueError,
        ("device of x", "meta"),
    ),
    "time has columns": (lambda s: sliced(s, "film", cond=(s.cond, s.cond)), ValueError, ("[B, 1]", "(5, 2)")),
    # weight
    "weight is a number": (lambda s: sliced(s, weight=2.0), TypeError, ("weight must be a torch.Tensor", "float")),
    "weight is a column": (lambda s: sliced(s, weight=s.weight[:, None]), ValueError, ("(5,)", "(5, 1)")),
    "weight is an integer": (
        lambda s: sliced(s, weight=s.weight.long()),
        TypeError,
        ("floating point", "int64", ".to("),
    ),
    "weight is on another device": (
        lambda s: sliced(s, weight=s.weight.to("meta")),
        ValueError,
        ("device of x", "meta"),
    ),
    # the model
    "model is a name": (lambda s: fastssm.sliced_loss("net", s.x), TypeError, ("Module or a function of x", "str")),
    "model is a class": (
        lambda s: fastssm.sliced_loss(MLP, s.x),
        TypeError,
        ("Module or a function", "type MLP", "MLP("),
    ),
    "one value or one coordinate": (
        lambda s: sliced(s, "scalar", s.x[:, :1]),
        ValueError,
        ("ambiguous", 'kind="energy"'),
    ),
    "output of no kind": (lambda s: sliced(s, "wide"), ValueError, ("[B] or [B, 1]", "(5, 2)", "energy or score")),
    "output of the other kind": (lambda s: sliced(s, kind="score"), ValueError, ("one value per coordinate", "(5, 1)")),
    "output of no kind, unrecognised": (
        lambda s: sliced(s, "matrix", v=s.v),
        ValueError,
        ("[B] or [B, 1]", "(5, 3, 3)"),
    ),
    "output is a pair": (lambda s: sliced(s, "pair", v=s.v), TypeError, ("one tensor", "tuple")),
    "DataParallel": (
        lambda s: fastssm.sliced_loss(wrapped(s, "DataParallel"), s.x),
        ValueError,
        (
            "never be averaged",
            "= DistributedDataParallel(fastssm.SlicedScoreLoss(net))",
            "= accelerator.prepare(fastssm.SlicedScoreLoss(net))",
            "= fabric.setup(fastssm.SlicedScoreLoss(net))",
        ),
    ),
    "DDP": (
        lambda s: fastssm.sliced_loss(wrapped(s, "DistributedDataParallel"), s.x),
        ValueError,
        ("DistributedDataParallel(fastssm.SlicedScoreLoss(net))",),
    ),
    "DDP inside a loss": (
        lambda s: fastssm.SlicedScoreLoss(wrapped(s, "DistributedDataParallel"))(s.x),
        ValueError,
        ("DistributedDataParallel(fastssm.SlicedScoreLoss(net))",),
    ),
    "DDP inside a module": (
        lambda s: fastssm.sliced_loss(nn.Sequential(wrapped(s, "DistributedDataParallel")), s.x),
        ValueError,
        ("DistributedDataParallel(fastssm.SlicedScoreLoss(net))",),
    ),
    # backends
    "a named backend that cannot": (
        lambda s: sliced(s, "dropout", backend="torch"),
        fastssm.UnsupportedError,
        ("1 (Dropout)", "eval()", "2 (LayerNorm)", 'backend="auto"', "fastssm.explain"),
    ),
    "a backend that is not built": (
        lambda s: sliced(s, backend="cuda"),
        fastssm.UnsupportedError,
        ("cuda", "built", 'backend="auto"'),
    ),
    "a block with an unknown backend": (
        lambda s: fastssm.backend("tpu").__enter__(),
        ValueError,
        ("reference", "'tpu'"),
    ),
    # precision
    "unknown precision": (lambda s: sliced(s, precision="half"), ValueError, ("one of full, bf16", "'half'")),
    "bf16 in PyTorch": (
        lambda s: sliced(s, precision="bf16", backend="torch"),
        fastssm.UnsupportedError,
        ('"torch" cannot', "compiled engine only", 'precision="full"'),
    ),
    "bf16 by autograd": (
        lambda s: fastssm.terms(s.net, s.x, precision="bf16", backend="reference"),
        fastssm.UnsupportedError,
        ('"reference" cannot', "compiled engine only"),
    ),
    "bf16 that nothing can": (
        lambda s: fastssm.exact_loss(s.net.double(), s.x.double(), precision="bf16"),
        fastssm.UnsupportedError,
        ("no backend can", "- cuda: ", "- cpu: ", "- torch: ", "- reference: ", 'precision="full"'),
    ),
    "bf16 of an unrecognised network": (
        lambda s: sliced(s, "dropout", precision="bf16"),
        fastssm.UnsupportedError,
        ("no backend can", "- cpu: ", "Dropout", "LayerNorm"),
    ),
    "explain: precision": (
        lambda s: fastssm.explain(s.net, s.x, precision=16),
        ValueError,
        ("one of full, bf16", "got 16"),
    ),
    # the other entry points
    "exact: x": (lambda s: fastssm.exact_loss(s.net, s.x.long()), TypeError, ("floating point", "int64", "x.float()")),
    "exact: empty": (lambda s: fastssm.exact_loss(s.net, s.x[:0]), ValueError, ("no samples", 'reduction="sum"')),
    "exact: weight": (lambda s: fastssm.exact_loss(s.net, s.x, weight=s.weight[1:]), ValueError, ("(5,)", "(4,)")),
    "exact: reduction": (
        lambda s: fastssm.exact_loss(s.net, s.x, reduction="max"),
        ValueError,
        ("one of mean", "'max'"),
    ),
    "exact: dtype": (lambda s: fastssm.exact_loss(s.net, s.x.double()), TypeError, ("one dtype", "float64")),
    "terms: v": (lambda s: fastssm.terms(s.net, s.x, v=s.v[:, :, 1:]), ValueError, ("[M, *x.shape]", "(2, 5, 2)")),
    "terms: projection": (
        lambda s: fastssm.terms(s.net, s.x, projection=None),
        ValueError,
        ("one of rademacher", "None"),
    ),
    "terms: backend": (
        lambda s: fastssm.terms(s.dropout, s.x, backend="torch"),
        fastssm.UnsupportedError,
        ("Dropout",),
    ),
    "explain: x": (lambda s: fastssm.explain(s.net, s.x[0]), ValueError, ("[B, ...]", "(3,)")),
    "explain: cond": (lambda s: fastssm.explain(s.net, s.x, cond=s.cond), ValueError, ("takes 0", "got 1")),
    "explain: kind": (lambda s: fastssm.explain(s.net, s.x, kind="e"), ValueError, ("one of auto", "'e'")),
    "recognize: a list": (lambda s: fastssm.recognize([]), TypeError, ("torch.nn.Module or a function", "list")),
    "explain: a number": (lambda s: fastssm.explain(1.0, s.x), TypeError, ("torch.nn.Module or a function", "float")),
    "module: an option": (
        lambda s: fastssm.SlicedScoreLoss(s.net, particles=2),
        TypeError,
        ("n_projections", "particles"),
    ),
    "module: a model": (lambda s: fastssm.SlicedScoreLoss("net"), TypeError, ("torch.nn.Module", "str")),
    "module: a function": (
        lambda s: fastssm.SlicedScoreLoss(torch.sin),
        TypeError,
        ("torch.nn.Module, because its parameters belong", "builtin", "fastssm.sliced_loss"),
    ),
    # fastssm.nn
    "MLP: no feature": (lambda s: MLP(0, [8]), ValueError, ("positive", "in_features=0")),
    "MLP: an empty layer": (lambda s: MLP(2, [8, 0]), ValueError, ("positive", "[8, 0]")),
    "MLP: one width": (lambda s: MLP(2, 8), TypeError, ("list of integers", "int", "[8]")),
    "MLP: half a feature": (lambda s: MLP(2, [8.0]), TypeError, ("integer", "float")),
    "MLP: negative cond": (lambda s: MLP(2, [8], cond_dim=-1), ValueError, ("cond_dim=-1",)),
    "MLP: unknown activation": (lambda s: MLP(2, [8], activation="swish"), ValueError, ("one of", "silu", "'swish'")),
    "MLP: an activation made": (
        lambda s: MLP(2, [8], activation=nn.Tanh()),
        TypeError,
        ("returns a module", "Tanh()", "class"),
    ),
    "MLP: unknown conditioning": (
        lambda s: MLP(2, [8], cond_dim=2, conditioning="cross"),
        ValueError,
        ("one of concat", "'cross'"),
    ),
    "MLP: conditioning without cond": (lambda s: MLP(2, [8], conditioning="film"), ValueError, ("film", "cond_dim")),
    "MLP: nothing to modulate": (
        lambda s: MLP(2, [], cond_dim=2, conditioning="film"),
        ValueError,
        ("hidden", "concat"),
    ),
    "MADE: an order": (
        lambda s: MADEContext(3, 2, [8], order=(0, 1, 1)),
        ValueError,
        ("0 ... 2 once", "[0, 1, 1]", "natural order"),
    ),
    "MADE: no context": (lambda s: MADEContext(3, 0, [8]), ValueError, ("positive", "context=0")),
    "MADE: half a width": (lambda s: MADEContext(3, 2, [8.0]), TypeError, ("integer", "float")),
    "Fourier features: odd": (lambda s: FourierFeatures(3), ValueError, ("even", "got 3")),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    builds = ("MLP", "MADE", "Fourier")  # a network draws its weights
    assert_all_refused(s, ROWS, draws=lambda name: name.startswith(builds))


def test_an_unknown_backend_in_the_environment_raises(s, monkeypatch):
    monkeypatch.setenv("FASTSSM_BACKEND", "gpu")
    with pytest.raises(ValueError, match=r"FASTSSM_BACKEND.*one of reference.*'gpu'"):
        sliced(s)


def test_a_refusal_lists_every_reason(s):
    s.dropout[3].register_forward_hook(lambda *_: None)
    with pytest.raises(fastssm.UnsupportedError) as raised:
        sliced(s, "dropout", backend="cuda")
    unavailable = len(backends.availability()["cuda"])
    assert str(raised.value).count("\n  - ") == 4 + unavailable  # x on a CPU, dropout, LayerNorm, the hook


def test_an_error_in_one_thread_leaves_the_others_their_backend(s):
    names = []

    def work():
        with pytest.raises(ValueError, match="tpu"), fastssm.backend("tpu"):
            pass
        names.append(fastssm.explain(s.net, s.x).backend)

    with fastssm.backend("reference"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        names.append(fastssm.explain(s.net, s.x).backend)
    assert names == [(*compiled.DEVICES, "torch")[0], "reference"]


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@each("projection", ["rademacher", "gaussian", "sphere", "hadamard", "basis"])
def test_an_empty_batch_is_legal_for_sum_and_none(s, backend, projection, reduction):
    for parameter in s.net.parameters():
        parameter.grad = None
    x = s.x[:0].requires_grad_()
    loss = fastssm.sliced_loss(s.net, x, projection=projection, n_projections=2, reduction=reduction, backend=backend)
    assert loss.shape == (() if reduction == "sum" else (0,))
    assert loss.sum() == 0
    loss.sum().backward()
    assert x.grad.shape == (0, D)
    assert all(p.grad is not None and not p.grad.any() for p in s.net.parameters())


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("loss", [fastssm.sliced_loss, fastssm.exact_loss])
def test_an_empty_batch_of_images(backend, kind, loss):
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1 if kind == "energy" else 8))
    assert loss(net, torch.zeros(0, 2, 2, 2), reduction="sum", backend=backend) == 0
