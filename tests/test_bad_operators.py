"""Bad input of the differential operators, of the composite loss and of what comes with it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastssm
from fastssm.nn import MLP, MADEContext
from tests.refusals import assert_all_refused

B, D = 5, 3


@pytest.fixture
def s():
    torch.manual_seed(0)
    found = SimpleNamespace(
        family=fastssm.nn.KernelExpFamily(torch.ones(4, D)),
        net=nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 1)),
        field=nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D)),
        dropout=nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 1)),
        layer_norm=nn.Sequential(nn.Linear(D, 8), nn.LayerNorm(8), nn.Linear(8, D)),
        mlp=MLP(D, [8], cond_dim=2),
        scalar=nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
        context=MADEContext(D, 2, [8]),
        head=MLP(1, [8], cond_dim=2),
        bounds=torch.tensor([[-9.0] * D, [9.0] * D]),
        x=torch.randn(B, D),
        v=torch.randn(2, B, D),
        weight=torch.rand(B),
    )
    for model in (m for m in vars(found).values() if isinstance(m, nn.Module)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    return found


def composite(s, x=None, **options):
    return fastssm.composite_loss(s.context, s.head, s.x if x is None else x, **options)


def wrapped(s, name):
    return type(name, (nn.Module,), {"forward": lambda self, x: s.net(x)})()  # told apart by its name alone


# id: (call, error, phrases of the message: the requirement, what came, what to do)
ROWS = {
    "divergence: exact along v": (
        lambda s: fastssm.divergence(s.field, s.x, exact=True, v=s.v),
        ValueError,
        ("every coordinate", "got v too", "exact=False"),
    ),
    "divergence: exact is a word": (
        lambda s: fastssm.divergence(s.field, s.x, exact="hutchinson"),
        ValueError,
        ("exact must be one of None, True, False", "'hutchinson'"),
    ),
    "divergence: of an energy": (
        lambda s: fastssm.divergence(s.net, s.x),
        ValueError,
        ("divergence is of a vector field", "one value per coordinate", "(5, 1)", "laplacian"),
    ),
    "divergence: v": (
        lambda s: fastssm.divergence(s.field, s.x, v=s.v[:, 1:]),
        ValueError,
        ("[M, *x.shape]", "(2, 4, 3)"),
    ),
    "divergence: projection": (
        lambda s: fastssm.divergence(s.field, s.x, exact=True, projection="normal"),
        ValueError,
        ("one of rademacher", "'normal'"),
    ),
    "divergence: backend": (
        lambda s: fastssm.divergence(s.dropout, s.x, backend="torch"),
        fastssm.UnsupportedError,
        ("Dropout",),
    ),
    "jacobian_diag: x": (
        lambda s: fastssm.jacobian_diag(s.net, s.x.long()),
        TypeError,
        ("floating point", "int64", "x.float()"),
    ),
    "jacobian_diag: one value or one coordinate": (
        lambda s: fastssm.jacobian_diag(s.scalar, s.x[:, :1]),
        ValueError,
        ("ambiguous", 'kind="energy"'),
    ),
    "laplacian: exact along some": (
        lambda s: fastssm.laplacian(s.net, s.x, exact=True, n_projections=2),
        ValueError,
        ("every coordinate", "n_projections=2", "exact=False"),
    ),
    "laplacian: of a field": (
        lambda s: fastssm.laplacian(s.field, s.x),
        ValueError,
        ("laplacian is of one scalar function", "[B] or [B, 1]", "(5, 3)", "select one output, component=0 to 2"),
    ),
    "laplacian: of a field that no engine runs": (
        lambda s: fastssm.laplacian(s.layer_norm, s.x),
        ValueError,
        ("laplacian is of one scalar function", "(5, 3)", "component=0 to 2", "basis_terms"),
    ),
    "laplacian: no value per sample": (
        lambda s: fastssm.laplacian(lambda x: x[:, :, None], s.x),
        ValueError,
        ("(5, 3, 1)", "one value for each sample"),
    ),
    "laplacian: component": (
        lambda s: fastssm.laplacian(s.field, s.x, component=3),
        ValueError,
        ("component=3", "from 0 to 2", "(5, 3)"),
    ),
    "laplacian: component of a field that no engine runs": (
        lambda s: fastssm.laplacian(s.layer_norm, s.x, component=-1),
        ValueError,
        ("component=-1", "from 0 to 2", "(5, 3)"),
    ),
    "laplacian: component by name": (
        lambda s: fastssm.laplacian(s.field, s.x, component="u"),
        TypeError,
        ("component", "integer", "str"),
    ),
    "laplacian: component of one value": (
        lambda s: fastssm.laplacian(lambda x: x.sum(1), s.x, component=0),
        ValueError,
        ("component=0", "[B, F]", "(5,)", "leave component out"),
    ),
    "explain: the Laplacian of a field": (
        lambda s: fastssm.explain(s.field, s.x, what="laplacian"),
        ValueError,
        ("laplacian is of one scalar function", "component=0 to 2"),
    ),
    "hvp_form: of a field": (
        lambda s: fastssm.hvp_form(s.field, s.x, s.v),
        ValueError,
        ("hvp_form is of one scalar function", "(5, 3)", "component=0 to 2"),
    ),
    "basis_terms: no function": (lambda s: fastssm.basis_terms(3, s.x, s.x), TypeError, ("model must be", "int")),
    "basis_terms: the class": (
        lambda s: fastssm.basis_terms(nn.Tanh, s.x, s.x),
        TypeError,
        ("the type Tanh itself", "instance"),
    ),
    "basis_terms: v": (
        lambda s: fastssm.basis_terms(s.net, s.x, s.v[:, 1:]),
        ValueError,
        ("[M, *x.shape]", "(2, 4, 3)"),
    ),
    "basis_terms: x": (lambda s: fastssm.basis_terms(s.net, s.x.long(), s.v), TypeError, ("floating point", "int64")),
    "basis_terms: v requires grad": (
        lambda s: fastssm.basis_terms(s.net, s.x, s.v.clone().requires_grad_()),
        ValueError,
        ("must not require grad",),
    ),
    "basis_terms: no rows": (
        lambda s: fastssm.basis_terms(lambda x: x.mean(0), s.x, s.v),
        ValueError,
        ("[B, F]", "5 samples", "(3,)", "flatten"),
    ),
    "basis_terms: no rule": (
        lambda s: fastssm.basis_terms(torch.special.bessel_j0, s.x, s.v),
        fastssm.UnsupportedError,
        ("no rule", "bessel_j0", "docs/your_network.md"),
    ),
    "basis_terms: constant": (
        lambda s: fastssm.basis_terms(lambda x: x.detach(), s.x, s.v),
        fastssm.UnsupportedError,
        ("does not depend on x",),
    ),
    "basis_coefficients: no samples": (
        lambda s: fastssm.basis_coefficients(s.net, s.x[:0], s.v[:, :0]),
        ValueError,
        ("at least one sample", "(0, 3)"),
    ),
    "basis_coefficients: ridge": (
        lambda s: fastssm.basis_coefficients(s.net, s.x, s.v, ridge=0.0),
        ValueError,
        ("positive and finite", "0.0", "1e-3"),
    ),
    "basis_coefficients: ridge of text": (
        lambda s: fastssm.basis_coefficients(s.net, s.x, s.v, ridge="small"),
        TypeError,
        ("ridge must be", "str"),
    ),
    "basis_coefficients: ridges": (
        lambda s: fastssm.basis_coefficients(s.net, s.x, s.v, ridge=torch.ones(2)),
        ValueError,
        ("one positive value", "(2,)"),
    ),
    "basis_coefficients: target": (
        lambda s: fastssm.basis_coefficients(s.net, s.x, s.v, target=torch.ones(5)),
        ValueError,
        ("(2, 5)", "(5,)", "each direction"),
    ),
    "basis_coefficients: target of text": (
        lambda s: fastssm.basis_coefficients(s.net, s.x, s.v, target="x"),
        TypeError,
        ("target must be", "str"),
    ),
    "kernel family: inducing of text": (
        lambda s: fastssm.nn.KernelExpFamily("rows"),
        TypeError,
        ("inducing must be a torch.Tensor", "str"),
    ),
    "kernel family: integers": (
        lambda s: fastssm.nn.KernelExpFamily(torch.arange(6).reshape(3, 2)),
        TypeError,
        ("floating point", "int64", ".float()"),
    ),
    "kernel family: one axis": (
        lambda s: fastssm.nn.KernelExpFamily(torch.ones(3)),
        ValueError,
        ("[F, D]", "(3,)", "rows of the data"),
    ),
    "kernel family: NaN": (
        lambda s: fastssm.nn.KernelExpFamily(torch.full((3, 2), torch.nan)),
        ValueError,
        ("must be finite", "drop"),
    ),
    "kernel family: no kernel": (
        lambda s: fastssm.nn.KernelExpFamily(torch.ones(3, 2), components=0),
        ValueError,
        ("positive", "components=0"),
    ),
    "kernel family: alpha": (
        lambda s: s.family(s.x, torch.ones(4)),
        ValueError,
        ("[1, 4]", "(4,)", "alpha[None]"),
    ),
    "hvp_form: no v": (
        lambda s: fastssm.hvp_form(s.net, s.x, None),
        TypeError,
        ("v must be a torch.Tensor", "NoneType"),
    ),
    "hvp_form: v": (
        lambda s: fastssm.hvp_form(s.net, s.x, s.v[0, 0]),
        ValueError,
        ("[M, *x.shape]", "(3,)"),
    ),
    "composite: x": (lambda s: composite(s, x=s.x.long()), TypeError, ("floating point", "int64")),
    "composite: x is too wide": (lambda s: composite(s, x=torch.zeros(B, 2)), ValueError, ("takes 3", "(5, 2)")),
    "composite: no context net": (
        lambda s: fastssm.composite_loss(s.net, s.head, s.x),
        ValueError,
        ("[B, D, C] = (5, 3, C)", "(5, 1)", "MADEContext"),
    ),
    "composite: context is a function": (
        lambda s: fastssm.composite_loss(torch.sin, s.head, s.x),
        ValueError,
        ("[B, D, C] = (5, 3, C)", "(5, 3)"),
    ),
    "composite: a head without context": (
        lambda s: fastssm.composite_loss(s.context, s.scalar, s.x),
        ValueError,
        ("takes 0", "got 1"),
    ),
    "composite: a head of all coordinates": (
        lambda s: fastssm.composite_loss(s.context, s.mlp, s.x),
        ValueError,
        ("takes 3", "(15, 1)"),
    ),
    "composite: kind": (lambda s: composite(s, kind="auto"), ValueError, ("one of energy, score", "'auto'")),
    "composite: no noise": (lambda s: composite(s, sigma=0.0), ValueError, ("positive", "got 0.0")),
    "composite: noise by name": (lambda s: composite(s, sigma="0.1"), TypeError, ("positive number", "str")),
    "composite: noise alone": (lambda s: composite(s, noise=s.x), ValueError, ("pass sigma too",)),
    "composite: other noise": (lambda s: composite(s, sigma=0.1, noise=s.x[1:]), ValueError, ("(4, 3)",)),
    "composite: a weight": (lambda s: composite(s, weight=s.weight[1:]), ValueError, ("(5,)", "(4,)")),
    "composite: empty": (lambda s: composite(s, x=s.x[:0]), ValueError, ("no samples", 'reduction="sum"')),
    "composite: an option of the module": (
        lambda s: fastssm.CompositeLoss(s.context, s.head, n_projections=2),
        TypeError,
        ("sigma", "n_projections"),
    ),
    "composite: a wrapped context net": (
        lambda s: fastssm.CompositeLoss(wrapped(s, "DistributedDataParallel"), s.head),
        ValueError,
        ("never be averaged",),
    ),
    "composite density: bounds": (
        lambda s: fastssm.composite_log_prob(s.context, s.head, s.x, s.bounds[:, 1:]),
        ValueError,
        ("(2, 3)", "(2, 2)"),
    ),
    "composite density: bounds as a list": (
        lambda s: fastssm.composite_log_prob(s.context, s.head, s.x, [[-9.0] * 3, [9.0] * 3]),
        TypeError,
        ("[2, D]", "list", "torch.stack"),
    ),
    "composite density: outside": (
        lambda s: fastssm.composite_log_prob(s.context, s.head, s.x + 100, s.bounds),
        ValueError,
        ("between the bounds", "5 of 5", "widen"),
    ),
    "composite samples: bounds in disorder": (
        lambda s: fastssm.composite_sample(s.context, s.head, 4, -s.bounds),
        ValueError,
        ("lower bounds must be below upper bounds",),
    ),
    "composite samples: one point": (
        lambda s: fastssm.composite_sample(s.context, s.head, 4, s.bounds, points=1),
        ValueError,
        ("at least 2", "got 1"),
    ),
    "composite samples: none": (
        lambda s: fastssm.composite_sample(s.context, s.head, 0, s.bounds),
        ValueError,
        ("at least 1", "got 0"),
    ),
}


def test_each_bad_input_raises_and_touches_nothing(s):
    assert_all_refused(s, ROWS)
