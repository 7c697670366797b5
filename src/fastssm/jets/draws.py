"""The random numbers of a forward, such as dropout's masks: every pass over the same samples draws the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def state_of(x: Tensor) -> list[Tensor]:
    """Return the states of the generators that a forward of x draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]


def restore(x: Tensor, states: Sequence[Tensor]) -> None:
    """Set the generators to states of theirs."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, x.device)


@contextmanager
def repeated(x: Tensor, states: Sequence[Tensor]) -> Iterator[None]:
    """Draw again inside what was drawn from some states on, and leave the generators as they were."""
    before = state_of(x)
    restore(x, states)
    try:
        yield
    finally:
        restore(x, before)
