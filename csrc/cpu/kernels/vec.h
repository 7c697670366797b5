// SIMD vectors through the compiler's vector extensions: the same text becomes AVX-512, AVX2, SSE2 or NEON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "../../maths/numerics.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // about calls that pass vectors; here every one is inlined
#endif

namespace fastssm {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// How many numbers of type T a register holds.
template <class T>
constexpr int native_lanes = vector_bytes / static_cast<int>(sizeof(T));

// The signed integer as wide as T.
template <int BYTES>
struct IntegerOf;
template <>
struct IntegerOf<2> {
  using type = int16_t;
};
template <>
struct IntegerOf<4> {
  using type = int32_t;
};
template <>
struct IntegerOf<8> {
  using type = int64_t;
};
template <class T>
using integer_of = typename IntegerOf<sizeof(T)>::type;

// The compiler's own vector of N numbers.
template <class T, int N>
struct NativeVector {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using native_vector = typename NativeVector<T, N>::type;

// For each lane of a Vec<T, N> whether something holds: all bits or none.
template <class T, int N>
struct Mask {
  native_vector<integer_of<T>, N> lanes;

  friend FASTSSM_INLINE Mask operator&(Mask a, Mask b) { return {a.lanes & b.lanes}; }
  friend FASTSSM_INLINE Mask operator|(Mask a, Mask b) { return {a.lanes | b.lanes}; }
  friend FASTSSM_INLINE Mask operator!(Mask a) { return {~a.lanes}; }
};

// N numbers of type T; a scalar of type T stands for N equal ones.
template <class T, int N>
struct Vec {
  using Native = native_vector<T, N>;
  using Integers = native_vector<integer_of<T>, N>;
  Native lanes;

  FASTSSM_INLINE Vec() : lanes{} {}
  FASTSSM_INLINE Vec(Native v) : lanes(v) {}
  FASTSSM_INLINE Vec(T s) : lanes(s - Native{}) {}

