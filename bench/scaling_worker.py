"""One process of ``bench.scaling``: ``python -m bench.scaling_worker RANK PROCESSES STORE SIZE STEPS ROUNDS OUT``."""

import sys
import time

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import fastssm
from bench.problems import Size


def train(rank: int, world: int, store: str, size: Size, steps: int, rounds: int) -> list[float]:
    """Train on one of `world` processes, and return the seconds of a step in each round, after one round to warm up."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    objective: torch.nn.Module = fastssm.SlicedScoreLoss(fastssm.nn.MLP(size.d, [size.H] * size.L))
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        objective = DistributedDataParallel(objective)
    optimizer = torch.optim.SGD(objective.parameters(), 1e-4)
    x, found = torch.randn(size.B, size.d), []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            objective(x).backward()
            optimizer.step()
        found.append((time.perf_counter() - begin) / steps)
    if world > 1:
        distributed.barrier()  # a process that ends right after a collective may abort
        distributed.destroy_process_group()
    return found[1:]


if __name__ == "__main__":
    rank, world, store, size, steps, rounds, out = sys.argv[1:]
    times = train(int(rank), int(world), store, Size.parse(size), int(steps), int(rounds))
    if int(rank) == 0:
        torch.save(times, out)
