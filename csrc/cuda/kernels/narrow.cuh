// Operands of products in bfloat16: rows of a tile as pointwise kernels write them, and the weights of all layers.
#pragma once

#include "gemm_params.h"
#include "mma.cuh"

namespace fastssm::cuda {

FASTSSM_DEVICE uint2 narrowed(const Pack<float>& a) {
  return make_uint2(Bf16::packed(a.lane[0], a.lane[1]), Bf16::packed(a.lane[2], a.lane[3]));
}

// Stores what products read: as it is, in bfloat16, or both. A null pointer is left out, and double is never narrow.
template <class T>
FASTSSM_DEVICE void store_operand(T* wide, uint16_t* narrow, int64_t at, const Pack<T>& a) {
  if (wide) store(wide + at, a);
  if constexpr (sizeof(T) == sizeof(float))
    if (narrow) __stwb(reinterpret_cast<uint2*>(narrow + at), narrowed(a));
}

// Block (x, y) writes 16-byte packs of the y-th weight.
FASTSSM_DEVICE void narrow_lines(const NarrowedWeights& a) {
  Narrowed s = a.weights[0];
  FASTSSM_UNROLL
  for (int i = 1; i < kNarrowed; i++)
    if (blockIdx.y == unsigned(i)) s = a.weights[i];
  const int64_t packs = s.padded / 8, at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= s.lines * packs) return;
  const int64_t line = at / packs, column = at % packs * 8;
  const float* from = s.from + line * s.length + column;
  const bool wide = s.length % 4 == 0 && reinterpret_cast<uintptr_t>(s.from) % 16 == 0;
  uint2 half[2];
  FASTSSM_UNROLL
  for (int i = 0; i < 2; i++) {
    const int64_t left = s.length - column - 4 * i;
    half[i] = narrowed(wide && left >= 4 ? load(from + 4 * i) : load_unaligned(from + 4 * i, left));
  }
  *reinterpret_cast<uint4*>(s.to + line * s.padded + column) = make_uint4(half[0].x, half[0].y, half[1].x, half[1].y);
}

}  // namespace fastssm::cuda
