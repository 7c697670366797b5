#include "mma.h"

#include <cmath>

#include "warp.h"

namespace emulator {

float added(float c, const double* products, int count, int kept) {
  double largest = std::fabs(c), plain = c;
  for (int k = 0; k < count; k++) largest = std::fmax(largest, std::fabs(products[k])), plain += products[k];
  if (!std::isfinite(plain) || largest == 0) return float(plain);
  const double unit = std::ldexp(1.0, std::ilogb(largest) - kept);
  double sum = std::trunc(c / unit);
  for (int k = 0; k < count; k++) sum += std::trunc(products[k] / unit);
  const float nearest = float(sum * unit);
  const bool larger = std::isfinite(nearest) && std::fabs(nearest) > std::fabs(sum * unit);
  return larger ? std::nextafter(nearest, 0.0f) : nearest;
}

namespace {

float tf32(uint64_t word, int half) { return bits<float>(uint32_t(word >> 32 * half) & 0xFFFFE000u); }

float bf16(uint64_t word, int quarter) { return bits<float>(uint32_t(word >> 16 * quarter & 0xFFFF) << 16); }

uint64_t pair(uint32_t low, uint32_t high) { return low | uint64_t(high) << 32; }

// Row and column of register i of C in a lane: rows are the groups of four lanes, then those 8 below.
void multiply(Collective& c, const float (&a)[16][16], const float (&b)[16][8], int depth) {
  const int step = depth / 2, kept = 24;
  for (int lane = 0; lane < int(warp_size); lane++) {
    float d[4];
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      d[i] = bits<float>(uint32_t(c.in[lane][3 + i / 2] >> 32 * (i % 2)));
      for (int first = 0; first < depth; first += step) {
        double products[8];
        for (int k = 0; k < step; k++) products[k] = double(a[row][first + k]) * double(b[first + k][column]);
        d[i] = added(d[i], products, step, kept);
      }
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

template <bool transposed>
static void exchange_rows(Collective& c) {
  const auto half = [&](int matrix, int row, int column) {  // one element of 16 bits
    return uint16_t(c.in[8 * matrix + row][column / 4] >> 16 * (column % 4));
  };
  for (int lane = 0; lane < int(warp_size); lane++) {
    const int line = lane / 4, first = lane % 4 * 2;
    uint32_t words[4];
    for (int i = 0; i < 4; i++) {
      const uint32_t low = transposed ? half(i, first, line) : half(i, line, first);
      const uint32_t high = transposed ? half(i, first + 1, line) : half(i, line, first + 1);
      words[i] = low | high << 16;
    }
    for (int i = 0; i < 2; i++) c.out[lane][i] = pair(words[2 * i], words[2 * i + 1]);
  }
}

void ldmatrix_exchange(uint32_t (&words)[4], const uint64_t (&row)[2], bool transposed, int line) {
  uint64_t both[] = {row[0], row[1]};
  if (machine.threads.x % warp_size) fail("ldmatrix needs whole warps");
  collect("ldmatrix", line, ~0u, both, 2, transposed ? exchange_rows<true> : exchange_rows<false>);
  for (int i = 0; i < 4; i++) words[i] = uint32_t(both[i / 2] >> 32 * (i % 2));
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
