"""What runs CUDA kernels without a GPU: an emulator, executed PTX, a stand-in for the driver, and observers."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "tools"))  # where the build's own modules are
