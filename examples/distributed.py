"""Train an energy on many devices, one process each: by DistributedDataParallel, or sharded by FSDP2.

On one machine:

    torchrun --nproc-per-node 2 examples/distributed.py [--sharded]

On two machines with eight GPUs each, on each of them with its own number as the rank:

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        examples/distributed.py

It runs on CUDA devices by nccl if there are any, otherwise on CPUs by gloo. Without torchrun it is one process.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastssm
from fastssm.data import toys


def join() -> torch.device:
    """Join the processes of torchrun, if there are any, and return the device of this one."""
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", **alone)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device, **alone)
    return device


def whole(t: torch.Tensor) -> torch.Tensor:
    """Return a parameter on one process, sharded or not."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def main() -> None:
    """Train, and print the mean loss of the last step and the norm of all weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharded", action="store_true", help="shard the weights by FSDP2, instead of DDP")
    parser.add_argument("--exact", action="store_true", help="the exact loss, the same for any number of processes")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=512, help="of all processes together")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    chosen = parser.parse_args()
    device = join()
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same weights in every process
    net = fastssm.nn.MLP(2, [64, 64]).to(device)
    objective = (fastssm.ExactScoreLoss if chosen.exact else fastssm.SlicedScoreLoss)(net)
    # Wrap the loss, which owns the network: it reads the weights while the wrapper holds them together.
    wrapped = fully_shard(objective) if chosen.sharded else DistributedDataParallel(objective)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-3)
    rows = toys.TOYS["moons"](10_000, torch.Generator().manual_seed(0)).float()
    order = torch.Generator().manual_seed(1)  # the same batches in every process, which takes its share of each
    torch.manual_seed(2 + rank)  # other directions in every process

    for _ in range(5 if chosen.smoke else chosen.steps):
        batch = rows[torch.randint(len(rows), (chosen.batch,), generator=order)]
        loss = wrapped(batch[rank::world].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    mean = loss.detach() / world
    dist.all_reduce(mean)
    norm = torch.stack([whole(p.detach()).norm() for p in wrapped.parameters()]).norm()
    if rank == 0:
        print(f"{world} processes, loss {mean.item():.6f}, norm of the weights {norm.item():.6f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
