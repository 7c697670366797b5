"""Number of threads for training on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastssm.training import TrainConfig

SMALL = 200_000  # values per layer and step; below it, threads cost more than they save


def suitable_threads(config: TrainConfig) -> int:
    """Return 1 if the steps are small, otherwise the current number of torch threads."""
    values = config.batch * max(config.hidden, default=1) * (config.projections + 2)
    return 1 if config.loss != "exact" and values <= SMALL else torch.get_num_threads()


@contextmanager
def threads(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Set a suitable number of torch threads within the context, unless OMP_NUM_THREADS is set."""
    before = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(suitable_threads(config))
    try:
        yield
    finally:
        torch.set_num_threads(before)
