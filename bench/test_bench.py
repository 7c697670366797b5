"""The contenders under pytest-benchmark: ``pytest bench/test_bench.py`` (not part of the normal test run)."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contenders import CONTENDERS
from bench.ours import NotBuiltError
from bench.problems import GRID, LOSSES, Case, Size, exact_answer, problem, relative_error
from bench.steps import MODES

NAMES = ("autograd", "Taylor", "FD-SSM", "fastssm torch", "fastssm torch + compile", "fastssm cpu")


@pytest.mark.parametrize("size", GRID[:3], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_contender(benchmark: BenchmarkFixture, name: str, mode: str, loss: str, size: Size) -> None:
    torch.compiler.reset()
    benchmark.group = f"{loss} {mode} {size}"
    p = problem(Case(size), loss)
    try:
        step = CONTENDERS[name].prepare(p, mode)
        found = step.read(step.call())
    except (NotImplementedError, NotBuiltError) as reason:
        pytest.skip(str(reason))
    assert relative_error(found, exact_answer(p)) <= CONTENDERS[name].tolerance
    benchmark(step.call)
