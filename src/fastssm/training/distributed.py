"""Ranks of distributed training: shares of a batch, sums and broadcasts."""

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
    """The rank of this process among `world` processes.

    Args:
        device: device of this process.
        rank: 0, 1, ..., world - 1; only rank 0 prints and writes files.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Return whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's contiguous part of `count` rows; part sizes differ by at most one row."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks, bitwise equal on each."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast(self, value: T) -> T:
        """Return the `value` of rank 0 on every rank."""
        if self.world == 1:
            return value
        objects = [value]
        dist.broadcast_object_list(objects, src=0)
        return objects[0]


def choose_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is CUDA if available, otherwise the CPU.

    Raises:
        ValueError: if the name is unknown, or torch finds no CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} requires CUDA, but torch {torch.__version__} finds no CUDA device; use device cpu"
        )
    return device


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Initialise the process group if `torchrun` started this process, and destroy it at the end.

    A process must not exit right after a collective. Otherwise a gloo thread may release a Python tensor while the
    interpreter shuts down, and the process aborts. The final barrier holds no such tensor.
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
