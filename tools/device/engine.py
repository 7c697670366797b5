"""Make sure that the CUDA engine is there, for `check.sh`: as it is installed, as it was built before, or built now.

python tools/device/engine.py FOLDER            put the engine of FOLDER into src/fastssm/, unless one is there
python tools/device/engine.py FOLDER --build    build it into FOLDER (`make device-build`); needs g++ and nvcc
    python tools/device/engine.py FOLDER --device   exit with 3, saying why, where there is no GPU to check
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fastssm"
RECORD = "_build.json"
NO_GPU = 3  # exit status: nothing is wrong, but nothing can be checked
EXPECTED = (9, 0)  # the compute capability to build for where there is no device
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]


def build(folder: Path) -> None:
    """Build the engine's library, its kernels and the driver program into a folder."""
    import torch
    from native_build import Build

    from tests.cuda.harness import device_program

    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else EXPECTED
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}+PTX")  # PTX for all that is newer

    build = Build("cuda")
    build.build_cuda(folder)
    shutil.copy(device_program.program(), folder / "device_program")
    record = {"reason": "the CUDA engine was built alone", "cuda": build.facts["cuda"]}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")  # last: it says that all is there


def missing() -> str:
    """Return why a new process has no CUDA engine; empty if it has."""
    command = [sys.executable, "-c", "from fastssm.native import cuda_library; print(*cuda_library.missing())"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def no_device() -> str:
    """Return why there is no GPU to check; empty if there is one."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install one with CUDA from https://pytorch.org"
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


def provide(folder: Path) -> None:
    """Build what the phases need besides the package, unless it was brought; say so where that cannot be."""
    from native_build import NotBuilt

    if not (folder / RECORD).exists():
        try:
            build(folder)
        except NotBuilt as why:
            print(f"the kernels by nvcc and the driver program were not built: {why}")
    if missing() and (folder / RECORD).exists():
        install(folder)


def install(folder: Path) -> None:
    """Copy what was built into the package, and leave what its record says of the compiled module."""
    for file in (file for file in folder.glob("_*") if file.name != RECORD):
        shutil.copy(file, PACKAGE / file.name)
    built, record = json.loads((folder / RECORD).read_text()), PACKAGE / RECORD
    known = json.loads(record.read_text()) if record.exists() else built
    record.write_text(json.dumps(known | {"cuda": built["cuda"]}, indent=2) + "\n")


def main() -> int:
    """Build, or see to it that the engine loads; return 1 if it does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--device", action="store_true")
    chosen = parser.parse_args()
    if chosen.device:
        why = no_device()
        print(f"There is no GPU to check: {why}." if why else "there is a GPU")
        return NO_GPU if why else 0
    if chosen.build:
        build(chosen.folder)
        return 0
    provide(chosen.folder)
    why = missing()
    print(why or "the CUDA engine loads")
    return int(bool(why))


if __name__ == "__main__":
    sys.exit(main())
