"""Bad input of the losses around noise and differences, of the samplers and of the diagnostics."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastssm
from fastssm import diagnostics
from fastssm.nn import MLP
from fastssm.sampling import annealed_langevin, langevin
from tests.refusals import assert_all_refused

B, D = 5, 3
SIGMAS = [1.0, 0.5]


@pytest.fixture
def s():
    torch.manual_seed(0)
    found = SimpleNamespace(
        net=MLP(D, [8]),
        score=MLP(D, [8], D),
        told=MLP(D, [8], cond_dim=1),
        half=MLP(D, [8]).half(),
        bfloat16=MLP(D, [8]).bfloat16(),
        dropout=nn.Sequential(nn.Linear(D, 8), nn.LayerNorm(8), nn.Linear(8, 1)).eval(),
        x=torch.randn(B, D),
        z=torch.randn(B, D, requires_grad=True),
        v=torch.randn(2, B, D),
        weight=torch.rand(B),
        level=torch.zeros(B, dtype=torch.int64),
    )
    for model in (m for m in vars(found).values() if isinstance(m, nn.Module)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    return found


def difference(s, model="net", x=None, **options):
    return fastssm.finite_difference_loss(getattr(s, model), s.x if x is None else x, **options)


def noisy_difference(s, model="net", x=None, sigma=0.1, **options):
    return fastssm.finite_difference_denoising_loss(getattr(s, model), s.x if x is None else x, sigma=sigma, **options)


def ratio(s, base=None, **options):
    return fastssm.density_ratio_loss(s.told, s.x, base=s.x if base is None else base, **options)


def denoise(s, model="net", x=None, sigma=0.1, **options):
    return fastssm.denoising_loss(getattr(s, model), s.x if x is None else x, sigma=sigma, **options)


def annealed(s, model="told", sigmas=SIGMAS, **options):
    return fastssm.annealed_denoising_loss(getattr(s, model), s.x, sigmas=sigmas, **options)


def annealed_sliced(s, **options):
    return fastssm.annealed_sliced_loss(s.told, s.x, sigmas=SIGMAS, **options)


def walk(s, model="net", x=None, step=0.1, n_steps=2, **options):
    return langevin(getattr(s, model), s.x if x is None else x, step=step, n_steps=n_steps, **options)


def autocast(call):
    def inside(s):
        with torch.autocast("cpu", torch.bfloat16):
            return call(s)

    return inside


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    # finite differences
    "fd: bfloat16": (
        lambda s: fastssm.finite_difference_loss(s.bfloat16, s.x.bfloat16()),
        TypeError,
        ("float32 or float64", "bfloat16", "sign may be wrong", "sliced_loss"),
    ),
    "fd: float16": (
        lambda s: fastssm.finite_difference_denoising_loss(s.half, s.x.half(), sigma=0.1),
        TypeError,
        ("float32 or float64", "float16", "x.float()"),
    ),
    "fd: autocast": (autocast(difference), TypeError, ("float32 or float64", "under autocast", "outside autocast")),
    "fd: step of zero": (lambda s: difference(s, step=0.0), ValueError, ("step must be positive", "got 0.0")),
    "fd: step of text": (lambda s: difference(s, step="fine"), TypeError, ("step must be a positive number", "str")),
    "fd: variance reduction of an energy": (
        lambda s: difference(s, variance_reduced=True, v=s.v),
        ValueError,
        ("needs |s|", "leave it out", "sliced_loss"),
    ),
    "fd: v": (lambda s: difference(s, v=s.v[:, 1:]), ValueError, ("[M, *x.shape]", "(2, 4, 3)")),
    "fd: projection": (lambda s: difference(s, projection="normal"), ValueError, ("one of rademacher", "'normal'")),
    "fd: x": (lambda s: difference(s, x=s.x.long()), TypeError, ("floating point", "int64")),
    "fd: empty": (lambda s: difference(s, x=s.x[:0]), ValueError, ("no samples", 'reduction="sum"')),
    "fd: weight": (lambda s: difference(s, weight=s.weight[1:]), ValueError, ("(5,)", "(4,)")),
    "fd: reduction": (lambda s: difference(s, reduction="max"), ValueError, ("one of mean", "'max'")),
    "fd: kind": (lambda s: difference(s, "score", kind="energy"), ValueError, ("[B] or [B, 1]", "(5, 3)")),
    "fd: a name": (lambda s: fastssm.finite_difference_loss("net", s.x), TypeError, ("or a function", "str")),
    "fd denoising: a score": (lambda s: noisy_difference(s, "score"), ValueError, ("[B] or [B, 1]", "no energy")),
    "fd denoising: sigma": (lambda s: noisy_difference(s, sigma=-1), ValueError, ("sigma must be positive", "-1")),
    "fd denoising: noise": (
        lambda s: noisy_difference(s, noise=s.x[1:]),
        ValueError,
        ("noise must have the shape and device of x", "(4, 3)", "randn_like"),
    ),
    "fd twin: no backend": (
        lambda s: fastssm.FiniteDifferenceLoss(s.net, backend="cpu"),
        TypeError,
        ("FiniteDifferenceLoss takes", "step", "got backend"),
    ),
    # traces
    "trace: method": (
        lambda s: diagnostics.jacobian_trace(s.net, s.x, method="magic"),
        ValueError,
        ("one of hutchinson", "xtrace", "'magic'"),
    ),
    "trace: too few products": (
        lambda s: diagnostics.jacobian_trace(s.net, s.x, method="hutch++", n_products=2),
        ValueError,
        ("at least 3", "hutch++", "got 2"),
    ),
    "trace: half a product": (
        lambda s: diagnostics.jacobian_trace(s.net, s.x, n_products=2.5),
        TypeError,
        ("n_products must be an integer", "float"),
    ),
    "trace: generator": (lambda s: diagnostics.jacobian_trace(s.net, s.x, generator=1), TypeError, ("manual_seed",)),
    "trace: x": (lambda s: diagnostics.jacobian_trace(s.net, s.x.long()), TypeError, ("floating point", "int64")),
    # density ratios
    "ratio: no base": (
        lambda s: fastssm.density_ratio_loss(s.told, s.x),
        TypeError,
        ("missing required keyword-only argument", "'base'"),
    ),
    "ratio: base of another shape": (
        lambda s: ratio(s, base=s.x[1:]),
        ValueError,
        ("base must have the shape and device of x, (5, 3)", "(4, 3)", "as many rows"),
    ),
    "ratio: base of another dtype": (
        lambda s: ratio(s, base=s.x.double()),
        TypeError,
        ("float64", ".to(x)"),
    ),
    "ratio: base is an array": (lambda s: ratio(s, base=s.x.numpy()), TypeError, ("base must be", "ndarray")),
    "ratio: sigma of zero": (
        lambda s: ratio(s, sigma=0),
        ValueError,
        ("must be positive", "conditional", "got 0"),
    ),
    "ratio: sigma below zero": (
        lambda s: ratio(s, sigma=-1.0, objective="implicit"),
        ValueError,
        ("not negative", "implicit", "got -1.0"),
    ),
    "ratio: sigma of text": (lambda s: ratio(s, sigma="one"), TypeError, ("sigma must be a number", "str")),
    "ratio: objective": (lambda s: ratio(s, objective="both"), ValueError, ("conditional, implicit", "'both'")),
    "ratio: times": (lambda s: ratio(s, t=s.weight + 2), ValueError, ("t must be in [0, 1]", "5 of 5 row(s)")),
    "ratio: a time too few": (lambda s: ratio(s, t=s.weight[1:]), ValueError, ("(5,)", "(4,)")),
    "ratio: whole times": (lambda s: ratio(s, t=s.level), TypeError, ("floating-point", "int64")),
    "ratio: noise": (lambda s: ratio(s, noise=s.x[1:]), ValueError, ("(4, 3)", "randn_like")),
    "ratio: two outputs of three": (
        lambda s: fastssm.density_ratio_loss(lambda x, t: x[:, :2], s.x, base=s.x, t=s.weight, noise=s.x),
        ValueError,
        ("one value per sample", "(5, 2)", "last layer"),
    ),
    "ratio: weight": (lambda s: ratio(s, weight=s.weight[1:]), ValueError, ("(5,)", "(4,)")),
    "log ratio: steps": (
        lambda s: fastssm.log_density_ratio(s.told, s.x, steps=0),
        ValueError,
        ("at least 1", "got 0"),
    ),
    "log ratio: x": (lambda s: fastssm.log_density_ratio(s.told, s.level), TypeError, ("floating point", "int64")),
    # entropy
    "entropy: z without gradients": (
        lambda s: fastssm.entropy_gradient(s.score, s.x),
        ValueError,
        ("z must require grad", "without one", "not detached"),
    ),
    "entropy: z is an array": (
        lambda s: fastssm.entropy_gradient(s.score, s.x.numpy()),
        TypeError,
        ("z must be a torch.Tensor", "ndarray", "torch.as_tensor(z)"),
    ),
    "entropy: whole z": (
        lambda s: fastssm.entropy_gradient(s.score, s.level[:, None]),
        TypeError,
        ("z must be floating point", "int64", "z.float()"),
    ),
    "entropy: flat z": (
        lambda s: fastssm.entropy_gradient(s.score, s.z[0]),
        ValueError,
        ("z must be [B, ...]", "(3,)", "z[:, None]"),
    ),
    "entropy: z too narrow": (
        lambda s: fastssm.entropy_gradient(s.score, s.z[:, :2]),
        ValueError,
        ("takes 3 value(s)", "(5, 2) has 2", "pass data of that width"),
    ),
    "entropy: cond": (
        lambda s: fastssm.entropy_gradient(s.score, s.z, cond=s.x),
        ValueError,
        ("takes 0", "got 1", "leave cond out"),
    ),
    "entropy: model": (
        lambda s: fastssm.entropy_gradient(MLP, s.z),
        TypeError,
        ("model must be", "type MLP itself", "instance"),
    ),
    "entropy: two outputs of three": (
        lambda s: fastssm.entropy_gradient(lambda z: z[:, :2], s.z),
        ValueError,
        ("one value per coordinate", "(5, 2)", "change the last layer"),
    ),
    "entropy: weight": (
        lambda s: fastssm.entropy_gradient(s.score, s.z, weight=s.weight[1:]),
        ValueError,
        ("(5,)", "(4,)"),
    ),
    "entropy: reduction": (
        lambda s: fastssm.entropy_gradient(s.score, s.z, reduction="total"),
        ValueError,
        ("mean, sum, none", "'total'"),
    ),
    "entropy: mean of nothing": (
        lambda s: fastssm.entropy_gradient(s.score, s.z[:0]),
        ValueError,
        ("no samples", 'reduction="sum"'),
    ),
    "entropy: backend": (
        lambda s: fastssm.entropy_gradient(s.dropout, s.z, backend="torch"),
        fastssm.UnsupportedError,
        ("LayerNorm",),
    ),
    "entropy: an option of another loss": (
        lambda s: fastssm.entropy_gradient(s.score, s.z, sigma=1.0),
        TypeError,
        ("unexpected keyword argument 'sigma'",),
    ),
    # denoising
    "sigma of zero": (lambda s: denoise(s, sigma=0.0), ValueError, ("positive and finite", "got 0.0")),
    "sigma of infinity": (lambda s: denoise(s, sigma=float("inf")), ValueError, ("positive and finite", "inf")),
    "sigma is a list": (lambda s: denoise(s, sigma=[0.1]), TypeError, ("positive number or a tensor", "list")),
    "sigma is a bool": (lambda s: denoise(s, sigma=True), TypeError, ("positive number or a tensor", "bool")),
    "sigma of too few samples": (
        lambda s: denoise(s, sigma=torch.ones(4)),
        ValueError,
        ("one per sample", "(5,)", "(4,)"),
    ),
    "sigma of integers": (lambda s: denoise(s, sigma=torch.ones(B).long()), ValueError, ("floating-point", "int64")),
    "noise is an array": (
        lambda s: denoise(s, noise=s.x.numpy()),
        TypeError,
        ("noise must be", "ndarray", "randn_like"),
    ),
    "noise of integers": (lambda s: denoise(s, noise=s.x.long()), TypeError, ("floating-point", "int64")),
    "noise of another shape": (lambda s: denoise(s, noise=s.v), ValueError, ("device of x, (5, 3)", "(2, 5, 3)")),
    "denoising: generator": (lambda s: denoise(s, generator=3), TypeError, ("torch.Generator", "int", "manual_seed")),
    "denoising: backend": (
        lambda s: denoise(s, "dropout", backend="torch"),
        fastssm.UnsupportedError,
        ("LayerNorm", 'backend="auto"'),
    ),
    "denoising: x": (lambda s: denoise(s, x=s.x[0]), ValueError, ("[B, ...]", "(3,)")),
    "denoising: cond": (lambda s: denoise(s, cond=s.x), ValueError, ("takes 0", "got 1")),
    "denoising twin: no sigma": (lambda s: fastssm.DenoisingLoss(s.net), TypeError, ("DenoisingLoss needs sigma",)),
    "denoising twin: a tensor of the batch": (
        lambda s: fastssm.DenoisingLoss(s.net, sigma=0.1, noise=s.x),
        TypeError,
        ("got noise", "cond, weight, noise are arguments of its forward"),
    ),
    # noise levels
    "no level": (lambda s: annealed(s, sigmas=[]), ValueError, ("at least one noise level", "none")),
    "a level of zero": (lambda s: annealed(s, sigmas=[1.0, 0.0]), ValueError, ("positive and finite", "0.0")),
    "levels as a number": (lambda s: annealed(s, sigmas=0.1), TypeError, ("list of numbers or a tensor", "float")),
    "levels of text": (lambda s: annealed(s, sigmas=["1"]), TypeError, ("list of numbers",)),
    "levels in a matrix": (lambda s: annealed(s, sigmas=s.x), ValueError, ("[L]", "(5, 3)")),
    "level as floats": (lambda s: annealed(s, level=s.weight), TypeError, ("int64", "float32")),
    "level as a list": (lambda s: annealed(s, level=[0] * B), TypeError, ("int64", "list")),
    "level of too few": (lambda s: annealed(s, level=s.level[1:]), ValueError, ("(5,)", "(4,)")),
    "power of text": (lambda s: annealed(s, anneal_power="2"), ValueError, ("finite number", "'2'")),
    "unknown condition": (lambda s: annealed(s, condition="t"), ValueError, ("one of sigma, log_sigma, level", "'t'")),
    "a model that is told nothing": (lambda s: annealed(s, "net"), ValueError, ("takes 0", "got 1")),
    "an index for a network of columns": (
        lambda s: annealed(s, condition="level"),
        TypeError,
        ("dtype of x", "int64"),
    ),
    "levels: x": (
        lambda s: fastssm.annealed_denoising_loss(s.told, [[1.0]], sigmas=SIGMAS),
        TypeError,
        ("torch.Tensor", "list"),
    ),
    "annealed sliced: v": (lambda s: annealed_sliced(s, v=s.v[:, 1:]), ValueError, ("[M, *x.shape]", "(2, 4, 3)")),
    "annealed sliced: projection": (
        lambda s: annealed_sliced(s, projection="normal"),
        ValueError,
        ("one of rademacher", "'normal'"),
    ),
    "annealed sliced: noise": (
        lambda s: annealed_sliced(s, noise=s.v),
        ValueError,
        ("noise must have the shape and device of x", "(2, 5, 3)"),
    ),
    "annealed twin: no sigmas": (lambda s: fastssm.AnnealedSlicedLoss(s.told), TypeError, ("needs sigmas",)),
    # score
    "score: x": (lambda s: fastssm.score(s.net, s.x.long()), TypeError, ("floating point", "int64")),
    "score: kind": (lambda s: fastssm.score(s.net, s.x, kind="score"), ValueError, ("one value per coordinate",)),
    "score: backend": (lambda s: fastssm.score(s.net, s.x, backend="tpu"), ValueError, ("reference", "'tpu'")),
    # samplers
    "langevin: step": (lambda s: walk(s, step=-0.1), ValueError, ("step must be positive", "-0.1")),
    "langevin: step of text": (lambda s: walk(s, step="small"), TypeError, ("step must be a positive number", "str")),
    "langevin: no step": (lambda s: walk(s, n_steps=0), ValueError, ("n_steps must be at least 1", "got 0")),
    "langevin: half": (
        lambda s: langevin(s.half, s.x.half(), step=0.1, n_steps=1),
        TypeError,
        ("float32 or float64", "float16", "x.float()"),
    ),
    "langevin: Metropolis of a score": (
        lambda s: walk(s, "score", metropolis=True),
        ValueError,
        ("requires an energy", "got a score", "omit it"),
    ),
    "langevin: generator": (lambda s: walk(s, generator=1), TypeError, ("torch.Generator", "int")),
    "langevin: x": (lambda s: walk(s, x=s.x[0]), ValueError, ("[B, ...]", "(3,)")),
    "annealed langevin: rising levels": (
        lambda s: annealed_langevin(s.told, s.x, sigmas=[0.1, 1.0]),
        ValueError,
        ("sigmas must decrease", "0.1, 1"),
    ),
    "annealed langevin: told nothing": (
        lambda s: annealed_langevin(s.net, s.x, sigmas=[1.0, 0.1]),
        ValueError,
        ("takes 0", "got 1"),
    ),
    # diagnostics
    "fisher: another shape": (
        lambda s: diagnostics.fisher_divergence(s.net, s.x, s.v),
        ValueError,
        ("true_score must have the shape of x", "(2, 5, 3)"),
    ),
    "fisher: one sample": (
        lambda s: diagnostics.fisher_divergence(s.net, s.x[:1], s.x[:1]),
        ValueError,
        ("at least 2 samples", "got 1"),
    ),
    "gap: one repeat": (lambda s: diagnostics.sliced_gap(s.net, s.x, repeats=1), ValueError, ("at least 2", "got 1")),
    "gap: an option": (lambda s: diagnostics.sliced_gap(s.net, s.x, projection="normal"), ValueError, ("rademacher",)),
    "projections: one chunk": (
        lambda s: diagnostics.projection_study(s.net, s.x, chunks=1),
        ValueError,
        ("at least two chunks", "chunks=1"),
    ),
    "projections: too few samples": (
        lambda s: diagnostics.projection_study(s.net, s.x, chunks=4),
        ValueError,
        ("at least 8 samples", "got 5"),
    ),
    "projections: none": (
        lambda s: diagnostics.projection_study(s.net, s.x, counts=[0], chunks=2),
        ValueError,
        ("each of counts must be at least 1",),
    ),
    "projections: nothing to train": (
        lambda s: diagnostics.projection_study(nn.Tanh(), s.x, chunks=2, kind="score"),
        ValueError,
        ("one parameter with requires_grad=True", "0 parameter(s)"),
    ),
    "levels: loss": (
        lambda s: diagnostics.loss_per_level(s.told, s.x, sigmas=SIGMAS, loss="exact"),
        ValueError,
        ("one of denoising, sliced", "'exact'"),
    ),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    assert_all_refused(s, ROWS)
