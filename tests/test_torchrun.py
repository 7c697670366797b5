"""`examples/distributed.py` on two machines, or on one with two processes: the training of one process by autograd."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import fastssm
from fastssm.data import toys

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
ROOT = Path(__file__).parents[1]
STEPS, BATCH = 20, 64


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def started(nodes: int, processes: int, *options: str) -> list[float]:
    """Run torchrun once for each of some machines, all of them this one, and return the printed loss and norm."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={processes}"]
    place = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=fastssm"]
    place.append("--local-addr=localhost")
    script = [str(ROOT / "examples" / "distributed.py"), "--exact", f"--steps={STEPS}", f"--batch={BATCH}", *options]
    running = [
        subprocess.Popen(
            [*torchrun, *place, f"--rdzv-conf=is_host={int(node == 0)}", f"--node-rank={node}", *script],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for node in range(nodes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.terminate()  # its processes too; nothing where it has ended
    assert [process.returncode for process in running] == [0] * nodes, outputs
    printed = "".join(out for out, _ in outputs)
    found = re.fullmatch(rf"{nodes * processes} processes, loss (\S+), norm of the weights (\S+)\n", printed)
    assert found is not None, printed
    return [float(number) for number in found.groups()]


def by_autograd() -> list[float]:
    """Return the loss of the last step, and the norm of the weights after it."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [64, 64])
    rows = toys.TOYS["moons"](10_000, torch.Generator().manual_seed(0)).float()
    order, optimizer = torch.Generator().manual_seed(1), torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        x = rows[torch.randint(len(rows), (BATCH,), generator=order)].requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        curvature = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        loss = (0.5 * slope.square().sum(1) - curvature).mean() + 0.0 * net(x).sum()  # the last bias has a gradient
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [loss.item(), torch.stack([p.detach().norm() for p in net.parameters()]).norm().item()]


@pytest.mark.slow  # six processes that import torch
def test_two_processes_train_as_one_does() -> None:
    expected = pytest.approx(by_autograd(), rel=1e-4)
    assert started(2, 1) == expected
    assert started(1, 2, "--sharded") == expected
