#include "gemm.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <limits>

namespace fastssm::torch_gemm {
namespace {

constexpr int64_t kPanel = 64;  // of the micro-kernel: four vectors of AVX-512
constexpr int64_t kWhole = std::numeric_limits<int64_t>::max() / 2 / cpu::kAlign * cpu::kAlign;

template <class T>
void aten(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
          bool accumulate) {
  const c10::InferenceMode guard;
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
  const auto view = [&](const T* p, int64_t rows, int64_t columns, int64_t ld) {
    return at::from_blob(const_cast<T*>(p), {rows, columns}, {ld, 1}, options);
  };
  at::Tensor out = view(c, m, n, ldc);
  if (accumulate) {
    at::cpu::addmm_out(out, out, view(a, m, k, lda), view(b, k, n, ldb));
  } else {
    at::cpu::mm_out(out, view(a, m, k, lda), view(b, k, n, ldb));
  }
}

// For a forked process: there MKL's memory manager, which at::mm calls, can wait forever for a lock.
template <class T>
void plain(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
           bool accumulate) {
  for (int64_t i = 0; i < m; i++) {
    T* row = c + i * ldc;
    if (!accumulate) std::fill_n(row, n, T(0));
    for (int64_t p = 0; p < k; p++) {
      const T factor = a[i * lda + p];
      const T* other = b + p * ldb;
#pragma omp simd
      for (int64_t j = 0; j < n; j++) row[j] += factor * other[j];
    }
  }
}

// at::native::cpublas falls back to slow code where oneDNN has no kernel, so check the processor first.
bool has_micro_kernel() {
  return cpu::level() == cpu::Level::avx512 && at::globalContext().userEnabledMkldnn();
}

#ifdef CPUBLAS_BRGEMM_F32F32F32
void micro_kernel(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                  int64_t ldc, bool accumulate) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, accumulate, a, b, c, false);
}
#endif

#ifdef CPUBLAS_BRGEMM_BF16BF16F32
void bfloat16(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, accumulate, reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c, true);
}

void release() { at::native::cpublas::brgemm_release(true); }
#endif

}  // namespace

bool has_bfloat16() {
#ifdef CPUBLAS_BRGEMM_BF16BF16F32
  return has_micro_kernel();
#else
  return false;
#endif
}

template <>
cpu::Gemms<float> gemms(bool narrow, bool forked) {
  cpu::Gemms<float> out = {"ATen (addmm)", aten<float>, kWhole, nullptr, nullptr};
  if (forked) out = {"loops", plain<float>, kPanel, nullptr, nullptr};
#ifdef CPUBLAS_BRGEMM_F32F32F32
  if (has_micro_kernel()) out = {"oneDNN micro-kernel (brgemm)", micro_kernel, kPanel, nullptr, nullptr};
#endif
#ifdef CPUBLAS_BRGEMM_BF16BF16F32
  if (narrow) out.narrow = bfloat16, out.release = release;
#endif
  return out;
}

template <>
cpu::Gemms<double> gemms(bool, bool forked) {
  if (forked) return {"loops", plain<double>, kPanel, nullptr, nullptr};
  return {"ATen (addmm)", aten<double>, kWhole, nullptr, nullptr};
}

}  // namespace fastssm::torch_gemm
