"""What every test shares: one torch thread per worker, the hypothesis profiles, an engine to try, covering sets."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from fastssm.backends.entries import compiled
from tests.covering import thinned

torch.set_num_threads(1)
if OPERATORS := os.environ.get("FASTSSM_OPERATORS"):  # of tests/cuda/harness/operators.py, for the entry "ops"
    torch.ops.load_library(OPERATORS)
if DEVICE := os.environ.get("FASTSSM_DEVICE"):  # for the entry "ops" of test_equivalence.py on a GPU
    if not torch.cuda.is_available():
        pytest.exit(f"FASTSSM_DEVICE={DEVICE}, but there is no GPU", 1)
    torch.set_default_device(DEVICE)

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# Parameters of these names say what runs a test: in full the values here, the other values in part (covering.py).
FIRST = {"machine": ["emulator", "ptx-80"], "entry": [(*compiled.DEVICES, "torch")[0]]}
if OPERATORS or DEVICE:
    FIRST |= {"entry": ["ops"], "backend": ["ops"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run every combination of parameters, not a covering set")


@pytest.hookimpl(tryfirst=True)  # so that -k and -m pick from what runs without them
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run each test on a covering set of its parameters, unless every combination or one case is asked for.

    Slow tests run where one is asked for by its name.
    """
    if not config.getoption("full") and not any("[" in argument for argument in config.args):
        items[:], rest = thinned(items, FIRST, slow=any("::" in argument for argument in config.args))
        config.hook.pytest_deselected(items=rest)


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    """Compile as if nothing had been compiled before."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
