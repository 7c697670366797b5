// Matrix products: a block of the result is added up in registers. Only kernels.cpp includes this file, so it is
// compiled once for each instruction set.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels.h"
#include "rows.h"

namespace fastssm::cpu {
namespace {

// A block of so many rows and vectors, with a row of b and a number of a, fits the registers. More rows and fewer
// vectors are slower where rows of c are a power of two apart: they would share a few lines of the first-level cache.
#if defined(__aarch64__)
constexpr int kRows = 5, kBlockVectors = 4;  // with 6 rows GCC, which fetches all numbers of a first, keeps sums in memory
#elif defined(__AVX512F__)
constexpr int kRows = 6, kBlockVectors = 4;
#else
constexpr int kRows = 6, kBlockVectors = 2;
#endif
template <int VECTORS>
constexpr int kBlockRows = VECTORS == 1 ? 12 : kRows;  // a block needs enough sums to overlap their additions

constexpr int64_t kDepth = kBlockVectors > 2 ? 128 : 256;  // rows of b at a time: they stay in the first-level cache
constexpr int64_t kLine = 64;  // bytes of a cache
constexpr int64_t kBytes = (kBlockVectors > 2 ? 1024 : 512) * 1024;  // of a at a time, for the second-level cache

// From so many blocks on, and where rows of b are so many bytes apart, it pays to copy the rows side by side.
constexpr int64_t kCopyBlocks = 16, kCopyApart = 2048;

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

// The blocks of every number of rows.
template <int VECTORS, Stored STORED, class T, size_t... I>
constexpr auto blocks_of(std::index_sequence<I...>) {
  return std::array{block<static_cast<int>(I) + 1, VECTORS, STORED, T>...};
}

// Copies k rows of b, VECTORS vectors wide, to where they lie side by side.
template <int VECTORS, class T>
void copy_rows(int64_t k, const T* b, int64_t ldb, T* out) {
  for (int64_t p = 0; p < k; p++, b += ldb, out += VECTORS * native_lanes<T>)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) store(out + j * native_lanes<T>, load(b + j * native_lanes<T>));
}

// Has memory that is needed soon brought to the second-level cache.
void fetch(const void* memory, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; i += kLine) __builtin_prefetch(static_cast<const char*>(memory) + i, 0, 2);
}

// A panel of c, VECTORS vectors wide: blocks and pieces of b of nearly equal heights.
template <int VECTORS, Stored STORED, class T>
void panel(int64_t m, Strip<T> whole) {
  static constexpr auto blocks = blocks_of<VECTORS, STORED, T>(std::make_index_sequence<kBlockRows<VECTORS>>());
  const int64_t count = (m + kBlockRows<VECTORS> - 1) / kBlockRows<VECTORS>, height = m / count, taller = m % count;
  const int64_t down = STORED == Stored::by_rows ? whole.lda : 1, along = STORED == Stored::by_rows ? 1 : whole.lda;
  const int64_t pieces = (whole.k + kDepth - 1) / kDepth, depth = (whole.k + pieces - 1) / pieces;
  constexpr int64_t width = VECTORS * native_lanes<T>;
  const bool copies = count >= kCopyBlocks && whole.ldb * static_cast<int64_t>(sizeof(T)) >= kCopyApart;
  T copied[STORED == Stored::by_columns ? kDepth * width : 1];
  for (int64_t p = 0; p < whole.k; p += depth) {
    Strip<T> strip = whole;
    strip.k = least(depth, whole.k - p);
    strip.a += p * along;
    strip.b += p * whole.ldb;
    strip.accumulate = whole.accumulate || p > 0;
    if (STORED == Stored::by_columns && copies) {
      copy_rows<VECTORS>(strip.k, strip.b, strip.ldb, copied);
      strip.b = copied;
      strip.ldb = width;
    }
    // Each block fetches a part of what follows in a packed b: the next piece, or that of the next panel.
    const int64_t share = strip.k * width * static_cast<int64_t>(sizeof(T)) / count;
    for (int64_t n = 0; n < count; n++) {
      const int64_t rows = height + (n < taller);
      if (STORED == Stored::by_rows) fetch(strip.b + strip.k * width, n * share, (n + 1) * share);
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

// How many rows of c to compute at a time, for the sake of a.
template <class T>
int64_t rows_at_once(int64_t m, int64_t k) {
  const int64_t parts = (m * k * static_cast<int64_t>(sizeof(T)) + kBytes / 2) / kBytes;
  if (parts < 2) return m;
  constexpr int64_t rows = kBlockRows<kBlockVectors>;
  return (m + parts * rows - 1) / (parts * rows) * rows;
}

// c [m, n] (+)= a [m, k] b, where b lies in panels [n / panel][k][panel], and n and the panels are whole vectors wide.
template <class T>
void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, T* c, int64_t ldc,
              bool accumulate) {
  const int64_t most = rows_at_once<T>(m, k);
  for (int64_t i = 0; i < m; i += most)
    for (int64_t j = 0; j < n; j += kPanel<T>) {
      const int64_t width = least(kPanel<T>, n - j);
      panel_of<Stored::by_rows, T>(width / native_lanes<T>, least(most, m - i),
                                   {k, a + i * lda, lda, b + j * k, width, c + i * ldc + j, ldc, accumulate});
    }
}

// c (+)= a^T b of a [k, m] and b [k, n], where c [m, n] lies in panels [n / panel][m][panel], and n and the panels are
// whole vectors wide.
template <class T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                         bool accumulate) {
  const int64_t most = rows_at_once<T>(m, k);
  for (int64_t i = 0; i < m; i += most)
    for (int64_t j = 0; j < n; j += kPanel<T>) {
      const int64_t width = least(kPanel<T>, n - j);
      panel_of<Stored::by_columns, T>(width / native_lanes<T>, least(most, m - i),
                                      {k, a + i, lda, b + j, ldb, c + j * m + i * width, width, accumulate});
    }
}

}  // namespace
}  // namespace fastssm::cpu
