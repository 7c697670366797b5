// What the lanes of a warp do together.
#pragma once

#include <cstdint>
#include <cstring>

#include "machine.h"

namespace emulator {

// One operation that all lanes of a mask take part in: their words in, and once all have come, their words out.
struct Collective {
  static constexpr int words = 6;
  const char* name;
  int line;
  uint32_t mask;
  uint32_t arrived = 0;
  uint64_t in[warp_size][words];
  uint64_t out[warp_size][words];

  bool has(int lane) const { return arrived >> lane & 1; }
};

// Take part with this thread's words, which the result overwrites.
void collect(const char* name, int line, uint32_t mask, uint64_t* words, int count, void (*combine)(Collective&));

void synchronise_warp(uint32_t mask, int line);
uint32_t ballot(uint32_t mask, bool predicate, int line);

enum class Shuffle { index, up, down, butterfly };

// A lane's word from another lane of the mask; the caller's own where that lane lies outside of the segment.
// `clamp` and `segment` are the two halves of PTX's operand c.
struct Shuffled {
  uint64_t word;
  bool inside;
};
Shuffled shuffle_word(Shuffle how, uint32_t mask, uint64_t word, uint32_t lane, uint32_t clamp_segment, int line);

template <class To, class From>
To bits(From from) {
  To to{};
  std::memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}

template <class T>
T shuffle(Shuffle how, uint32_t mask, T value, int lane, int width, int line) {
  const uint32_t clamp = how == Shuffle::up ? 0 : warp_size - 1;
  const uint32_t packed = (warp_size - uint32_t(width)) << 8 | clamp;
  return bits<T>(shuffle_word(how, mask, bits<uint64_t>(value), uint32_t(lane), packed, line).word);
}

}  // namespace emulator
