// Rademacher signs by Philox, one vector of counters at a time. src/fastssm/directions.py defines which sign is where.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "../../maths/philox.h"
#include "vec.h"

namespace fastssm {

constexpr int philox_lanes = native_lanes<uint32_t>;
using PhiloxVector = native_vector<uint32_t, philox_lanes>;
using PhiloxWide = native_vector<uint64_t, philox_lanes / 2>;

// The 64-bit products of the even lanes.
FASTSSM_INLINE PhiloxWide multiply_even(PhiloxWide a, PhiloxWide b) {
#if defined(__AVX512F__)
  return (PhiloxWide)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);  // unmasked, g++ 12 warns of its own header
#elif defined(__AVX2__)
  return (PhiloxWide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PhiloxWide)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
#endif
}

struct PhiloxProduct {
  PhiloxVector high, low;
};

FASTSSM_INLINE PhiloxProduct multiply(PhiloxVector a, uint32_t multiplier) {
  const PhiloxWide factor = PhiloxWide{} + multiplier;
  const PhiloxWide even = multiply_even((PhiloxWide)a, factor), odd = multiply_even((PhiloxWide)a >> 32, factor);
  const PhiloxWide upper = PhiloxWide{} + 0xFFFFFFFF00000000;
  return {(PhiloxVector)(even >> 32 | (odd & upper)), (PhiloxVector)((even & ~upper) | odd << 32)};
}

// Replaces counters, word by word, by the words that they give.
FASTSSM_INLINE void philox(PhiloxVector c[4], uint64_t key) {
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < philox_rounds; round++) {
    const PhiloxProduct a = multiply(c[0], philox_multipliers[0]), b = multiply(c[2], philox_multipliers[1]);
    c[0] = b.high ^ c[1] ^ low;
    c[2] = a.high ^ c[3] ^ high;
    c[1] = b.low;
    c[3] = a.low;
    low += philox_weyl[0];
    high += philox_weyl[1];
  }
}

// Writes the signs of the first `count` bits of a word, all 32 where there are more.
template <class T>
FASTSSM_INLINE void write_signs(uint32_t word, int64_t count, T* out) {
  using Tested = std::conditional_t<vector_bytes == 16, int32_t, integer_of<T>>;  // SSE2 compares no wider integers
  constexpr int n = native_lanes<T>, tests = native_lanes<Tested>;
  const auto words = native_vector<Tested, tests>{} + static_cast<Tested>(word);
  native_vector<Tested, tests> bit;
  for (int lane = 0; lane < tests; lane++) bit[lane] = Tested(1) << lane / (tests / n);
  const auto whole = [&](int i) __attribute__((always_inline)) {
    const auto set = (typename Vec<T, n>::Integers)((words & bit << i) != 0);
    where(Mask<T, n>{set}, Vec<T, n>(T(-1)), Vec<T, n>(T(1))).store(out + i);
  };
  if (count >= 32) {
#pragma GCC unroll 16
    for (int i = 0; i < 32; i += n) whole(i);
  } else {
    int i = 0;
    for (; i + n <= count; i += n) whole(i);
    for (; i < count; i++) out[i] = T(1) - T(static_cast<int>(word >> i & 1) * 2);
  }
}

// The signs [samples, dim] of one direction of consecutive samples, rows ld apart.
template <class T>
FASTSSM_INLINE void signs_rows(uint64_t seed, int64_t first_sample, int64_t samples, int64_t projection, int64_t dim,
                               T* out, ptrdiff_t ld) {
  const int64_t blocks = (dim + signs_per_counter - 1) / signs_per_counter;
  int64_t made = 0, row = 0, block = 0;  // of the next counter
  while (made < samples * blocks) {
    uint32_t words[4][philox_lanes];
    T* place[philox_lanes];
    int64_t left[philox_lanes];
    for (int lane = 0; lane < philox_lanes; lane++) {
      const uint64_t sample = static_cast<uint64_t>(first_sample + row);
      words[0][lane] = static_cast<uint32_t>(block);
      words[1][lane] = static_cast<uint32_t>(projection);
      words[2][lane] = static_cast<uint32_t>(sample);
      words[3][lane] = static_cast<uint32_t>(sample >> 32);
      place[lane] = out + row * ld + block * signs_per_counter;
      left[lane] = dim - block * signs_per_counter;
      if (++block == blocks) block = 0, row++;
    }
    PhiloxVector c[4];
    std::memcpy(c, words, sizeof c);
    philox(c, seed);
    std::memcpy(words, c, sizeof c);
    for (int lane = 0; lane < philox_lanes && made < samples * blocks; lane++, made++)
      for (int i = 0; i < 4 && left[lane] > 32 * i; i++)
        write_signs(words[i][lane], left[lane] - 32 * i, place[lane] + 32 * i);
  }
}

// The signs [dim] of one direction of one sample.
template <class T>
FASTSSM_INLINE void signs(uint64_t seed, int64_t sample, int64_t projection, int64_t dim, T* out) {
  signs_rows(seed, sample, 1, projection, dim, out, dim);
}

}  // namespace fastssm
