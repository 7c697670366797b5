"""Puts the tools of tests/cuda on the path, and gives the devices that its tests run kernels on."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "ptx")]
