"""What is compiled: the module for CPUs, the library for CUDA and its kernels; loaded when first asked for."""
