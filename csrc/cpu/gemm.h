// The interface of matrix products: row-major, never transposed, called from one thread.
#pragma once

#include <cstdint>

namespace fastssm::cpu {

// c [m, n] = a [m, k] b [k, n], or += with `accumulate`.
template <class T>
using Gemm = void (*)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                      int64_t ldc, bool accumulate);

// The same from bfloat16, k even, rows of b in interleaved pairs: b [k / 2, n, 2].
using NarrowGemm = void (*)(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b,
                            int64_t ldb, float* c, int64_t ldc, bool accumulate);

template <class T>
struct Gemms {
  const char* name;
  Gemm<T> gemm;
  int64_t panel;      // the widest b that it multiplies efficiently, a multiple of kAlign
  NarrowGemm narrow;  // null for products in full precision
  void (*release)();  // called by a thread after its last product, or null
};

}  // namespace fastssm::cpu
