"""Write what a device run was made on: the device, the driver, torch, the tools and the engine."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PROGRAMS = ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu", "cuobjdump", "g++")
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,pci.bus_id"


def said(*command: str) -> str:
    """Return what a program prints, or why it does not."""
    if not shutil.which(command[0]):
        return f"{command[0]}: not found"
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def device() -> list[str]:
    """Describe the first device as torch and the engine see it."""
    import torch

    from fastssm import backends
    from fastssm.native import cuda_library

    lines = [f"torch {torch.__version__}, CUDA {torch.version.cuda}", f"engine: {cuda_library.status()}"]
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        lines.append(f"device: {found.name}, compute capability {found.major}.{found.minor}, {found}")
        lines.append(f"kernels: {cuda_library.unready(torch.device('cuda', 0)) or 'loaded'}")
    return [*lines, f"backends: {backends.availability()}"]


def main() -> int:
    """Print the facts and write them; return 1 where there is no device to check."""
    lines = [f"{platform.platform()}, Python {platform.python_version()}"]
    lines += [said("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv")]
    lines += [f"{name}: {shutil.which(name) or 'not found'}" for name in PROGRAMS]
    lines += [re.sub(r"(?s).*(release [\d.]+).*", r"nvcc \1", said("nvcc", "--version")), *device()]
    text = "\n".join(lines)
    print(text)
    Path(sys.argv[1]).write_text(text + "\n")
    return int("kernels: loaded" not in text)


if __name__ == "__main__":
    sys.exit(main())
