"""What every test shares: one torch thread per worker, the hypothesis profiles, and an engine to try."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

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


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    """Compile as if nothing had been compiled before."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
