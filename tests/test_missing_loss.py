"""Score matching of rows with gaps: against marginals differentiated by autograd, known marginals, and full rows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.entries import compiled
from fastssm.losses.proposals import GaussianProposal
from fastssm.nn import MLP
from tests import covering, oracle

B, D, M, K = 6, 3, 2, 4
BACKENDS = ("auto", "torch", "reference", "jets", *compiled.DEVICES)
FORMS: dict[str, dict[str, object]] = {"vr": {}, "ssm": {"variance_reduced": False}, "exact": {"exact": True}}


def gappy(count: int, share: float = 0.3) -> Tensor:
    torch.manual_seed(5)
    x = torch.randn(count, D, dtype=torch.float64)
    x[torch.rand(count, D) < share] = math.nan
    x[1] = torch.tensor([0.5, -1.0, 0.2])  # one whole row, and one without any value
    x[2] = math.nan
    return x


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    x = gappy(B)
    net = MLP(D, [6, 5], 1, "silu").double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    return net, x, torch.randn(M, B, D, dtype=torch.float64)


def fixed(x: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the same draws at every call, and densities that are not theirs, as any number must enter rightly."""
    own = torch.Generator().manual_seed(9)
    draws = torch.randn(count, *x.shape, generator=own, dtype=torch.float64).to(x)
    return torch.where(x.isnan(), draws, x), torch.rand(count, len(x), generator=own, dtype=torch.float64)


class Marginal(nn.Module):
    """The importance weighted marginal energy, as one network of the observed coordinates."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net, self.gap = net, x.isnan()
        self.draws, self.log_q = fixed(x, K, None)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.where(self.gap, self.draws, x)
        logs = [-self.net(row)[:, 0] - log_q for row, log_q in zip(rows, self.log_q, strict=True)]
        return -torch.stack(logs).logsumexp(0)


@covering.each("form", FORMS)
def test_value_and_gradients_are_those_of_the_marginal_energy(form: str) -> None:
    net, x, v = problem()
    weight = torch.linspace(0.5, 1.5, B, dtype=torch.float64)
    seen = (~x.isnan()).double()
    other = copy.deepcopy(net)
    masked = seen * (math.sqrt(1.0) * torch.eye(D).double()[:, None] if form == "exact" else v)
    found = oracle.terms(Marginal(other, x), x.nan_to_num(0.0), masked, energy=True)
    trace = found.along.sum(0) if form == "exact" else found.along.mean(0)
    square = found.projected_score.square().mean(0) if form == "ssm" else (seen * found.score).square().sum(1)
    expected = (weight * (trace + square / 2)).mean()
    wanted = [expected, *oracle.gradients(expected, other.parameters())]
    given = {} if form == "exact" else {"v": v}
    for backend in BACKENDS:
        options = {"weight": weight, "backend": backend, **FORMS[form], **given}
        loss = fastssm.missing_loss(net, x, proposal=fixed, n_imputations=K, **options)
        found_grads = torch.autograd.grad(loss, list(net.parameters()))
        oracle.assert_close([loss, *found_grads], wanted, 1e-9, backend)


class Normal(nn.Module):
    """A normal model by mean and precision: the energy of whole rows, or with a mask that of its marginals."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.3, -0.5, 1.0]).double())
        root = torch.tensor([[1.2, 0.0, 0.0], [0.5, 0.9, 0.0], [-0.4, 0.3, 1.1]]).double()
        self.root = nn.Parameter(root)

    @property
    def precision(self) -> Tensor:
        return self.root @ self.root.mT

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        off = x - self.mean
        if mask is None:
            return 0.5 * torch.einsum("bi,ij,bj->b", off, self.precision, off)
        off = off * mask
        covariance = torch.linalg.inv(self.precision)
        block = covariance * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(1 - mask)
        return 0.5 * (off * torch.linalg.solve(block, off[:, :, None])[:, :, 0]).sum(1)


def by_hand(model: Normal, x: Tensor) -> Tensor:
    """Return the exact losses of a normal model, from the covariance of each row's observed coordinates."""
    covariance, losses = torch.linalg.inv(model.precision), []
    for row in x:
        seen = ~row.isnan()
        precision = torch.linalg.inv(covariance[seen][:, seen])
        s = -precision @ (row - model.mean)[seen]
        losses.append(s.square().sum() / 2 - precision.diagonal().sum())
    return torch.stack(losses)


def test_the_marginals_of_a_normal_density() -> None:
    """A model of marginals, and whole rows filled from their own conditional density: both exactly the known loss."""
    model, x = Normal(), gappy(40)
    weight = torch.linspace(0.5, 1.5, 40, dtype=torch.float64)
    expected = by_hand(model, x)
    wanted = oracle.gradients((weight * expected).mean(), model.parameters())
    known = fastssm.missing_loss(model, x, exact=True, reduction="none")
    grads = torch.autograd.grad((weight * known).mean(), list(model.parameters()))
    oracle.assert_close([known, *grads], [expected, *wanted], 1e-9)
    own = GaussianProposal(model.mean, torch.linalg.inv(model.precision), widen=1.0)
    filled = fastssm.missing_loss(model, x, proposal=own, n_imputations=4000, exact=True, reduction="none")
    grads = torch.autograd.grad((weight * filled).mean(), list(model.parameters()))
    oracle.assert_close([filled, *grads], [expected, *wanted], 0.15)
    rough = fastssm.missing_loss(model, x, proposal=own, n_imputations=1, exact=True, reduction="none")
    assert (rough - expected).abs().max() > 10 * (filled - expected).abs().max()


