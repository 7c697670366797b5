// The interface of products of bfloat16, which only some processors have. Those in full precision are in kernels/.
#pragma once

#include <cstdint>

namespace fastssm::cpu {

struct NarrowProducts {
  int64_t panel = 0;  // columns of a panel of b
  int64_t step = 2;   // what k is a multiple of, an even number
  // c [m, n] (+)= a [m, k] b, with sums in float32, where b lies in panels of interleaved pairs of rows:
  // [n / panel][k / 2][panel][2], the last one narrower. Null where products stay in full precision.
  void (*multiply)(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, float* c,
                   int64_t ldc, bool accumulate) = nullptr;
  void (*release)() = nullptr;  // called by a thread after its last product, or null

  int64_t deep(int64_t k) const { return (k + step - 1) / step * step; }
};

// Scratch of one thread for operands in bfloat16.
struct NarrowScratch {
  uint16_t* rows = nullptr;
  uint16_t* transposed = nullptr;
  uint16_t* interleaved = nullptr;
};

}  // namespace fastssm::cpu
