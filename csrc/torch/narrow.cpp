#include "narrow.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>

#include "../cpu/kernels/kernels.h"

namespace fastssm::torch_products {

#ifdef CPUBLAS_BRGEMM_BF16BF16F32
namespace {

constexpr int64_t kPanel = 64;
constexpr int64_t kStep = 32;   // a row of a register of AMX: a shorter rest would be slower
constexpr int64_t kRows = 256;  // of a at a time: they stay in the second-level cache

void multiply(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, float* c, int64_t ldc,
              bool accumulate) {
  for (int64_t j = 0; j < n; j += kPanel)
    for (int64_t i = 0; i < m; i += kRows) {
      const int64_t width = std::min(kPanel, n - j);
      at::native::cpublas::brgemm(std::min(kRows, m - i), width, k, lda, width, ldc, accumulate,
                                  reinterpret_cast<const at::BFloat16*>(a + i * lda),
                                  reinterpret_cast<const at::BFloat16*>(b + j * k), c + i * ldc + j, true);
    }
}

void release() { at::native::cpublas::brgemm_release(true); }

}  // namespace

// at::native::cpublas falls back to slow code where oneDNN has no kernel, so check the processor first.
bool has_bfloat16() { return cpu::level() == cpu::Level::avx512 && at::globalContext().userEnabledMkldnn(); }

cpu::NarrowProducts bfloat16() {
  return {kPanel, kStep, multiply, release};
}
#else
bool has_bfloat16() { return false; }

cpu::NarrowProducts bfloat16() { return {}; }
#endif

}  // namespace fastssm::torch_products
