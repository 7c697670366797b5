"""What every test shares: one torch thread per worker, the hypothesis profiles, and operators to try."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
if OPERATORS := os.environ.get("FASTSSM_OPERATORS"):  # of tests/cuda/operators.py, for the door "ops"
    torch.ops.load_library(OPERATORS)

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
