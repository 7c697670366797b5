#include "mma.h"

#include <cmath>

#include "warp.h"

namespace emulator {
namespace {

float tf32(uint64_t word, int half) { return bits<float>(uint32_t(word >> 32 * half) & 0xFFFFE000u); }

float bf16(uint64_t word, int quarter) { return bits<float>(uint32_t(word >> 16 * quarter & 0xFFFF) << 16); }

uint64_t pair(uint32_t low, uint32_t high) { return low | uint64_t(high) << 32; }

// Row and column of register i of C in a lane: rows are the groups of four lanes, then those 8 below.
void multiply(Collective& c, const float (&a)[16][16], const float (&b)[16][8], int depth) {
  for (int lane = 0; lane < int(warp_size); lane++) {
    float d[4];
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = bits<float>(uint32_t(c.in[lane][3 + i / 2] >> 32 * (i % 2)));
      for (int k = 0; k < depth; k++) sum += double(a[row][k]) * double(b[k][column]);
      d[i] = float(sum);
    }
    for (int i = 0; i < 2; i++) c.out[lane][i] = pair(bits<uint32_t>(d[2 * i]), bits<uint32_t>(d[2 * i + 1]));
  }
}

void tf32_product(Collective& c) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < int(warp_size); lane++) {
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 4; i++) a[group + i % 2 * 8][place + i / 2 * 4] = tf32(c.in[lane][i / 2], i % 2);
    for (int i = 0; i < 2; i++) b[place + i * 4][group] = tf32(c.in[lane][2], i);
  }
  multiply(c, a, b, 8);
}

void bf16_product(Collective& c) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < int(warp_size); lane++) {
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 8; i++)
      a[group + i / 2 % 2 * 8][place * 2 + i % 2 + i / 4 * 8] = bf16(c.in[lane][i / 4], i % 4);
    for (int i = 0; i < 4; i++) b[place * 2 + i % 2 + i / 2 * 8][group] = bf16(c.in[lane][2], i);
  }
  multiply(c, a, b, 16);
}

void mma(void (*product)(Collective&), float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         const float (&c)[4], int line) {
  uint64_t words[] = {pair(a[0], a[1]), pair(a[2], a[3]), pair(b[0], b[1]),
                      pair(bits<uint32_t>(c[0]), bits<uint32_t>(c[1])),
                      pair(bits<uint32_t>(c[2]), bits<uint32_t>(c[3]))};
  if (machine.threads.x % warp_size) fail("mma needs whole warps");
  collect("mma.sync", line, ~0u, words, 5, product);
  for (int i = 0; i < 4; i++) d[i] = bits<float>(uint32_t(words[i / 2] >> 32 * (i % 2)));
}

}  // namespace

void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], int line) {
  mma(tf32_product, d, a, b, c, line);
}

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], int line) {
  mma(bf16_product, d, a, b, c, line);
}

uint32_t round_to_tf32(float x) {
  const uint32_t word = bits<uint32_t>(x);
  return std::isfinite(x) ? (word + 0x1000u) & 0xFFFFE000u : word;
}

static uint32_t to_bf16(float x) {
  const uint32_t word = bits<uint32_t>(x);
  return std::isnan(x) ? 0x7FFFu : (word + 0x7FFFu + (word >> 16 & 1)) >> 16;
}

uint32_t pack_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }

}  // namespace emulator
