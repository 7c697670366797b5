"""Tests of the CUDA engine and its kernels; none but test_device.py and test_smoke.py needs a GPU."""
