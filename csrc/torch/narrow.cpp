#include "narrow.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include "../cpu/kernels/kernels.h"

namespace fastssm::torch_products {

#ifdef CPUBLAS_BRGEMM_BF16BF16F32
namespace {

void multiply(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, accumulate, reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c, true);
}

void release() { at::native::cpublas::brgemm_release(true); }

}  // namespace

// at::native::cpublas falls back to slow code where oneDNN has no kernel, so check the processor first.
bool has_bfloat16() { return cpu::level() == cpu::Level::avx512 && at::globalContext().userEnabledMkldnn(); }

cpu::NarrowProducts bfloat16() { return {multiply, release}; }
#else
bool has_bfloat16() { return false; }

cpu::NarrowProducts bfloat16() { return {}; }
#endif

}  // namespace fastssm::torch_products
