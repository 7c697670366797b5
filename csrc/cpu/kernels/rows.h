// Operations on rows, for the passes of kernels.cpp. Only that file includes this one, so all of it is compiled once
// for each instruction set, and is local to that object file.
#pragma once

#include <cstdint>

#include "../../maths/sweep.h"
#include "signs.h"
#include "vec.h"

namespace fastssm::cpu {
namespace {

constexpr int64_t kSamples = 16;  // block of the passes down and of transpositions
constexpr int64_t kColumns = 64;

template <class T>
using Native = Vec<T, native_lanes<T>>;

template <class T>
FASTSSM_INLINE Native<T> load(const T* p) {
  return Native<T>::load(p);
}

template <class T>
FASTSSM_INLINE void store(T* p, Native<T> v) {
  v.store(p);
}

FASTSSM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- rows ------------------------------------------------------------------------------------------------------

template <class T>
FASTSSM_INLINE T dot(int64_t width, const T* a, const T* b) {
  Native<T> even(T(0)), odd(T(0));  // two chains of additions, so that they overlap
  int64_t j = 0;
  for (; j + 2 * native_lanes<T> <= width; j += 2 * native_lanes<T>) {
    even = add_inner(even, load(a + j), load(b + j));
    odd = add_inner(odd, load(a + j + native_lanes<T>), load(b + j + native_lanes<T>));
  }
  for (; j < width; j += native_lanes<T>) even = add_inner(even, load(a + j), load(b + j));
  return sum(even + odd);
}

template <class T>
void dots(int64_t rows, int64_t width, const T* a, int64_t ld, const T* w, T* out) {
  for (int64_t r = 0; r < rows; r++) out[r] = dot(width, a + r * ld, w);
}

template <class T>
void pair_dots(int64_t rows, int64_t width, const T* a, int64_t lda, const T* b, int64_t ldb, T* out) {
  for (int64_t r = 0; r < rows; r++) out[r] += dot(width, a + r * lda, b + r * ldb);
}

template <class T>
void weighted_sum(int64_t rows, int64_t width, const T* a, int64_t ld, const T* coefficient, T* out) {
  for (int64_t j = 0; j < width; j += native_lanes<T>) {
    Native<T> total(T(0));
    for (int64_t r = 0; r < rows; r++) total = add_inner(total, load(a + r * ld + j), Native<T>(coefficient[r]));
    store(out + j, load(out + j) + total);
  }
}

template <class T>
void scaled(int64_t rows, int64_t width, const T* a, int64_t a_ld, const T* coefficient, T* out, int64_t ld,
            bool accumulate) {
  for (int64_t r = 0; r < rows; r++) {
    const Native<T> c(coefficient[r]);
    for (int64_t j = 0; j < width; j += native_lanes<T>) {
      const Native<T> term = c * load(a + r * a_ld + j);
      store(out + r * ld + j, accumulate ? load(out + r * ld + j) + term : term);
    }
  }
}

template <class T>
void transpose_rows(int64_t rows, int64_t columns, const T* a, int64_t lda, T* out, int64_t ldo) {
  for (int64_t r = 0; r < rows; r += kSamples)
    for (int64_t j = 0; j < columns; j += kColumns)
      transpose(a + r * lda + j, lda, out + j * ldo + r, ldo, least(kSamples, rows - r), least(kColumns, columns - j));
}

template <class T>
void add(int64_t n, const T* a, T* out) {
  int64_t i = 0;
  for (; i + native_lanes<T> <= n; i += native_lanes<T>) store(out + i, load(out + i) + load(a + i));
  for (; i < n; i++) out[i] += a[i];
}

template <class T>
void signs(uint64_t seed, int64_t first_sample, int64_t samples, int64_t projection, int64_t dim, T* out, int64_t ld) {
  signs_rows(seed, first_sample, samples, projection, dim, out, ld);
}

// ---- bfloat16 --------------------------------------------------------------------------------------------------

void narrow(int64_t rows, int64_t columns, const float* a, int64_t lda, uint16_t* out, int64_t ldo) {
  constexpr int64_t n = native_lanes<float>;
  for (int64_t r = 0; r < rows; r++, a += lda, out += ldo) {
    int64_t j = 0;
    for (; j + n <= columns; j += n) store_bfloat16(load(a + j), out + j);
    for (; j < columns; j++) out[j] = to_bfloat16(a[j]);
    for (; j < ldo; j++) out[j] = 0;
  }
}

// Two rows in turns; a row that is not there counts as zeros.
void interleave_pair(int64_t columns, const uint16_t* first, const uint16_t* second, uint32_t* out) {
  constexpr int64_t n = native_lanes<float>;
  typedef native_vector<uint32_t, n> Wide;
  const auto widened = [](const uint16_t* p) {
    native_vector<uint16_t, n> narrow;
    __builtin_memcpy(&narrow, p, sizeof narrow);
    return __builtin_convertvector(narrow, Wide);
  };
  int64_t j = 0;
  for (; j + n <= columns; j += n) {
    const Wide pair = (first ? widened(first + j) : Wide{}) | (second ? widened(second + j) : Wide{}) << 16;
    __builtin_memcpy(out + j, &pair, sizeof pair);
  }
  for (; j < columns; j++) out[j] = uint32_t(first ? first[j] : 0) | uint32_t(second ? second[j] : 0) << 16;
}

void interleave(int64_t rows, int64_t deep, int64_t columns, const uint16_t* a, int64_t lda, uint16_t* out) {
  for (int64_t r = 0; r < deep; r += 2, a += 2 * lda, out += 2 * columns)
    interleave_pair(columns, r < rows ? a : nullptr, r + 1 < rows ? a + lda : nullptr,
                    reinterpret_cast<uint32_t*>(out));
}

// Pairs of rows as numbers of 32 bits, which are transposed.
void transpose_narrow(int64_t rows, int64_t deep, int64_t columns, const uint16_t* a, int64_t lda, uint16_t* out) {
  float pairs[kSamples * kColumns];
  for (int64_t r = 0; r < deep; r += 2 * kSamples)
    for (int64_t j = 0; j < columns; j += kColumns) {
      const int64_t width = least(kColumns, columns - j), height = least(kSamples, (deep - r) / 2);
      for (int64_t i = 0; i < height; i++) {
        const int64_t row = r + 2 * i;
        const uint16_t* from = a + row * lda + j;
        interleave_pair(width, row < rows ? from : nullptr, row + 1 < rows ? from + lda : nullptr,
                        reinterpret_cast<uint32_t*>(pairs + i * kColumns));
      }
      transpose(pairs, kColumns, reinterpret_cast<float*>(out + j * deep + r), deep / 2, height, width);
    }
}

// v to one of two stacks.
template <class T>
FASTSSM_INLINE void put(T* rows, [[maybe_unused]] uint16_t* narrow, int64_t at, Native<T> v) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (narrow) return store_bfloat16(v, narrow + at);
  }
  store(rows + at, v);
}

}  // namespace
}  // namespace fastssm::cpu