  // The address need not be aligned.
  static FASTSSM_INLINE Vec load(const T* p) {
    Native v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  FASTSSM_INLINE void store(T* p) const { std::memcpy(p, &lanes, sizeof lanes); }

  FASTSSM_INLINE T operator[](int lane) const { return lanes[lane]; }

  friend FASTSSM_INLINE Vec operator-(Vec a) { return -a.lanes; }
  friend FASTSSM_INLINE Vec operator+(Vec a, Vec b) { return a.lanes + b.lanes; }
  friend FASTSSM_INLINE Vec operator-(Vec a, Vec b) { return a.lanes - b.lanes; }
  friend FASTSSM_INLINE Vec operator*(Vec a, Vec b) { return a.lanes * b.lanes; }
  friend FASTSSM_INLINE Vec operator/(Vec a, Vec b) { return a.lanes / b.lanes; }
  FASTSSM_INLINE Vec& operator+=(Vec b) { return *this = *this + b; }
  FASTSSM_INLINE Vec& operator-=(Vec b) { return *this = *this - b; }
  FASTSSM_INLINE Vec& operator*=(Vec b) { return *this = *this * b; }
  FASTSSM_INLINE Vec& operator/=(Vec b) { return *this = *this / b; }

  friend FASTSSM_INLINE Mask<T, N> operator<(Vec a, Vec b) { return {a.lanes < b.lanes}; }
  friend FASTSSM_INLINE Mask<T, N> operator>(Vec a, Vec b) { return {a.lanes > b.lanes}; }
  friend FASTSSM_INLINE Mask<T, N> operator<=(Vec a, Vec b) { return {a.lanes <= b.lanes}; }
  friend FASTSSM_INLINE Mask<T, N> operator>=(Vec a, Vec b) { return {a.lanes >= b.lanes}; }
  friend FASTSSM_INLINE Mask<T, N> operator==(Vec a, Vec b) { return {a.lanes == b.lanes}; }
  friend FASTSSM_INLINE Mask<T, N> operator!=(Vec a, Vec b) { return {a.lanes != b.lanes}; }

  friend FASTSSM_INLINE Vec where(Mask<T, N> condition, Vec a, Vec b) {
    if constexpr (vector_bytes > 16) return condition.lanes ? a.lanes : b.lanes;
    const Integers m = condition.lanes;  // SSE2 cannot compare these with zero
    return Native((m & Integers(a.lanes)) | (~m & Integers(b.lanes)));
  }
  // min(a, bound), NaN where a is NaN.
  friend FASTSSM_INLINE Vec minimum(Vec a, Vec bound) { return bound.lanes < a.lanes ? bound.lanes : a.lanes; }
  // max(a, bound), NaN where a is NaN.
  friend FASTSSM_INLINE Vec maximum(Vec a, Vec bound) { return bound.lanes > a.lanes ? bound.lanes : a.lanes; }
};

template <class T, int N>
struct ScalarOf<Vec<T, N>> {
  using type = T;
};

// The lanes L of a and b together.
template <class T, int... L, class V>
FASTSSM_INLINE V shuffle(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, L...);
#else
  return __builtin_shuffle(a, b, native_vector<integer_of<T>, sizeof...(L)>{L...});
#endif
}

// Adds to each lane the one STEP further on, then half the step, and so on.
template <int STEP, class T, int N, size_t... I>
FASTSSM_INLINE T sum_of_lanes(Vec<T, N> a, std::index_sequence<I...> lanes) {
  if constexpr (STEP == 0) {
    return a[0];
  } else {
    const Vec<T, N> moved = shuffle<T, (static_cast<int>(I) + STEP) % N...>(a.lanes, a.lanes);
    return sum_of_lanes<STEP / 2>(a + moved, lanes);
  }
}

// The sum of all lanes, halves first.
template <class T, int N>
FASTSSM_INLINE T sum(Vec<T, N> a) {
  return sum_of_lanes<N / 2>(a, std::make_index_sequence<N>());
}

// Whether the condition holds in any lane.
template <class T, int N>
FASTSSM_INLINE bool any(Mask<T, N> mask) {
  uint64_t words[sizeof mask / 8], found = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (uint64_t word : words) found |= word;
  return found != 0;
}

// ---- bfloat16 ----

// The nearest bfloat16, ties to even, as its bits; a NaN stays one.
FASTSSM_INLINE uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The same for every lane, in the low half of 32 bits.
template <int N>
FASTSSM_INLINE native_vector<uint32_t, N> to_bfloat16(Vec<float, N> a) {
  const auto bits = (native_vector<uint32_t, N>)a.lanes;
  const auto rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return a.lanes != a.lanes ? (bits >> 16 | 0x40) : rounded;
}

template <int N>
FASTSSM_INLINE void store_bfloat16(Vec<float, N> a, uint16_t* out) {
  const auto narrow = __builtin_convertvector(to_bfloat16(a), native_vector<uint16_t, N>);
  std::memcpy(out, &narrow, sizeof narrow);
}

// ---- transposition ----

// The lanes of a and b from FIRST on, in turns: a0 b0 a1 b1 ...
template <int FIRST, class T, class V, size_t... I>
FASTSSM_INLINE V interleave(V a, V b, std::index_sequence<I...>) {
  return shuffle<T, (static_cast<int>(I / 2 + I % 2 * sizeof...(I)) + FIRST)...>(a, b);
}

// Transposes N x N numbers in registers: log2(N) perfect shuffles of the rows.
template <class T, int N>
FASTSSM_INLINE void transpose_block(const T* a, ptrdiff_t lda, T* out, ptrdiff_t ldo) {
  using V = native_vector<T, N>;
  const auto indices = std::make_index_sequence<N>();
  V rows[N], next[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) std::memcpy(&rows[i], a + i * lda, sizeof(V));
#pragma GCC unroll 4
  for (int stage = 1; stage < N; stage *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; i++) {
      next[2 * i] = interleave<0, T>(rows[i], rows[i + N / 2], indices);
      next[2 * i + 1] = interleave<N / 2, T>(rows[i], rows[i + N / 2], indices);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) rows[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) std::memcpy(out + i * ldo, &rows[i], sizeof(V));
}

// out[j, i] = a[i, j]: whole blocks of N x N first, then the strips beside and below them in smaller ones.
template <class T, int N = native_lanes<T>>
FASTSSM_INLINE void transpose(const T* a, ptrdiff_t lda, T* out, ptrdiff_t ldo, ptrdiff_t rows, ptrdiff_t columns) {
  if constexpr (N == 1) {
    for (ptrdiff_t i = 0; i < rows; i++)
      for (ptrdiff_t j = 0; j < columns; j++) out[j * ldo + i] = a[i * lda + j];
  } else {
    const ptrdiff_t whole_rows = rows - rows % N, whole_columns = columns - columns % N;
    for (ptrdiff_t i = 0; i < whole_rows; i += N)
      for (ptrdiff_t j = 0; j < whole_columns; j += N)
        transpose_block<T, N>(a + i * lda + j, lda, out + j * ldo + i, ldo);
    if (whole_columns < columns)
      transpose<T, N / 2>(a + whole_columns, lda, out + whole_columns * ldo, ldo, whole_rows, columns - whole_columns);
    if (whole_rows < rows)
      transpose<T, N / 2>(a + whole_rows * lda, lda, out + whole_rows, ldo, rows - whole_rows, columns);
  }
}

}  // namespace fastssm