@covering.each("backend", BACKENDS)
def test_whole_rows_are_score_matching(backend: str) -> None:
    net, _, v = problem()
    x = torch.randn(B, D, dtype=torch.float64)
    proposal = GaussianProposal(torch.zeros(D), torch.eye(D))
    for options in ({"v": v}, {"v": v, "variance_reduced": False}):
        found = fastssm.missing_loss(net, x, proposal=proposal, backend=backend, reduction="none", **options)
        torch.testing.assert_close(found, fastssm.sliced_loss(net, x, backend=backend, reduction="none", **options))


def test_the_proposal_is_the_conditional_density() -> None:
    """Its draws have the conditional mean and covariance, and its density is theirs."""
    model = Normal()
    covariance, mean = torch.linalg.inv(model.precision).detach(), model.mean.detach()
    x = torch.tensor([[0.7, math.nan, math.nan], [math.nan, 0.1, -0.3]]).double()
    rows, log_q = GaussianProposal(mean, covariance, widen=1.5)(x, 40_000, torch.Generator().manual_seed(1))
    for b, gap in enumerate(([1, 2], [0])):
        seen = [j for j in range(D) if j not in gap]
        gain = covariance[gap][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        centre = mean[gap] + gain @ (x[b] - mean)[seen]
        spread = 1.5**2 * (covariance[gap][:, gap] - gain @ covariance[seen][:, gap])
        known = torch.distributions.MultivariateNormal(centre, spread)
        torch.testing.assert_close(log_q[:, b], known.log_prob(rows[:, b][:, gap]))
        assert torch.equal(rows[:, b][:, seen], x[b, seen].expand(40_000, -1))
        torch.testing.assert_close(rows[:, b][:, gap].mean(0), centre, atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(rows[:, b][:, gap].mT).view(spread.shape), spread, atol=0.05, rtol=0.05)


def test_the_fit_maximises_the_likelihood_of_what_is_observed() -> None:
    x = gappy(500, 0.4)
    found = GaussianProposal.fit(x, iterations=300)
    mean, covariance = found.mean.clone().requires_grad_(), found.covariance.clone().requires_grad_()
    total = torch.zeros(()).double()
    for row in x:
        seen = ~row.isnan()
        if seen.any():
            total = total + torch.distributions.MultivariateNormal(mean[seen], covariance[seen][:, seen]).log_prob(
                row[seen]
            )
    for slope in torch.autograd.grad(total, [mean, covariance]):
        assert slope.abs().max() < 1e-2  # the likelihood's slope, of 500 rows; the ridge leaves a little
    whole = torch.randn(200, D, dtype=torch.float64)
    direct = GaussianProposal.fit(whole, iterations=1)
    torch.testing.assert_close(direct.covariance, torch.cov(whole.mT, correction=0), rtol=1e-5, atol=1e-5)


def test_a_model_is_recovered_from_a_table_with_gaps() -> None:
    """Half of the values are missing; the minimum of the loss is near the precision that made them."""
    truth, generator = Normal(), torch.Generator().manual_seed(4)
    covariance = torch.linalg.inv(truth.precision).detach()
    root = torch.linalg.cholesky(covariance)
    x = truth.mean.detach() + torch.randn(4000, D, generator=generator, dtype=torch.float64) @ root.mT
    x[torch.rand(4000, D, generator=generator) < 0.5] = math.nan
    proposal = GaussianProposal.fit(x)
    model = Normal()
    model.root.data, model.mean.data = torch.eye(D).double(), torch.zeros(D).double()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        own = torch.Generator().manual_seed(6)
        loss = fastssm.missing_loss(model, x, proposal=proposal, n_imputations=8, exact=True, generator=own)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert (model.precision - truth.precision).abs().max() < 0.25
    assert (model.mean - truth.mean).abs().max() < 0.1


def test_terms_shapes_half_precision_and_the_twin() -> None:
    net, x, v = problem()
    options = {"proposal": fixed, "n_imputations": K, "reduction": "none"}
    loss, terms = fastssm.missing_loss(net, x, v=v, return_terms=True, **options)
    torch.testing.assert_close(terms.projected_jacobian + terms.square, loss.detach())
    assert loss[2] == 0.0  # nothing observed
    assert torch.equal(fastssm.MissingLoss(net, **options)(x, v=v), loss)
    for exact in (False, True):
        nothing = fastssm.missing_loss(net, x[:0], proposal=fixed, n_imputations=K, exact=exact, reduction="sum")
        assert nothing == 0.0
    images = nn.Sequential(nn.Flatten(), net)
    shaped = fastssm.missing_loss(images, x[:, None], v=v[:, :, None], **options)
    torch.testing.assert_close(shaped, loss)
    half = fastssm.missing_loss(copy.deepcopy(net).bfloat16(), x.bfloat16(), v=v.bfloat16(), **options)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), loss, rtol=0.1, atol=0.3)
    told = MLP(D, [5], cond_dim=2).double()
    c = torch.randn(B, 2, dtype=torch.float64)
    each = fastssm.missing_loss(told, x, v=v, cond=c, **options)
    for b in (0, 1, 3):
        alone = fastssm.missing_loss(lambda y, b=b: told(y, c[b : b + 1].expand(len(y), 2)), x, v=v, **options)
        torch.testing.assert_close(each[b], alone[b])
    with pytest.raises(ValueError, match=r"rows of 2 value\(s\), got 3; fit it"):
        GaussianProposal(torch.zeros(2), torch.eye(2))(x, 2)
