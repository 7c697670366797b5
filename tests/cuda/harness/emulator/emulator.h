// CUDA C++ for a host compiler: what kernel files see in place of CUDA's headers (csrc/cuda/kernels/portable.cuh).
//
// Every thread of a block is a fiber, and blocks run one after another. What the language promises no order for, the
// schedule may reorder: `schedule` in launcher.h. A kernel that misuses a barrier or a shuffle raises.
#pragma once

#include <cmath>
#include <cstdint>

#include "copies.h"
#include "machine.h"
#include "mma.h"
#include "registry.h"
#include "vectors.h"
#include "warp.h"
#include "wgmma.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

#define threadIdx (emulator::machine.thread)
#define blockIdx (emulator::machine.block)
#define blockDim (emulator::machine.threads)
#define gridDim (emulator::machine.grid)

constexpr int warpSize = emulator::warp_size;

inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(line); }

inline void __syncwarp(uint32_t mask = ~0u, int line = __builtin_LINE()) { emulator::synchronise_warp(mask, line); }

template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = warpSize, int line = __builtin_LINE()) {
  return emulator::shuffle(emulator::Shuffle::index, mask, value, lane, width, line);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
  return emulator::shuffle(emulator::Shuffle::up, mask, value, int(delta), width, line);
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
  return emulator::shuffle(emulator::Shuffle::down, mask, value, int(delta), width, line);
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = warpSize, int line = __builtin_LINE()) {
  return emulator::shuffle(emulator::Shuffle::butterfly, mask, value, lanes, width, line);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, int line = __builtin_LINE()) {
  return emulator::ballot(mask, predicate != 0, line);
}

template <class T>
T __ldg(const T* p) {
  return *p;
}

template <class T>
void __stwb(T* p, const T& value) {
  *p = value;
}
