"""Bad input of the diffusions, their losses, evaluations and samplers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastssm
from fastssm import diffusion
from fastssm.diffusion import VE, VP, CustomSDE, ReciprocalVE, SoftTruncation, TimeSampling
from fastssm.nn import MLP
from tests.refusals import assert_all_refused

B, D = 5, 3
CUSTOM = CustomSDE(lambda x, t: -x, torch.ones_like, steps=2)


@pytest.fixture
def s():
    torch.manual_seed(0)
    found = SimpleNamespace(
        score=MLP(D, [8], D, cond_dim=1),
        energy=MLP(D, [8], cond_dim=1),
        untold=MLP(D, [8], D),
        x=torch.randn(B, D),
        v=torch.randn(2, B, D),
        t=torch.rand(B),
    )
    for model in (m for m in vars(found).values() if isinstance(m, nn.Module)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    return found


def bound(s, model="score", x=None, sde=None, **options):
    return diffusion.elbo_loss(getattr(s, model), s.x if x is None else x, sde=sde or VP(), **options)


def sliced(s, sde=None, **options):
    return diffusion.sliced_diffusion_loss(s.score, s.x, sde=sde or VP(), **options)


def evaluate(s, **options):
    return diffusion.elbo(s.score, s.x, sde=VP(), **options)


def walk(s, sde=None, **options):
    return diffusion.euler_maruyama(s.score, s.x, sde=sde or VP(), **{"steps": 2, **options})


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    # the diffusions
    "beta out of order": (
        lambda s: VP(2.0, 1.0),
        ValueError,
        ("beta_min and beta_max", "0 < min < max", "2.0 and 1.0"),
    ),
    "beta of zero": (lambda s: diffusion.SubVP(0.0, 1.0), ValueError, ("0 < min < max", "0.0")),
    "sigma out of order": (lambda s: VE(1.0, 0.1), ValueError, ("sigma_min and sigma_max", "1.0 and 0.1")),
    "end of zero": (lambda s: VE(0.1, 1.0, end=0.0), ValueError, ("end must be positive", "0.0")),
    "eta above sigma": (lambda s: ReciprocalVE(0.01, 1.0, eta=0.02), ValueError, ("eta <= sigma_min", "0.02")),
    "eps of one": (lambda s: ReciprocalVE(0.01, 1.0, eps=1.0), ValueError, ("eps must lie", "1.0")),
    "a drift that is no function": (
        lambda s: CustomSDE(0.0, torch.ones_like),
        TypeError,
        ("must be functions", "f(x, t)"),
    ),
    "steps of zero": (lambda s: CustomSDE(torch.add, torch.ones_like, steps=0), ValueError, ("steps", "at least 1")),
    "a prior of zero": (lambda s: CustomSDE(torch.add, torch.ones_like, prior=0.0), ValueError, ("prior", "0.0")),
    "a drift of another shape": (
        lambda s: sliced(s, CustomSDE(lambda x, t: t, torch.ones_like), noise=torch.zeros(100, B, D), v=s.v, t=s.t),
        ValueError,
        ("f(x, t) must have the shape of x", "(5, 3)", "(5,)"),
    ),
    "a diffusion of another shape": (
        lambda s: sliced(s, CustomSDE(lambda x, t: x, lambda t: torch.ones(1)), v=s.v, t=s.t),
        ValueError,
        ("g(t) must have the shape of t", "(5,)", "(1,)"),
    ),
    # soft truncation
    "truncation out of order": (lambda s: SoftTruncation(eps=2.0), ValueError, ("0 < eps < end", "2.0")),
    "truncation of infinite power": (lambda s: SoftTruncation(float("inf")), ValueError, ("finite", "inf", "t_min")),
    "truncation of other times": (
        lambda s: bound(s, sde=VP(end=2.0), times=TimeSampling(t_min=SoftTruncation())),
        ValueError,
        ("reach its end", "[0, 2]"),
    ),
    "truncation before the start": (
        lambda s: bound(s, sde=ReciprocalVE(eps=1e-3), times=TimeSampling(t_min=SoftTruncation(eps=1e-4))),
        ValueError,
        ("[0.001, 1]",),
    ),
    # the bound
    "no sde": (lambda s: bound(s, sde="vp"), TypeError, ("VP(), VE()", "str")),
    "form": (lambda s: bound(s, form="dsm"), ValueError, ("one of sliced, exact, denoising", "'dsm'")),
    "times": (lambda s: bound(s, times="uniform"), TypeError, ("TimeSampling(t_min=1e-3)", "str", "use t")),
    "a density of times": (lambda s: TimeSampling("log"), ValueError, ("one of importance, uniform", "'log'")),
    "a weight of times": (lambda s: TimeSampling(weight=2.0), TypeError, ("function of the times", "float")),
    "predicts": (lambda s: bound(s, predicts="x0"), ValueError, ("one of score, noise", "'x0'")),
    "noise from the start": (lambda s: bound(s, predicts="noise"), ValueError, ("infinite at t = 0", "t_min=1e-3")),
    "noise of an energy": (
        lambda s: bound(s, "energy", predicts="noise", kind="energy", times=TimeSampling(t_min=0.1)),
        ValueError,
        ("one output per coordinate",),
    ),
    "noise of a network with one output": (
        lambda s: bound(s, "energy", predicts="noise", times=TimeSampling(t_min=0.1)),
        ValueError,
        ("no score",),
    ),
    "t_min outside": (lambda s: bound(s, times=TimeSampling(t_min=1.0)), ValueError, ("[0, 1)", "got 1.0")),
    "t_min before the start": (
        lambda s: bound(s, sde=ReciprocalVE(), times=TimeSampling(t_min=0.0)),
        ValueError,
        ("[1e-05, 1)",),
    ),
    "t_min of text": (lambda s: TimeSampling(t_min="0"), TypeError, ("a number or a SoftTruncation", "str")),
    "lam of one": (lambda s: bound(s, lam=1.0), ValueError, ("0 <= lam < 1", "flow_log_prob")),
    "lam of text": (lambda s: bound(s, lam="0"), TypeError, ("lam must be a number", "str")),
    "t is a list": (lambda s: bound(s, t=[0.1] * B), TypeError, ("t must be a floating-point", "list")),
    "t of integers": (lambda s: bound(s, t=s.t.long()), TypeError, ("floating-point", "int64")),
    "t of too few": (lambda s: bound(s, t=s.t[1:]), ValueError, ("(5,)", "(4,)")),
    "noise of another shape": (lambda s: bound(s, noise=s.v), ValueError, ("device of x, (5, 3)", "(2, 5, 3)")),
    "v for denoising": (lambda s: bound(s, form="denoising", v=s.v), ValueError, ('form="sliced"', "leave them out")),
    "projections for the exact trace": (
        lambda s: bound(s, form="exact", n_projections=2),
        ValueError,
        ("leave them out",),
    ),
    "v of another shape": (lambda s: bound(s, v=s.v[:, 1:]), ValueError, ("[M, *x.shape]", "(2, 4, 3)")),
    "a generator for denoising": (
        lambda s: bound(s, form="denoising", generator=3),
        TypeError,
        ("torch.Generator", "int"),
    ),
    "a model that is told nothing": (lambda s: bound(s, "untold"), ValueError, ("takes 0", "got 1")),
    "too much conditioning": (lambda s: bound(s, cond=s.t), ValueError, ("takes 1", "got 2")),
    "x": (lambda s: bound(s, x=s.x.long()), TypeError, ("floating point", "int64")),
    "empty": (lambda s: bound(s, x=s.x[:0]), ValueError, ("no samples", 'reduction="sum"')),
    "reduction": (lambda s: bound(s, reduction="max"), ValueError, ("one of mean", "'max'")),
    "weight": (lambda s: bound(s, weight=s.t[1:]), ValueError, ("(5,)", "(4,)")),
    "time weight of another shape": (
        lambda s: bound(s, t=s.t, v=s.v, noise=s.x, times=TimeSampling(weight=lambda t: t[:, None])),
        ValueError,
        ("weight(t)", "(5,)", "(5, 1)"),
    ),
    "backend": (lambda s: bound(s, backend="tpu"), ValueError, ("one of reference", "'tpu'")),
    # the twins
    "twin without sde": (lambda s: diffusion.ElboLoss(s.score), TypeError, ("ElboLoss needs sde",)),
    "twin with times": (
        lambda s: diffusion.SlicedDiffusionLoss(s.score, sde=VP(), t=s.t),
        TypeError,
        ("got t", "arguments of its forward"),
    ),
    # sliced
    "sliced: sde": (lambda s: sliced(s, "ou"), TypeError, ("CustomSDE(f, g)", "str")),
    "sliced: weighting": (lambda s: sliced(s, weighting="snr"), ValueError, ("one of likelihood, variance", "'snr'")),
    "sliced: unknown variance": (
        lambda s: sliced(s, CUSTOM, weighting="variance"),
        ValueError,
        ("CustomSDE", "function of t"),
    ),
    "sliced: weighting of another shape": (
        lambda s: sliced(s, weighting=lambda t: t[:2], t=s.t, v=s.v),
        ValueError,
        ("weighting(t)", "(5,)", "(2,)"),
    ),
    "sliced: noise of too few steps": (lambda s: sliced(s, CUSTOM, noise=s.x), ValueError, ("(2, 5, 3)", "(5, 3)")),
    "sliced: noise of another shape": (
        lambda s: sliced(s, CUSTOM, noise=s.v[:, 1:]),
        ValueError,
        ("device of x, (5, 3)", "(4, 3)"),
    ),
    "sliced: projection": (lambda s: sliced(s, projection="normal"), ValueError, ("rademacher", "'normal'")),
    # evaluation
    "elbo: unit": (lambda s: evaluate(s, unit="bpd"), ValueError, ("one of nats, bits", "'bpd'")),
    "elbo: times": (lambda s: evaluate(s, n_times=0), ValueError, ("n_times", "at least 1")),
    "elbo: times of its own": (lambda s: evaluate(s, times=s.t), TypeError, ("TimeSampling", "Tensor")),
    "elbo: soft truncation": (
        lambda s: evaluate(s, times=TimeSampling(t_min=SoftTruncation())),
        ValueError,
        ("fixed t_min and no weight", "SoftTruncation"),
    ),
    "elbo: a weight": (lambda s: evaluate(s, times=TimeSampling(weight=torch.sin)), ValueError, ("no weight", "sin")),
    "elbo: x": (
        lambda s: diffusion.elbo(s.score, [1.0], sde=VP()),
        TypeError,
        ("torch.Tensor", "list"),
    ),
    "flow: trace": (
        lambda s: diffusion.flow_log_prob(s.score, s.x, sde=VP(), trace="hutchinson"),
        ValueError,
        ("one of exact, sliced", "'hutchinson'"),
    ),
    "flow: projections of the exact trace": (
        lambda s: diffusion.flow_log_prob(s.score, s.x, sde=VP(), n_projections=3),
        ValueError,
        ('trace="sliced"', "leave it out"),
    ),
    "flow: solver": (
        lambda s: diffusion.flow_log_prob(s.score, s.x, sde=VP(), solver="dopri5"),
        ValueError,
        ("one of heun, rk4, torchdiffeq", "'dopri5'"),
    ),
    "flow: options of a built-in solver": (
        lambda s: diffusion.probability_flow(s.score, s.x, sde=VP(), solver_options={"rtol": 1e-3}),
        ValueError,
        ("torchdiffeq", "rtol", "leave them out"),
    ),
    # samplers
    "sampler: steps": (lambda s: walk(s, steps=0), ValueError, ("steps", "at least 1")),
    "sampler: lam": (lambda s: walk(s, lam=1.5), ValueError, ("from 0 to 1", "1.5")),
    "sampler: generator": (lambda s: walk(s, generator=1), TypeError, ("torch.Generator", "int")),
    "sampler: t_min": (lambda s: walk(s, t_min=2.0), ValueError, ("[0, 1)", "2.0")),
    "sampler: noise of a custom drift": (
        lambda s: walk(s, CUSTOM, predicts="noise"),
        ValueError,
        ("CustomSDE", "predict"),
    ),
    "sampler: sde": (lambda s: walk(s, "vp"), TypeError, ("VP(), VE()", "str")),
    "corrector: ratio": (
        lambda s: diffusion.predictor_corrector(s.score, s.x, sde=VP(), ratio=0.0),
        ValueError,
        ("ratio", "positive", "0.0"),
    ),
    "corrector: corrections": (
        lambda s: diffusion.predictor_corrector(s.score, s.x, sde=VP(), corrections=0),
        ValueError,
        ("corrections", "at least 1"),
    ),
    "unsupported": (
        lambda s: diffusion.elbo_loss(nn.Sequential(nn.LayerNorm(D)), s.x, sde=VP(), backend="torch", kind="score"),
        fastssm.UnsupportedError,
        ("its forward raised TypeError", 'backend="auto"'),
    ),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    late = "a diffusion of another shape"  # found out on the way, after the noise of the first step
    assert_all_refused(s, ROWS, draws=lambda name: name == late)
