"""Jets tile by tile: any size of tiles gives what one tile does, and plain autograd; cotangents of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssm
from fastssm.backends import jets
from tests import oracle
from tests.jets.networks import AttentionEnergy, ConditionedEnergy, Counting, Score, data, made
from tests.nets.oracle import written_out

RTOL, BATCH, DIRECTIONS = 1e-10, 5, 3
Ask = Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]
WEIGHT = torch.tensor([0.7, 0.0, 1.3, 0.2, -0.4], dtype=torch.float64)


def sliced(**options: Any) -> Ask:
    def ask(net: Any, x: Tensor, v: Tensor, given: dict[str, Any]) -> Tensor:
        found = fastssm.sliced_loss(net, x, v=v, **given, **options)
        return oracle.contracted(found) if found.ndim else found

    return ask


def exact(net: Any, x: Tensor, v: Tensor, given: dict[str, Any]) -> Tensor:
    return fastssm.exact_loss(net, x, weight=WEIGHT, **given)


def terms(net: Any, x: Tensor, v: Tensor, given: dict[str, Any]) -> Tensor:
    return sum(uneven(t) for t in fastssm.terms(net, x, v=v, **given))


def diagonal(net: Any, x: Tensor, v: Tensor, given: dict[str, Any]) -> Tensor:
    return uneven(fastssm.jacobian_diag(net, x, **given))


def form(net: Any, x: Tensor, v: Tensor, given: dict[str, Any]) -> Tensor:
    if net.kind == "score":
        return diagonal(net, x, v, given)
    return uneven(fastssm.hvp_form(net, x, v, **{name: o for name, o in given.items() if name != "kind"}))


def uneven(t: Tensor) -> Tensor:
    return (t.sin() * torch.linspace(1.0, 2.0, t.numel(), dtype=t.dtype).view(t.shape)).sum()


QUESTIONS: dict[str, Ask] = {
    "mean": sliced(variance_reduced=False),
    "variance reduced": sliced(),
    "sum": sliced(reduction="sum", weight=WEIGHT),
    "none": sliced(reduction="none"),
    "none, not reduced": sliced(reduction="none", variance_reduced=False, weight=WEIGHT),
    "control": sliced(control_variate="optimal"),
    "exact": exact,
    "terms": terms,
    "diagonal": diagonal,
    "form": form,
}


def expected(question: str, net: Any, x: Tensor, v: Tensor, cond: Sequence[Tensor]) -> Tensor:
    energy, whole = net.kind == "energy", oracle.directions(x, None, "exact")
    with written_out():
        if question in ("terms", "diagonal", "form"):
            of_form = question == "form" and energy
            projected, along, score = oracle.terms(
                net, x, v if question == "terms" or of_form else whole, energy=energy, cond=cond
            )
            if question == "terms":
                return uneven(projected) + uneven(along.mean(0)) + uneven(score.square().sum(1)) + uneven(score)
            return uneven(-along) if of_form else uneven(along.t().reshape(x.shape))
        if question == "exact":
            return (oracle.losses(net, x, None, "exact", energy=energy, cond=cond) * WEIGHT).mean()
        loss = {"mean": "ssm", "none, not reduced": "ssm", "control": "control"}.get(question, "vr")
        each = oracle.losses(net, x, v, loss, energy=energy, cond=cond)
        weight = WEIGHT if question in ("sum", "none, not reduced") else None
        return oracle.reduced(each, weight, question.partition(",")[0] if question[0] in "sn" else "mean")


def problem(network: Callable[[], Any]) -> tuple[Any, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Return a network, data and conditioning: a time for each sample, and a scale for all; and all leaves."""
    net = made(network)
    x, v = data(net, BATCH, DIRECTIONS)
    cond = [torch.linspace(0.1, 0.9, BATCH, dtype=x.dtype), torch.linspace(0.5, 1.5, 8, dtype=x.dtype)[None]]
    leaves = [x.requires_grad_(), *(c.requires_grad_() for c in cond), *net.parameters()]
    return net, x, v, cond, leaves


def gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


def answers(ask: Ask, network: Callable[[], Any]) -> tuple[list[Tensor], int]:
    """Return the value and its gradients, and how often the forward ran."""
    net, x, v, cond, leaves = problem(network)
    given = {"cond": cond, "kind": net.kind, "backend": "jets"}
    fastssm.sliced_loss(net, x, v=v, **given)  # whatever is tried once
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    fastssm.sliced_loss(net, x, v=v, **given)  # a hook is another network
    calls.clear()
    return gradients(ask(net, x, v, given), leaves), len(calls)


@pytest.mark.parametrize("network", [Score, pytest.param(ConditionedEnergy, marks=pytest.mark.slow)])
def test_tiles_of_any_size_give_the_same(network: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {}
    for question, ask in QUESTIONS.items():
        monkeypatch.setattr(jets, "TILE_BYTES", 1 << 30)
        whole, once = answers(ask, network)
        net, x, v, cond, leaves = problem(network)
        right = gradients(expected(question, net, x, v, cond), leaves)
        sizes = {}
        for size in (1, 1000, 4000):  # one sample and one direction, some of either
            monkeypatch.setattr(jets, "TILE_BYTES", size)
            found, sizes[size] = answers(ask, network)
            try:
                oracle.assert_close(whole, right, RTOL)
                oracle.assert_close(found, whole, 1e-12)
            except AssertionError as error:
                wrong[f"{question}, {size} bytes"] = str(error)
        assert once <= 2 < 10 <= sizes[1], f"{question}: {once} and {sizes} forwards"
    assert wrong == {}


COTANGENTS = {
    "ordinary": (1.0, [1.0, 0.7, 0.3, 2.0, 0.1], 1.0),
    "mixed signs": (1.0, [1.0, -0.7, 0.3, -2.0, 0.1], -1.0),
    "some zero": (1.0, [1.0, 0.0, -0.3, 0.0, 0.1], 1.0),
    "only the score": (0.0, [0.0] * BATCH, 1.0),
    "only the projections": (1.0, [0.0] * BATCH, 0.0),
    "only the Jacobian": (0.0, [1.0, 0.0, -0.3, 1e-200, 0.1], 0.0),
    "all zero": (0.0, [0.0] * BATCH, 0.0),
    "tiny": (1.0, [1e-100, 1e-200, -1e-310, 5e-324, 1.0], 1.0),
    "tiny all": (1e-200, [1e-200, -1e-200, 0.0, 3e-201, 1e-200], -1e-200),
    "huge": (1.0, [1e100, -1e90, 1e80, 0.0, 1.0], 1e50),
}


@pytest.mark.parametrize("network", [Score, ConditionedEnergy])
def test_cotangents_of_any_size(network: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are relative to the largest of a result, whatever its scale."""
    wrong = {}
    for tile in (1 << 30, 1):
        monkeypatch.setattr(jets, "TILE_BYTES", tile)
        for name, (on_projected, on_jacobian, on_score) in COTANGENTS.items():
            net, x, v, cond, leaves = problem(network)
            energy, factors = net.kind == "energy", torch.tensor(on_jacobian, dtype=x.dtype)
            found = fastssm.terms(net, x, v=v, cond=cond, kind=net.kind, backend="jets")
            with written_out():
                projected, along, score = oracle.terms(net, x, v, energy=energy, cond=cond)
            given = [on_projected * projected.detach().cos(), factors, on_score * score.detach().cos()]
            right = torch.autograd.grad(
                [projected, along.mean(0), score], leaves, given, allow_unused=True, materialize_grads=True
            )
            results = [found.projected_score, found.projected_jacobian, found.score]
            grads = torch.autograd.grad(results, leaves, given)
            scale = max(oracle.largest(g) for g in right) or 1.0
            try:
                assert all(g.isfinite().all() for g in grads)
                oracle.assert_close([g / scale for g in grads], [g / scale for g in right], RTOL)
            except AssertionError as error:
                wrong[f"{name}, {tile} bytes"] = str(error)
    assert wrong == {}


def test_cotangents_of_each_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero, tiny and of both signs for some directions of some samples."""
    factors = torch.tensor([[1.0, 0.0, -1e-200, 0.5, 0.0], [0.0, 0.0, 1.0, -0.5, 1e-310], [-2.0, 0.0, 3.0, 0.1, 0.0]])
    for tile in (1 << 30, 1):
        monkeypatch.setattr(jets, "TILE_BYTES", tile)
        net, x, v, cond, leaves = problem(ConditionedEnergy)
        found = fastssm.hvp_form(net, x, v, cond=cond, backend="jets")
        with written_out():
            along = oracle.terms(net, x, v, energy=True, cond=cond).along
        pair = [
            torch.autograd.grad(t, leaves, factors.double(), allow_unused=True, materialize_grads=True)
            for t in (found, -along)
        ]
        oracle.assert_close([found, *pair[0]], [-along, *pair[1]], RTOL)


def test_terms_of_a_model_that_changes_a_buffer() -> None:
    """It runs as one tile, whose score autograd differentiates."""
    net = made(lambda: Counting(dropout=0.0))
    x, v = data(net, BATCH, DIRECTIONS)
    leaves = [x.requires_grad_(), *net.parameters()]
    found = fastssm.terms(net, x, v=v, kind="energy", backend="jets")
    with written_out():
        right = oracle.terms(net, x, v, energy=True)
    pairs = [
        (found.projected_score, right.projected_score),
        (found.projected_jacobian, right.along.mean(0)),
        (found.score.flatten(1), right.score),
    ]
    for ours, theirs in pairs:
        oracle.assert_close(gradients(uneven(ours), leaves), gradients(uneven(theirs), leaves), RTOL)


# --- random numbers ---


def dropping() -> AttentionEnergy:
    return AttentionEnergy(dropout=0.5)


def test_chunks_of_directions_see_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of two is one tile of samples, whatever the number of directions in one."""
    wrong = {}
    for question, ask in QUESTIONS.items():
        if question in ("exact", "none, not reduced", "sum"):  # whose weights are of five samples
            continue
        results = []
        for tile in (1 << 30, 1):
            monkeypatch.setattr(jets, "TILE_BYTES", tile)
            net = made(dropping)
            x, v = data(net, 2, DIRECTIONS)
            torch.manual_seed(3)
            value = ask(net, x.requires_grad_(), v, {"kind": "energy", "backend": "jets"})
            results.append(gradients(value, [x, *net.parameters()]))
            results[-1].append(torch.rand(3, dtype=x.dtype))  # what is drawn next
        try:
            oracle.assert_close(results[1], results[0], 1e-12)
        except AssertionError as error:
            wrong[question] = str(error)
    assert wrong == {}


def test_terms_are_differentiated_with_the_dropout_of_their_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers drawn between forward and backward change nothing; and the forward draws as the model does."""
    for tile in (1 << 30, 1):
        monkeypatch.setattr(jets, "TILE_BYTES", tile)
        net = made(dropping)
        x, v = data(net, 2, DIRECTIONS)
        leaves = [x.requires_grad_(), *net.parameters()]
        torch.manual_seed(3)
        with written_out():
            right = oracle.terms(net, x, v, energy=True)
        after = torch.rand(2)
        torch.manual_seed(3)
        found = fastssm.terms(net, x, v=v, kind="energy", backend="jets")
        assert torch.equal(torch.rand(2), after)
        state = torch.get_rng_state()
        grads = torch.autograd.grad(found.projected_jacobian.sum() + found.score.square().sum(), leaves)
        assert torch.equal(torch.get_rng_state(), state)
        expected = torch.autograd.grad(
            right.along.mean(0).sum() + right.score.square().sum(), leaves, allow_unused=True
        )
        oracle.assert_close(grads, expected, RTOL)
