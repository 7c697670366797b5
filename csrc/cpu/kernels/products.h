// Matrix products: a block of the result is added up in registers. Only kernels.cpp includes this file, so it is
// compiled once for each instruction set.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "rows.h"

namespace fastssm::cpu {
namespace {

// A block of kBlockRows x kBlockVectors vectors, one row of b and one number of a fit the registers.
#if defined(__AVX512F__)
constexpr int kBlockRows = 14, kBlockVectors = 2;
#elif defined(__aarch64__)
constexpr int kBlockRows = 6, kBlockVectors = 4;
#else
constexpr int kBlockRows = 6, kBlockVectors = 2;
#endif
constexpr int64_t kDepth = 256;  // rows of b at a time: a panel of them stays in the first-level cache

template <class T>
constexpr int64_t kPanel = kBlockVectors* native_lanes<T>;
static_assert(kPanel<float> % kAlign == 0 || kAlign % kPanel<float> == 0);

enum class Stored { by_rows, by_columns };  // how a lies in memory: [m, k], or [k, m]

// What a block is computed from: k steps through a and b.
template <class T>
struct Strip {
  int64_t k;
  const T* a;
  int64_t lda;
  const T* b;
  int64_t ldb;
  T* c;
  int64_t ldc;
  bool accumulate;
};

// c (+)= a b for ROWS rows and VECTORS vectors of columns. What c holds is added last, and fetched meanwhile.
template <int ROWS, int VECTORS, Stored STORED, class T>
void block(const Strip<T>& strip) {
  constexpr int lanes = native_lanes<T>;
  const int64_t lda = strip.lda, ldb = strip.ldb, ldc = strip.ldc;
  const T *a = strip.a, *b = strip.b;
  T* c = strip.c;
  Native<T> sums[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) {
      sums[i][j] = Native<T>(T(0));
      __builtin_prefetch(c + i * ldc + j * lanes, 1);
    }
  for (int64_t p = 0; p < strip.k; p++, a += STORED == Stored::by_rows ? 1 : lda, b += ldb) {
    Native<T> of_b[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) of_b[j] = load(b + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      const Native<T> factor(STORED == Stored::by_rows ? a[i * lda] : a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) sums[i][j] = add_inner(sums[i][j], factor, of_b[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) {
      T* at = c + i * ldc + j * lanes;
      store(at, strip.accumulate ? load(at) + sums[i][j] : sums[i][j]);
    }
}

// The block of any number of rows up to kBlockRows.
template <int VECTORS, Stored STORED, class T, size_t... I>
constexpr auto blocks_of(std::index_sequence<I...>) {
  return std::array{block<static_cast<int>(I) + 1, VECTORS, STORED, T>...};
}

// A panel of c, VECTORS vectors wide: blocks and pieces of b of nearly equal heights.
template <int VECTORS, Stored STORED, class T>
void panel(int64_t m, Strip<T> whole) {
  static constexpr auto blocks = blocks_of<VECTORS, STORED, T>(std::make_index_sequence<kBlockRows>());
  const int64_t count = (m + kBlockRows - 1) / kBlockRows, height = m / count, taller = m % count;
  const int64_t down = STORED == Stored::by_rows ? whole.lda : 1, along = STORED == Stored::by_rows ? 1 : whole.lda;
  const int64_t pieces = (whole.k + kDepth - 1) / kDepth, depth = (whole.k + pieces - 1) / pieces;
  for (int64_t p = 0; p < whole.k; p += depth) {
    Strip<T> strip = whole;
    strip.k = least(depth, whole.k - p);
    strip.a += p * along;
    strip.b += p * whole.ldb;
    strip.accumulate = whole.accumulate || p > 0;
    for (int64_t n = 0; n < count; n++) {
      const int64_t rows = height + (n < taller);
      blocks[rows - 1](strip);
      strip.a += rows * down;
      strip.c += rows * whole.ldc;
    }
  }
}

// A panel of c with a given number of vectors.
template <Stored STORED, class T, int VECTORS = kBlockVectors>
void panel_of(int64_t vectors, int64_t m, const Strip<T>& strip) {
  if constexpr (VECTORS > 1) {
    if (vectors < VECTORS) return panel_of<STORED, T, VECTORS - 1>(vectors, m, strip);
  }
  panel<VECTORS, STORED>(m, strip);
}

// c [m, n] (+)= a [m, k] b, where b lies in panels [n / panel][k][panel], and n and the panels are whole vectors wide.
template <class T>
void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, T* c, int64_t ldc,
              bool accumulate) {
  if (m == 0) return;
  for (int64_t j = 0; j < n; j += kPanel<T>) {
    const int64_t width = least(kPanel<T>, n - j);
    panel_of<Stored::by_rows, T>(width / native_lanes<T>, m, {k, a, lda, b + j * k, width, c + j, ldc, accumulate});
  }
}

// c [m, n] (+)= a^T b of a [k, m] and b [k, n]. Rows of b are whole vectors long, rows of c need not be.
template <class T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                         int64_t ldc, bool accumulate) {
  for (int64_t j = 0; j < n; j += kPanel<T>) {
    const int64_t width = least(kPanel<T>, n - j), vectors = (width + native_lanes<T> - 1) / native_lanes<T>;
    if (width % native_lanes<T> == 0) {
      panel_of<Stored::by_columns, T>(vectors, m, {k, a, lda, b + j, ldb, c + j, ldc, accumulate});
      continue;
    }
    for (int64_t i = 0; i < m; i += kBlockRows) {  // through a block that is wide enough
      const int64_t rows = least(kBlockRows, m - i);
      T edge[kBlockRows * kPanel<T>];
      panel_of<Stored::by_columns, T>(vectors, rows, {k, a + i, lda, b + j, ldb, edge, kPanel<T>, false});
      for (int64_t r = 0; r < rows; r++)
        for (int64_t q = 0; q < width; q++) {
          T& out = c[(i + r) * ldc + j + q];
          out = edge[r * kPanel<T> + q] + (accumulate ? out : T(0));
        }
    }
  }
}

}  // namespace
}  // namespace fastssm::cpu
