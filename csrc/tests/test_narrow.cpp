// How operands of products of bfloat16 are laid out, for every instruction set that the processor has, or for one.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "../cpu/kernels/kernels.h"
#include "check.h"

using namespace fastssm;

namespace {

float widened(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// Numbers that bfloat16 holds.
std::vector<float> numbers(int64_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<float> out(count);
  for (float& value : out) value = float(int(random() % 17) - 8);
  return out;
}

// How rows become operands: rounded, interleaved and transposed, with zeros for what is not there.
void test_operands(cpu::Level level) {
  const cpu::Kernels<float>& kernels = cpu::kernels<float>(level);
  for (int64_t rows : {1, 2, 31, 32, 33, 65})
    for (int64_t columns : {1, 7, 16, 33, 64, 100}) {
      const std::vector<float> a = numbers(rows * columns, 4);
      const int64_t ld = columns + 29, deep = (rows + 31) / 32 * 32;
      std::vector<uint16_t> narrow(rows * ld, 1), pairs(deep * columns, 1), turned(columns * deep, 1);
      kernels.narrow(rows, columns, a.data(), columns, narrow.data(), ld);
      kernels.interleave(rows, deep, columns, narrow.data(), ld, pairs.data());
      kernels.transpose_narrow(rows, deep, columns, narrow.data(), ld, turned.data());
      bool right = true;
      for (int64_t r = 0; r < deep; r++)
        for (int64_t j = 0; j < ld; j++) {
          const float expected = r < rows && j < columns ? a[r * columns + j] : 0;
          if (r < rows) right &= widened(narrow[r * ld + j]) == expected;
          if (j < columns) right &= widened(pairs[r / 2 * 2 * columns + 2 * j + r % 2]) == expected;
          if (j < columns) right &= widened(turned[j * deep + r]) == expected;
        }
      CHECK(right);
    }
}

}  // namespace

int main(int argc, char** argv) {
  for (cpu::Level level : {cpu::Level::baseline, cpu::Level::avx2, cpu::Level::avx512})
    if (cpu::supported(level) && (argc < 2 || std::strcmp(argv[1], cpu::name(level)) == 0)) test_operands(level);
  return CHECKED();
}
