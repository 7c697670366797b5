// cublasGemmEx for tests: naive sums in float64 of float32 or bfloat16 numbers, and what it is asked for.
#pragma once

#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

namespace cublas {

using fastssm::cuda::View;

// The one handle that there is; `seen` hears of every product, with the bytes of a number of its operands.
struct Handle {
  std::function<void(int m, int n, int k, bool accumulate, size_t bytes)> seen = [](int, int, int, bool, size_t) {};
};
inline Handle handle;

// One entry of a column-major matrix, as cuBLAS's documentation numbers them.
inline double entry(const void* p, int type, int transpose, int ld, int row, int column) {
  if (transpose == 1) std::swap(row, column);
  const size_t at = size_t(column) * ld + row;
  if (type == 0) return static_cast<const float*>(p)[at];
  const uint32_t word = uint32_t(static_cast<const uint16_t*>(p)[at]) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Returns cuBLAS's status for what it refuses.
inline int gemm_ex(void* given, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a,
                   int type_a, int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c,
                   int ldc, int compute, int algorithm) {
  constexpr int invalid = 7, not_supported = 15;
  const int rows_a = transpose_a ? k : m, rows_b = transpose_b ? n : k;
  if (given != &handle || lda < rows_a || ldb < rows_b || ldc < m || algorithm != -1) return invalid;
  const bool tf32 = type_a == 0 && compute == 77, bf16 = type_a == 14 && compute == 68;
  if (type_a != type_b || type_c != 0 || !(tf32 || bf16)) return not_supported;
  float* out = static_cast<float*>(c);
  const float factor = *static_cast<const float*>(alpha), before = *static_cast<const float*>(beta);
  handle.seen(m, n, k, before != 0, bf16 ? sizeof(uint16_t) : sizeof(float));
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      double sum = 0;
      for (int l = 0; l < k; l++)
        sum += entry(a, type_a, transpose_a, lda, i, l) * entry(b, type_b, transpose_b, ldb, l, j);
      float& to = out[size_t(j) * ldc + i];
      to = float(factor * sum) + (before == 0 ? 0 : before * to);
    }
  return 0;
}

// A matrix row by row in bfloat16, each number rounded to the nearest, ties to even.
inline std::vector<uint16_t> narrowed(View<const float> v) {
  std::vector<uint16_t> out;
  for (int64_t i = 0; i < v.rows; i++)
    for (int64_t j = 0; j < v.columns; j++) {
      const float x = v.p[i * v.row_stride + j * v.column_stride];
      uint32_t word;
      std::memcpy(&word, &x, sizeof word);
      out.push_back(x != x ? 0x7FFF : (word + 0x7FFF + (word >> 16 & 1)) >> 16);
    }
  return out;
}

// The product of float32 operands rounded to bfloat16: the same sums as `gemm_ex` of operands that are so already.
inline void rounded(View<const float> a, View<const float> b, View<float> c, bool accumulate) {
  const float one = 1, before = accumulate;
  const auto left = narrowed(a), right = narrowed(b);
  const int m = int(c.rows), n = int(c.columns), k = int(a.columns), ld = int(c.row_stride);
  gemm_ex(&handle, 0, 0, n, m, k, &one, right.data(), 14, n, left.data(), 14, k, &before, c.p, 0, ld, 68, -1);
}

}  // namespace cublas
