"""One process or several: who we are, which part of a batch is ours, and sums over all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among `world` equal ones.

    Args:
        device: where this process computes.
        rank: 0, 1, ..., world - 1; only rank 0 prints and writes.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Say whether this process is the one that prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's contiguous part of `count` rows; the parts differ by one row at most."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks, the same bits on each."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: an unknown name, or CUDA where torch finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here")
    return device


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if it did, and leave them together in the end.

    A process must not end right behind a collective: a thread of gloo's that then lets go of a Python tensor, while the
    interpreter is being torn down, aborts it. The barrier holds no such tensor.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(device, dist.get_rank(), world)
        dist.barrier()
    finally:
        dist.destroy_process_group()
