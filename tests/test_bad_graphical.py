"""Bad input to graphical models: the documented error, and nothing touched."""

import math
from types import SimpleNamespace

import pytest
import torch

from fastssm import graphical
from fastssm.domains import Positive, Simplex, Weight
from fastssm.graphical import Interaction
from tests.refusals import assert_all_refused


@pytest.fixture
def s():
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(x=x, parts=x / (x.sum(1, keepdim=True) + 0.1))


def found(s, x=None, family="gaussian", **options):
    return graphical.quadratic(s.x if x is None else x, family, **options)


def moved(s, value):
    x = s.x.clone()
    x[7, 1] = value
    return x


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    "a list": (lambda s: found(s, s.x.tolist()), TypeError, ("torch.Tensor", "list", "as_tensor")),
    "integers": (lambda s: found(s, s.x.long()), TypeError, ("floating point", "int64")),
    "images": (lambda s: found(s, s.x[:, None]), ValueError, ("[n, D]", "(30, 1, 3)")),
    "no rows": (lambda s: found(s, s.x[:0]), ValueError, ("at least one row", "(0, 3)")),
    "family": (lambda s: found(s, family="gauss"), ValueError, ("family", "dirichlet", "'gauss'")),
    "family of a type": (lambda s: found(s, family=1.0), TypeError, ("an Interaction or a name", "float")),
    "exponents": (lambda s: Interaction(-1.0, 1.0), ValueError, ("at least 0", "a=-1.0")),
    "no part": (lambda s: Interaction(1.0, 1.0, False, False), ValueError, ("pairs=True, linear=True", "neither")),
    "domain": (lambda s: found(s, domain="positive"), TypeError, ("fastssm.domains", "str")),
    "weighting": (lambda s: found(s, weighting="both"), ValueError, ("coordinate, distance", "'both'")),
    "h": (lambda s: found(s, h=2.0), TypeError, ("h must be a function", "2.0")),
    "unbounded h": (lambda s: found(s, h=Weight("power")), ValueError, ("h and h' must be finite", "with a cap")),
    "outside": (lambda s: found(s, moved(s, -0.5), domain=Positive()), ValueError, ("1 of 30", "row 7", "drop")),
    "NaN": (lambda s: found(s, moved(s, math.nan)), ValueError, ("must lie in the domain", "row 7")),
    "infinite": (lambda s: found(s, moved(s, math.inf)), ValueError, ("row 7",)),
    "on the boundary": (
        lambda s: found(s, moved(s, 0.0), "exponential_square_root", domain=Positive()),
        ValueError,
        ("finite derivatives", "1 of 30", "row 7", "a=0.5 and b=0.5", "move rows on the boundary inside"),
    ),
    "negative": (lambda s: found(s, moved(s, -1.0), "gamma"), ValueError, ("row 7", "undefined where it is negative")),
    "compositions elsewhere": (
        lambda s: found(s, s.parts, "dirichlet", domain=Positive()),
        ValueError,
        ("compositions on Simplex()", "Positive()", "x[:, :-1]"),
    ),
    "support": (lambda s: found(s).solve(torch.ones(9)), ValueError, ("bool", "(9,)", "float32")),
    "singular": (lambda s: found(s, s.x[:3]).solve(), ValueError, ("3 row(s)", "singular", "multiplier")),
    "path of data": (lambda s: graphical.path(s.x), TypeError, ("fastssm.graphical.quadratic", "Tensor")),
    "path without pairs": (
        lambda s: graphical.path(found(s, s.parts, "dirichlet", domain=Simplex())),
        ValueError,
        ("must have interactions", "solve()"),
    ),
    "path singular": (lambda s: graphical.path(found(s, s.x[:3])), ValueError, ("3 row(s)", "diagonal=")),
    "penalties": (lambda s: graphical.path(found(s), penalties=[0.1, 0.0]), ValueError, ("positive", "[0.1, 0.0]")),
    "no penalties": (lambda s: graphical.path(found(s), penalties=[]), ValueError, ("positive", "[]")),
    "count": (lambda s: graphical.path(found(s), count=0), ValueError, ("count", "at least 1")),
    "smallest": (lambda s: graphical.path(found(s), smallest=1.0), ValueError, ("smallest in (0, 1)", "1.0")),
    "diagonal": (lambda s: graphical.path(found(s), diagonal=0.5), ValueError, ("diagonal must be at least 1", "0.5")),
    "criterion": (lambda s: graphical.path(found(s)).ebic(-1.0), ValueError, ("at least 0", "-1.0")),
    "multiplier": (lambda s: graphical.multiplier(0, 3), ValueError, ("rows", "at least 1")),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    assert_all_refused(s, ROWS)
