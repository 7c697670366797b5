// Kernel files include this instead of CUDA's headers, so that nvcc, NVRTC and a host compiler all take the same
// source. The host compiler uses the emulator of tests/cuda, and defines FASTSSM_EMULATOR as the header to include.
//
// The emulator defines threadIdx, blockIdx, blockDim, gridDim (blocks are one-dimensional), __syncthreads, __syncwarp,
// __shfl_sync, __shfl_xor_sync, __shfl_down_sync, __shfl_up_sync, __ballot_sync, float2, float4, double2, int4, uint4
// and their make_ functions, __ldg, __stwb, and in `emulator::` the tensor-core operations of mma.h and wgmma.h. Shared
// memory comes from FASTSSM_SHARED, all of it dynamic, so that the emulator can poison it and check its size.
#pragma once

#if defined(FASTSSM_EMULATOR)
#include FASTSSM_EMULATOR
#define FASTSSM_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::dynamic_shared())
#else
#define FASTSSM_SHARED(T, name)                                      \
  extern __shared__ __align__(16) unsigned char fastssm_shared_[]; \
  T* name = reinterpret_cast<T*>(fastssm_shared_)
#endif

// A kernel: FASTSSM_KERNEL(256, rademacher_float, Rademacher<float>) { ... } has one argument, `parameters`, of the
// given type, and is launched with at most that many threads in a block. The emulator registers it by name. A crowded
// kernel uses few enough registers for `blocks` blocks at a time on a multiprocessor: without this limit, ptxas uses
// even fewer registers, and spills.
#if defined(FASTSSM_EMULATOR)
#define FASTSSM_KERNEL(threads, name, ...)                                                 \
  static void name(const __VA_ARGS__ parameters);                                          \
  static const emulator::Registered<__VA_ARGS__> name##_registered_{#name, threads, name}; \
  static void name(const __VA_ARGS__ parameters)
#define FASTSSM_CROWDED_KERNEL(threads, blocks, name, ...) FASTSSM_KERNEL(threads, name, __VA_ARGS__)
#else
#define FASTSSM_KERNEL(threads, name, ...) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __VA_ARGS__ parameters)
#define FASTSSM_CROWDED_KERNEL(threads, blocks, name, ...) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __VA_ARGS__ parameters)
#endif
