#include "warp.h"

#include <string>

namespace emulator {

uint32_t ballot(uint32_t mask, bool predicate, int line) {
  uint64_t word = predicate;
  collect("__ballot_sync", line, mask, &word, 1, [](Collective& c) {
    uint64_t votes = 0;
    for (unsigned lane = 0; lane < warp_size; lane++) votes |= uint64_t(c.has(lane) && c.in[lane][0]) << lane;
    for (auto& out : c.out) out[0] = votes;
  });
  return uint32_t(word);
}

// The source lane of `lane`, as the PTX ISA has it (shfl.sync).
static int source(Shuffle how, int lane, int b, int c, bool& inside) {
  const int segment = c >> 8 & 31, clamp = c & 31;
  const int highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
  b &= 31;
  const int from = how == Shuffle::up      ? lane - b
                   : how == Shuffle::down  ? lane + b
                   : how == Shuffle::index ? lowest | (b & ~segment)
                                           : lane ^ b;
  inside = how == Shuffle::up ? from >= highest : from <= highest;
  return inside ? from : lane;
}

template <Shuffle how>
static void exchange(Collective& c) {
  for (int lane = 0; lane < int(warp_size); lane++) {
    if (!c.has(lane)) continue;
    bool inside;
    const int from = source(how, lane, int(c.in[lane][1]), int(c.in[lane][2]), inside);
    if (!c.has(from))
      fail("a shuffle at line " + std::to_string(c.line) + " reads lane " + std::to_string(from) +
           ", which is not in its mask");
    c.out[lane][0] = c.in[from][0];
    c.out[lane][1] = inside;
  }
}

Shuffled shuffle_word(Shuffle how, uint32_t mask, uint64_t word, uint32_t lane, uint32_t clamp_segment, int line) {
  uint64_t words[3] = {word, lane, clamp_segment};
  void (*const combine[])(Collective&) = {exchange<Shuffle::index>, exchange<Shuffle::up>, exchange<Shuffle::down>,
                                          exchange<Shuffle::butterfly>};
  collect("a shuffle", line, mask, words, 3, combine[int(how)]);
  return {words[0], words[1] != 0};
}

}  // namespace emulator
