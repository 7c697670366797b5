// Rademacher signs in memory; src/fastssm/directions.py defines which sign is where.
#pragma once

#include "../../maths/philox.h"
#include "narrow.cuh"

namespace fastssm::cuda {

struct Bfloat16 {
  uint16_t bits;
};

template <class S>
FASTSSM_DEVICE S sign_of(uint32_t bit) {
  return bit ? S(-1) : S(1);
}
template <>
FASTSSM_DEVICE Bfloat16 sign_of(uint32_t bit) {
  return {static_cast<uint16_t>(0x3F80 | bit << 15)};
}

// Each lane of a warp generates the 128 signs of one counter. Then all lanes store the signs of one counter after
// another, so that neighbouring lanes store neighbouring 16 bytes.
template <class S>
FASTSSM_DEVICE void rademacher_rows(const Rademacher& a) {
  constexpr unsigned everyone = 0xFFFFFFFF;
  const int64_t counters = (a.ld + signs_per_counter - 1) / signs_per_counter;  // in a row
  const int packs = static_cast<int>(a.ld < signs_per_counter ? a.ld : signs_per_counter) / kLanes<S>;
  const int lane = threadIdx.x % kWarp;
  const int64_t own = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = own / counters, counter = own % counters, column = counter * signs_per_counter;
  const int64_t sample = a.first_sample + row % a.samples, projection = a.first_projection + row / a.samples;
  const PhiloxWords drawn = philox({{static_cast<uint32_t>(counter), static_cast<uint32_t>(projection),
                                     static_cast<uint32_t>(sample), static_cast<uint32_t>(uint64_t(sample) >> 32)}},
                                   static_cast<uint64_t>(*a.seed));
  const int64_t start = row * a.ld + column;
  const int room = row < a.projections * a.samples ? static_cast<int>(least(a.ld - column, signs_per_counter)) : 0;
  const int signs = static_cast<int>(least(a.dim - column, signs_per_counter));
  for (int i = lane; i < kWarp * packs; i += kWarp) {
    const int source = i / packs, at = i % packs * kLanes<S>;  // of the counter's signs
    uint32_t word = 0;
    FASTSSM_UNROLL
    for (int w = 0; w < 4; w++) {
      const uint32_t given = __shfl_sync(everyone, drawn.word[w], source);
      if (at / 32 == w) word = given;
    }
    const int64_t to = __shfl_sync(everyone, start, source) + at;
    const int end = __shfl_sync(everyone, room, source), filled = __shfl_sync(everyone, signs, source) - at;
    if (at >= end) continue;
    Pack<S> pack;
    FASTSSM_UNROLL
    for (int j = 0; j < kLanes<S>; j++) pack.lane[j] = j < filled ? sign_of<S>(word >> (at % 32 + j) & 1) : S{};
    S* out = static_cast<S*>(a.out);
    if constexpr (sizeof(S) == sizeof(float)) store_operand(out, a.narrow, to, pack);
    else store(out + to, pack);
  }
}

}  // namespace fastssm::cuda
