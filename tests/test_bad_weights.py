"""Bad input to the losses with weights, metrics and levels: the documented error, and nothing touched."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastssm
from fastssm.domains import Ball, Box, Positive, Simplex, Weight
from tests.refusals import assert_all_refused

B, D = 5, 3
LEVELS = fastssm.GeometricTempering(0.1, 10.0)


@pytest.fixture
def s():
    torch.manual_seed(0)
    return SimpleNamespace(
        net=nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 1)),
        joint=nn.Sequential(nn.Linear(D + 1, 8), nn.Softplus(), nn.Linear(8, 1)),
        x=torch.rand(B, D),
        v=torch.randn(2, B, D),
        beta=torch.rand(B),
    )


def domain(s, x=None, **options):
    return fastssm.domain_loss(s.net, s.x if x is None else x, **{"domain": Positive()} | options)


def preconditioned(s, precond, x=None, **options):
    return fastssm.preconditioned_loss(s.net, s.x if x is None else x, precond=precond, **options)


def manifold(s, x=None, **options):
    rows = nn.functional.normalize(s.x, dim=1) if x is None else x
    return fastssm.manifold_loss(s.net, rows, **{"manifold": "sphere"} | options)


def missing(s, x=None, **options):
    return fastssm.missing_loss(s.net, s.x if x is None else x, **options)


def fill(x, count, generator):
    return x.expand(count, *x.shape), x.new_zeros(count, len(x))


def tempered(s, x=None, **options):
    return fastssm.tempered_loss(s.joint, s.x if x is None else x, **{"tempering": LEVELS} | options)


def moved(s, row, value):
    x = s.x.clone()
    x[row, 1] = value
    return x


learnt = torch.ones(D, requires_grad=True)

# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    "domain: rows outside": (
        lambda s: domain(s, moved(s, slice(2, 4), -0.1)),
        ValueError,
        ("must lie in the domain Positive", "2 of 5 row(s)", "first in row 2", "drop those rows"),
    ),
    "domain: NaN": (lambda s: domain(s, moved(s, 4, torch.nan)), ValueError, ("1 of 5", "row 4")),
    "domain: compositions with every part": (
        lambda s: domain(s, 1.0001 * s.x / s.x.sum(1, keepdim=True), domain=Simplex()),
        ValueError,
        ("Simplex", "5 of 5", "x[:, :-1]"),
    ),
    "domain: x requires grad": (
        lambda s: domain(s, s.x.clone().requires_grad_()),
        ValueError,
        ("must not require grad", "held constant", "x.detach()"),
    ),
    "domain: a name": (lambda s: domain(s, domain="positive"), TypeError, ("Positive()", "str")),
    "domain: a class": (lambda s: domain(s, domain=Positive), TypeError, ("Positive()", "ABCMeta")),
    "domain: another width": (
        lambda s: domain(s, domain=Box(torch.zeros(2), 1.0)),
        ValueError,
        ("2 coordinate(s)", "x has 3", "one bound per coordinate"),
    ),
    "domain: h is a name": (lambda s: domain(s, h="tanh"), TypeError, ("(h, h')", 'Weight("tanh")', "'tanh'")),
    "domain: an unknown weighting": (
        lambda s: domain(s, weighting="section"),
        ValueError,
        ("one of coordinate, distance", "'section'"),
    ),
    "domain: unbounded h without a boundary": (
        lambda s: domain(s, domain=Box(torch.tensor([0.0, 0.0, -torch.inf]), torch.inf), h=Weight("power", 2.0)),
        ValueError,
        ("h and h' must be finite", "5 of 5", "cap"),
    ),
    "domain: a vertical start": (
        lambda s: domain(s, moved(s, 1, 0.0), h=Weight("power", 0.5)),
        ValueError,
        ("must be finite", "1 of 5", "row 1", "finite slope"),
    ),
    "domain: exact with directions": (
        lambda s: domain(s, exact=True, v=s.v),
        ValueError,
        ("exact=True", "leave out v"),
    ),
    "domain: exact with a number of directions": (
        lambda s: domain(s, exact=True, n_projections=2),
        ValueError,
        ("exact=True", "n_projections"),
    ),
    "domain: a module's option": (
        lambda s: fastssm.DomainLoss(s.net, domain=Ball(1.0), weights=None),
        TypeError,
        ("DomainLoss takes domain, h", "weights"),
    ),
    "manifold: unknown": (lambda s: manifold(s, manifold="plane"), ValueError, ("one of sphere, torus", "'plane'")),
    "manifold: missing": (lambda s: fastssm.manifold_loss(s.net, s.x), TypeError, ("missing", "'manifold'")),
    "manifold: off the sphere": (
        lambda s: manifold(s, x=2 * s.x),
        ValueError,
        ("x must lie on the unit sphere", "first in row 0", "normalize"),
    ),
    "manifold: one coordinate": (
        lambda s: fastssm.manifold_loss(torch.neg, torch.ones(2, 1), manifold="sphere", kind="score"),
        ValueError,
        ("two coordinates", "got x with one"),
    ),
    "manifold: gradient in x": (
        lambda s: manifold(s, x=nn.functional.normalize(s.x, dim=1).requires_grad_()),
        ValueError,
        ("must not require grad", "x.detach()"),
    ),
    "manifold: exact and directions": (
        lambda s: manifold(s, v=s.v, exact=True),
        ValueError,
        ("exact=True", "leave out v"),
    ),
    "manifold: not periodic": (
        lambda s: manifold(s, x=s.x, manifold="torus"),
        ValueError,
        ("must be periodic", "angle", "6.28319", "fastssm.nn.Periodic"),
    ),
    "manifold: period of text": (
        lambda s: manifold(s, manifold="torus", period="day"),
        TypeError,
        ("period must be a number", "str"),
    ),
    "manifold: period of zero": (lambda s: manifold(s, period=0), ValueError, ("positive and finite", "got 0")),
    "periodic layer: period": (lambda s: fastssm.nn.Periodic(-1.0), ValueError, ("positive and finite", "-1.0")),
    "periodic layer: harmonics": (lambda s: fastssm.nn.Periodic(harmonics=0), ValueError, ("positive", "harmonics=0")),
    "missing: no function": (lambda s: missing(s, proposal=0.5), TypeError, ("GaussianProposal.fit", "float")),
    "missing: imputations of nothing": (
        lambda s: missing(s, n_imputations=4),
        ValueError,
        ("n_imputations=4", "needs a proposal"),
    ),
    "missing: zero imputations": (lambda s: missing(s, proposal=fill, n_imputations=0), ValueError, ("at least 1",)),
    "missing: a proposal of another shape": (
        lambda s: missing(s, proposal=lambda x, k, g: (x, x)),
        ValueError,
        ("the proposal must return rows", "[16, 5, 3]", "[5, 3]"),
    ),
    "missing: a model that takes no mask": (lambda s: missing(s), ValueError, ("takes 0", "got 1")),
    "missing: a score of whole rows": (
        lambda s: fastssm.missing_loss(nn.Identity(), s.x, proposal=fill),
        ValueError,
        ("an energy returns [B]", "no energy"),
    ),
    "missing: gradient in x": (
        lambda s: missing(s, x=s.x.clone().requires_grad_()),
        ValueError,
        ("must not require grad",),
    ),
    "missing: exact and directions": (lambda s: missing(s, v=s.v, exact=True), ValueError, ("exact=True",)),
    "proposal: numbers": (lambda s: fastssm.GaussianProposal(0.0, 1.0), TypeError, ("torch.Tensors", "fit")),
    "proposal: shapes": (
        lambda s: fastssm.GaussianProposal(torch.zeros(3), torch.ones(3)),
        ValueError,
        ("covariance [D, D]", "[3] and [3]"),
    ),
    "proposal: not positive": (
        lambda s: fastssm.GaussianProposal(torch.zeros(2), -torch.eye(2)),
        ValueError,
        ("symmetric and positive", "diagonal"),
    ),
    "proposal: width": (
        lambda s: fastssm.GaussianProposal(torch.zeros(2), torch.eye(2), widen=0.0),
        ValueError,
        ("widen must be positive", "0.0"),
    ),
    "proposal: a constant column": (
        lambda s: fastssm.GaussianProposal.fit(torch.tensor([[1.0, 2.0], [torch.nan, 3.0]])),
        ValueError,
        ("column 0", "two different"),
    ),
    "preconditioned: a list": (lambda s: preconditioned(s, [1.0] * D), TypeError, ("[D, D]", "list", "as_tensor")),
    "preconditioned: another width": (
        lambda s: preconditioned(s, torch.ones(2)),
        ValueError,
        ("precond must have shape [3] or [3, 3]", "[2]"),
    ),
    "preconditioned: a function of another shape": (
        lambda s: preconditioned(s, lambda x: x.sum(1)),
        ValueError,
        ("[5, 3] or [5, 3, 3]", "[5]"),
    ),
    "preconditioned: a function of numbers": (
        lambda s: preconditioned(s, lambda x: 1.0),
        TypeError,
        ("precond must return a torch.Tensor", "float"),
    ),
    "preconditioned: learnt": (
        lambda s: preconditioned(s, learnt),
        ValueError,
        ("precond must not require grad", "held constant", "detach"),
    ),
    "preconditioned: a learnt function": (
        lambda s: preconditioned(s, lambda x: x * learnt),
        ValueError,
        ("precond must not require grad",),
    ),
    "preconditioned: x requires grad": (
        lambda s: preconditioned(s, lambda x: x, s.x.clone().requires_grad_()),
        ValueError,
        ("must not require grad", "x.detach()"),
    ),
    "preconditioned: negative": (
        lambda s: preconditioned(s, torch.tensor([1.0, -1.0, 1.0])),
        ValueError,
        ("must not be negative", "variances"),
    ),
    "preconditioned: negative somewhere": (
        lambda s: preconditioned(s, lambda x: x, moved(s, 3, -1.0)),
        ValueError,
        ("must not be negative", "1 of 5", "row 3"),
    ),
    "preconditioned: not symmetric": (
        lambda s: preconditioned(s, torch.eye(D) + torch.ones(D, D).triu(1)),
        ValueError,
        ("symmetric and positive definite", "(D + D.mT) / 2"),
    ),
    "preconditioned: not positive": (
        lambda s: preconditioned(s, torch.ones(D, D)),
        ValueError,
        ("symmetric and positive definite", "multiple of the identity"),
    ),
    "preconditioned: a divergence of another shape": (
        lambda s: preconditioned(s, lambda x: 1 + x, divergence=torch.zeros(2)),
        ValueError,
        ("divergence must have shape [5, 3] or [3]", "[2]"),
    ),
    "tempered: no levels": (lambda s: tempered(s, tempering=10.0), TypeError, ("GeometricTempering", "float")),
    "tempered: a network without a level": (
        lambda s: fastssm.tempered_loss(s.net, s.x, tempering=LEVELS),
        ValueError,
        ("takes 3 value(s)", "(5, 4)"),
    ),
    "tempered: beta is a number": (lambda s: tempered(s, beta=0.5), TypeError, ("beta", "dtype of x", "float")),
    "tempered: beta of another dtype": (
        lambda s: tempered(s, beta=s.beta.double()),
        TypeError,
        ("beta", "float32", "float64", ".to(x)"),
    ),
    "tempered: beta has columns": (lambda s: tempered(s, beta=s.beta[:, None]), ValueError, ("[5]", "[5, 1]")),
    "tempered: beta is out of range": (
        lambda s: tempered(s, beta=s.beta - 0.5),
        ValueError,
        ("beta must be in [0, 4.6", "tempering.sample"),
    ),
    "tempered: noise of another shape": (lambda s: tempered(s, noise=s.x[:, 1:]), ValueError, ("[5, 3]", "[5, 2]")),
    "tempered: noise on another device": (
        lambda s: tempered(s, noise=s.x.to("meta")),
        ValueError,
        ("noise", "on cpu", "on meta"),
    ),
    "tempered: x": (lambda s: tempered(s, s.x.long()), TypeError, ("floating point", "int64")),
    "tempered: empty": (lambda s: tempered(s, s.x[:0]), ValueError, ("no samples", 'reduction="sum"')),
    "tempered: v": (lambda s: tempered(s, v=s.v[:, 1:]), ValueError, ("[M, *x.shape]",)),
    "levels: none": (lambda s: fastssm.GeometricTempering(0.0, 1.0), ValueError, ("positive and finite", "0.0")),
    "levels: a radius": (lambda s: fastssm.ContinuousTempering(1.0, -1.0), ValueError, ("positive", "-1.0")),
    "levels: too small a radius": (
        lambda s: fastssm.ContinuousTempering(1.0, 0.2),
        ValueError,
        ("last level", "positive and finite"),
    ),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    assert_all_refused(s, ROWS)
