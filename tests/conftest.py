"""What every test shares: one torch thread per worker, and the hypothesis profiles."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
