// Philox4x32-10, the counter-based generator of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <cstdint>

#include "numerics.h"

namespace fastssm {

constexpr int philox_rounds = 10;
constexpr uint32_t philox_multipliers[2] = {0xD2511F53, 0xCD9E8D57};
constexpr uint32_t philox_weyl[2] = {0x9E3779B9, 0xBB67AE85};

constexpr int signs_per_counter = 128;  // one for each bit of Philox's four words

struct PhiloxWords {
  uint32_t word[4];
};

// The four words of a counter and a key.
FASTSSM_HD FASTSSM_INLINE PhiloxWords philox(PhiloxWords counter, uint64_t key) {
  constexpr uint64_t even = philox_multipliers[0], odd = philox_multipliers[1];  // devices lack the arrays
  constexpr uint32_t step_low = philox_weyl[0], step_high = philox_weyl[1];
  uint32_t *c = counter.word, low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < philox_rounds; round++) {
    const uint64_t a = even * c[0], b = odd * c[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ c[1] ^ low, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ c[3] ^ high, static_cast<uint32_t>(a)}};
    low += step_low;
    high += step_high;
  }
  return counter;
}

// One sign of a Rademacher direction; src/fastssm/directions.py defines which.
template <class T>
FASTSSM_HD FASTSSM_INLINE T rademacher(uint64_t seed, int64_t sample, int64_t projection, int64_t d) {
  const PhiloxWords words = philox({{static_cast<uint32_t>(d / signs_per_counter), static_cast<uint32_t>(projection),
                                     static_cast<uint32_t>(sample), static_cast<uint32_t>(uint64_t(sample) >> 32)}},
                                   seed);
  return words.word[d % signs_per_counter / 32] >> (d % 32) & 1 ? T(-1) : T(1);
}

}  // namespace fastssm
