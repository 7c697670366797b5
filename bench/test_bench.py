"""The same contenders under pytest-benchmark: ``pytest bench/test_bench.py`` (the ordinary test run leaves it out)."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contenders import CONTENDERS
from bench.problems import GRID, LOSSES, Size, exact_answer, problem, relative_error
from bench.worker import MODES, make_step

NAMES = ("autograd", "Taylor", "FD-SSM", "fastssm torch", "fastssm torch + compile")


@pytest.mark.parametrize("size", GRID[:3], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_contender(benchmark: BenchmarkFixture, name: str, mode: str, loss: str, size: Size) -> None:
    if name.startswith("FD") and loss == "SSM-VR":
        pytest.skip("FD-SSM has no variance-reduced form for energies")
    torch.compiler.reset()
    benchmark.group = f"{loss} {mode} {size}"
    p = problem(size, loss)
    step = make_step(CONTENDERS[name], p, mode)
    assert relative_error(*step(), exact_answer(p)) <= CONTENDERS[name].tolerance
    benchmark(step)
