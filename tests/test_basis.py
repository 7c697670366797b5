"""Bases of functions, their closed-form coefficients and deep kernels, against plain autograd in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import fastssm
from fastssm.nn import KernelExpFamily
from tests import oracle

B, D, F, K = 6, 3, 4, 2


def one_by_one(functions, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, slopes and curvatures of each function along each direction, by two derivatives of each."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    value = functions(x)
    slopes, curvatures = [], []
    for column in value.unbind(1):
        g = torch.autograd.grad(column.sum(), x, create_graph=True)[0]
        along = torch.stack([(g * u).flatten(1).sum(1) for u in v])
        options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        twice = [torch.autograd.grad(a.sum(), x, **options)[0] for a in along]
        slopes.append(along)
        curvatures.append(torch.stack([(t * u).flatten(1).sum(1) for t, u in zip(twice, v, strict=True)]))
    return value, torch.stack(slopes, 2), torch.stack(curvatures, 2)


def uneven(tensors) -> Tensor:
    return sum((t.sin() * torch.linspace(1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in tensors)


def family_of(seed: int = 0) -> KernelExpFamily:
    torch.manual_seed(seed)
    family = KernelExpFamily(torch.randn(F, D).double(), components=2, widths=(5,), out_features=3)
    for parameter in (family.alpha, family.base_mean, family.base_log_scale):
        parameter.data = 0.3 * torch.randn_like(parameter)
    return family


def written_out(family: KernelExpFamily, x: Tensor) -> Tensor:
    """Return the kernel of each point with each inducing point, pair by pair."""
    rows = []
    for point in x:
        row = []
        for z in family.inducing:
            total = 0.0
            for r in range(2):
                hidden, readout, direct = (
                    family.networks[r].hidden[0],
                    family.networks[r].readout,
                    family.maps[r],
                )
                a, b = (
                    readout.weight @ torch.log1p((hidden.weight @ y + hidden.bias).exp())
                    + readout.bias
                    + direct.weight @ y
                    for y in (point, z)
                )
                length = family.log_lengths[r].exp()
                total = total + family.log_weights[r].exp() * (-((a - b) ** 2).sum() / (2 * length**2)).exp()
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def agree(found, expected, leaves) -> None:
    oracle.assert_close(found, expected, 1e-9, "values")
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    oracle.assert_close(
        torch.autograd.grad(uneven(found), leaves, **options),
        torch.autograd.grad(uneven(expected), leaves, **options),
        1e-8,
        "gradients",
    )


def test_terms_of_a_basis_and_every_gradient() -> None:
    torch.manual_seed(1)
    family = family_of()
    picture = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, F)).double()
    linear = nn.Linear(D, F).double()
    for module, functions, plain, shape in (
        (family, family.features, lambda x: written_out(family, x), (D,)),
        (picture, picture, picture, (1, 3, 3)),
        (linear, linear, linear, (D,)),  # without curvature
    ):
        x = torch.randn(B, *shape).double().requires_grad_()
        v = torch.randn(K, B, *shape).double()
        leaves = [x, *module.parameters()]
        found = fastssm.basis_terms(functions, x, v)
        agree(found, one_by_one(plain, x, v), leaves)
        one = fastssm.basis_terms(functions, x, v[1])
        oracle.assert_close(one[1:], [t[1] for t in found[1:]], 1e-12, "one direction")
        with torch.no_grad():
            oracle.assert_close(fastssm.basis_terms(functions, x, v), found, 1e-12, "without gradients")
    x = torch.randn(B, D).double()
    v, x[0, 1] = torch.ones_like(x), torch.nan
    for t in fastssm.basis_terms(family.features, x, v):
        assert t[0].isnan().all()
        assert t[1:].isfinite().all()


def test_coefficients_minimise_the_losses_and_carry_every_gradient() -> None:
    """The quadratic in alpha by autograd of the loss written out; its minimum by a dense solve of its own."""
    family, ridge = family_of(), torch.tensor(0.1).double().requires_grad_()
    x = torch.randn(B, D).double()
    v = torch.randn(K, B, D).double()
    target = torch.randn(K, B).double()
    leaves = [p for name, p in family.named_parameters() if name != "alpha"]

    def expected(v: Tensor, t: Tensor | None, size: Tensor | float, base: bool) -> Tensor:
        _, g, h = one_by_one(lambda x: written_out(family, x), x, v)

        def log_q(x: Tensor) -> Tensor:
            return torch.distributions.Normal(family.base_mean, family.base_log_scale.exp()).log_prob(x).sum(1)[:, None]

        _, r, _ = one_by_one(log_q, x, v) if base else (None, torch.zeros(len(v), B, 1).double(), None)

        def loss(alpha: Tensor) -> Tensor:
            s = g @ alpha + r[:, :, 0]
            fit = (h @ alpha + s**2 / 2) if t is None else (s - t) ** 2 / 2
            return fit.mean() + size * (alpha**2).sum() / 2

        zero = torch.zeros(F).double()
        slope = torch.func.grad(loss)(zero)
        return -torch.linalg.inv(torch.func.hessian(loss)(zero)) @ slope

    basis = math.sqrt(D) * torch.eye(D).double()[:, None].expand(D, B, D)
    for along, t, base in ((v, None, True), (v, target, True), (basis, None, True), (v, None, False)):
        log_base = family.log_base if base else None
        found = fastssm.basis_coefficients(family.features, x, along, base=log_base, target=t, ridge=ridge)
        agree([found], [expected(along, t, ridge, base)], [*leaves, ridge])
    one = fastssm.basis_coefficients(family.features, x, v[0], target=target[0], ridge=0.1, base=family.log_base)
    oracle.assert_close([one], [expected(v[:1], target[:1], 0.1, True)], 1e-9, "one direction")

    alpha = fastssm.basis_coefficients(family.features, x, basis, base=family.log_base, ridge=1e-9)
    for loss, options in ((fastssm.exact_loss, {}), (fastssm.sliced_loss, {"v": basis, "variance_reduced": False})):
        given = alpha.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(family, x, cond=given[None], **options), given)
        assert slope.norm() < 1e-6, loss


def test_the_family_is_the_density_that_it_says_and_losses_go_through_its_coefficients() -> None:
    family, x = family_of(), torch.randn(B, D).double()
    normal = torch.distributions.Normal(family.base_mean, family.base_log_scale.exp())
    log_q = normal.log_prob(x).sum(1)
    agree([family(x)], [-written_out(family, x) @ family.alpha - log_q], list(family.parameters()))
    v = torch.randn(1, B, D).double()

    def through(loss_of) -> list[Tensor]:
        alpha = fastssm.basis_coefficients(family.features, x, v, base=family.log_base, ridge=0.1)
        return list(
            torch.autograd.grad(loss_of(alpha), list(family.parameters()), allow_unused=True, materialize_grads=True)
        )

    def plain(alpha: Tensor) -> Tensor:
        energy = type("Energy", (nn.Module,), {"forward": lambda _, x: family(x, alpha[None])})()
        found = oracle.terms(energy, x, v, energy=True)
        return (found.along.mean(0) + found.projected_score.square().mean(0) / 2).mean()

    for backend in ("jets", "reference"):
        options = {"cond": (None,), "v": v, "variance_reduced": False, "backend": backend}
        found = through(lambda alpha, o=options: fastssm.sliced_loss(family, x, **{**o, "cond": alpha[None]}))
        oracle.assert_close(found, through(plain), 1e-8, backend)
    assert KernelExpFamily(torch.randn(F, D))(torch.randn(B, D)).dtype == torch.float32
