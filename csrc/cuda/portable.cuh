// What kernel files include instead of CUDA's headers: the same source goes through nvcc, NVRTC, or a host compiler with
// the emulator of tests/cuda, which then defines FASTSSM_EMULATOR as the header to include.
#pragma once

#if defined(FASTSSM_EMULATOR)
#include FASTSSM_EMULATOR
#define FASTSSM_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::dynamic_shared())
#else
#define FASTSSM_SHARED(T, name)                                      \
  extern __shared__ __align__(16) unsigned char fastssm_shared_[]; \
  T* name = reinterpret_cast<T*>(fastssm_shared_)
#endif

// A kernel: `parameters` is its one argument. `threads` is the largest block that it is launched with.
#define FASTSSM_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
