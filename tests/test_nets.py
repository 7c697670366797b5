"""Networks as people write them, through every backend that takes them, against double backward written out anew.

The oracle (`tests/nets/oracle.py`) is confirmed by finite differences of function values. A case is a family of
networks, which `tests/nets/` holds; its failures are listed by network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastssm
from fastssm import backends
from fastssm.backends import Fused
from tests import oracle as losses
from tests.nets import ALL, BY_NAME, FAMILIES, Net, differences, oracle

pytestmark = pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")
RTOL = 1e-9
WHAT = {"ssm": "objective", "vr": "objective", "exact": "objective", "terms": "terms", "score": "score"}

# How many networks run fused, on jets (which `auto` leaves to plain autograd where they are small), by it alone.
COUNTS = {"engine": 19, "jets": 99, "reference": 9}
ENGINE: set[str] = {
    "averaged-model",
    "batch-norm-mlp",
    "ffjord-concat-squash",
    "film",
    "fourier-time",
    "in-place",
    "lora",
    "normalised",
    "own-forward",
    "posterior",
    "residual",
    "selu",
    "sequential",
    "sequential-score",
    "sinusoidal-time",
    "siren",
    "siren-in-sequential",
    "unused-head",
    "wrapper",
}
NO_RULE: set[str] = {
    "cnn-batch-norm-training",  # it couples the batch
    "fourier-operator",
    "gru",
    "lstm-bidirectional",
    "gru-cell",
    "conservative-score",
    "functional-gradient",
    "coulomb-spectrum",
    "spatial-transformer",
}


def check_each(nets: list[Net], check: Callable[[Net], None]) -> None:
    """Fail with what went wrong with each network."""
    found = []
    for net in nets:
        try:
            check(net)
        except Exception as error:
            found.append(f"{net.name}: {type(error).__name__}: {str(error)[:300]}")
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def plan(net: Net, what: str = "objective") -> fastssm.Plan:
    problem = net.problem()
    return fastssm.explain(problem.model, problem.x, what=what, cond=problem.cond or None, kind=net.kind)


def ask(net: Net, question: str, backend: str) -> tuple[Tensor, list[Tensor | None]]:
    """Return what the library answers to a question of the oracle, and the gradients."""
    problem = net.problem()
    model, x = problem.model, problem.x.requires_grad_()
    options = {"cond": problem.cond or None, "kind": net.kind, "backend": backend}
    if question == "score":
        value = oracle.contracted([fastssm.score(model, x, **options)])
    elif question == "terms":
        value = oracle.contracted(list(fastssm.terms(model, x, v=problem.v, **options)))
    elif question == "exact":
        value = fastssm.exact_loss(model, x, **options)
    else:
        value = fastssm.sliced_loss(model, x, v=problem.v, **options, **losses.OPTIONS[question])
    return value, list(torch.autograd.grad(value, oracle.leaves(problem), allow_unused=True))


def unreached(net: Net) -> list[bool]:
    """Say of every leaf whether the output does not depend on it."""
    problem = net.problem()
    output = problem.model(problem.x.requires_grad_(), *problem.cond).sum()
    return [g is None for g in torch.autograd.grad(output, oracle.leaves(problem), allow_unused=True)]


def takers(net: Net, what: str) -> Iterator[str]:
    yield from (name for name, reasons in plan(net, what).reasons.items() if not reasons)


def check_backends(net: Net) -> None:
    expected = {question: oracle.answer(net, question) for question in oracle.questions(net)}
    assert all(torch.cat([g.flatten() for g in grads]).isfinite().all() for _, grads in expected.values())
    far = unreached(net)
    every_taker = {what: list(takers(net, what)) for what in set(WHAT.values())}
    for question, (value, grads) in expected.items():
        for backend in every_taker[WHAT[question]]:
            found, every = ask(net, question, backend)
            missing = [g is None for g in every]
            assert missing == (far if backend == "reference" else [False] * len(far)), f"{question} {backend}: None"
            every = [torch.zeros_like(e) if g is None else g for g, e in zip(every, grads, strict=True)]
            losses.assert_close([found, *every], [value, *grads], RTOL, f"{question} {backend}")


def check_oracle(net: Net) -> None:
    value, (*grads, _) = oracle.answer(net, "ssm")
    by_values = differences.sliced_loss(net, net.problem())
    assert by_values == pytest.approx(value.item(), rel=1e-6, abs=1e-7)
    direction = differences.direction(grads)
    parts = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)])
    by_differences = differences.along_parameters(net, direction, 1e-3 if net.energy else min(1e-3, 10 * net.step))
    error, size = by_differences - parts.sum().item(), parts.abs().sum().item()
    assert abs(error) <= 1e-5 * size, f"off by {error:.1e} of {size:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_agrees_with_the_oracle(family: str) -> None:
    check_each(FAMILIES[family], check_backends)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_finite_differences_confirm_the_oracle(family: str) -> None:
    check_each(FAMILIES[family], check_oracle)


def test_which_backend_runs_each_network() -> None:
    """The table at the top: how many networks run fused, in Taylor mode and by plain autograd."""
    plans = {net.name: plan(net) for net in ALL}
    fused = {name for name, backend in backends.BACKENDS.items() if isinstance(backend, Fused)} - {"jets"}
    chosen = {
        name: "engine" if found.backend in fused else "reference" if found.reasons["jets"] else "jets"
        for name, found in plans.items()
    }
    counts = {kind: list(chosen.values()).count(kind) for kind in COUNTS}
    print(f"of {len(ALL)} networks: {counts}")
    assert {name for name, kind in chosen.items() if kind == "engine"} == ENGINE
    assert counts == COUNTS
    assert sum(counts.values()) == len(ALL)
    refused = {name for name, found in plans.items() if found.reasons.get("jets")}
    assert refused == NO_RULE


def test_the_collection() -> None:
    assert len(ALL) == len(BY_NAME) >= 45
    assert all(net.dim <= 64 and net.family == family for family, nets in FAMILIES.items() for net in nets)
