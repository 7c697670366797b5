// The interface of products of bfloat16, which only some processors have. Those in full precision are in kernels/.
#pragma once

#include <cstdint>

namespace fastssm::cpu {

struct NarrowProducts {
  // c [m, n] (+)= a [m, k] b, with sums in float32, k even, rows of b in interleaved pairs: b [k / 2, n, 2]. Null where
  // products stay in full precision.
  void (*multiply)(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
                   float* c, int64_t ldc, bool accumulate) = nullptr;
  void (*release)() = nullptr;  // called by a thread after its last product, or null
};

// Scratch of one thread for operands in bfloat16.
struct NarrowScratch {
  uint16_t* a = nullptr;
  uint16_t* b = nullptr;
  float* transposed = nullptr;
};

}  // namespace fastssm::cpu
