"""One call of each main path of the CUDA engine, for a profiler to watch: `ncu ... python tools/device/profiled.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import fastssm
from fastssm.nn import MLP

# features, width, hidden layers, batch, directions, precision
CALLS = ((2, 64, 2, 128, 1, "full"), (2, 128, 3, 512, 1, "full"), (100, 512, 3, 1024, 1, "full"),
         (100, 512, 3, 1024, 8, "tf32"))  # fmt: skip


def main() -> None:
    """Warm each path up, then run it once more between the profiler's marks."""
    steps = []
    for dim, width, depth, batch, count, precision in CALLS:
        net = MLP(dim, [width] * depth).cuda()
        x = torch.randn(batch, dim, device="cuda")

        def step(net: torch.nn.Module = net, x: torch.Tensor = x, m: int = count, p: str = precision) -> None:
            loss = fastssm.sliced_loss(net, x, n_projections=m, precision=p, variance_reduced=False, backend="cuda")
            torch.autograd.grad(loss, list(net.parameters()))

        step()
        steps.append(step)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    for step in steps:
        step()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main()
