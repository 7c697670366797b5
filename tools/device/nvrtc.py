"""Compile the kernels by NVRTC in a fresh cache, load them on the device, and compare a loss with nvcc's kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, torch, fastssm
from pathlib import Path
from fastssm.native import cuda_library
from fastssm.nn import MLP
if sys.argv[1] == "nvrtc":
    cuda_library.IMAGE = Path("there is none")
torch.manual_seed(0)
net, x = MLP(5, [40, 40]).cuda(), torch.randn(300, 5, device="cuda")
loss = fastssm.sliced_loss(net, x, v=torch.ones_like(x), backend="cuda")
found = [loss, *torch.autograd.grad(loss, list(net.parameters()))]
print(sum(t.double().square().sum() for t in found).item())
"""


def found(compiler: str, cache: str) -> float:
    """Return a number that depends on every kernel's result, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, compiler]
    environment = {**os.environ, "FASTSSM_CACHE": cache, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def main() -> int:
    """Return 1 if the two differ by more than rounding."""
    with tempfile.TemporaryDirectory() as cache:
        by_nvrtc = found("nvrtc", cache)
        print([file.name for file in Path(cache).iterdir()])
    by_nvcc = found("nvcc", cache)
    print(f"nvrtc {by_nvrtc}, nvcc {by_nvcc}")
    return int(not abs(by_nvrtc - by_nvcc) <= 1e-5 * abs(by_nvcc))


if __name__ == "__main__":
    sys.exit(main())
