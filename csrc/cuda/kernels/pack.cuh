// Packs of 16 bytes, and how the threads of a block divide rows and columns among them.
#pragma once

#include "portable.cuh"

#include "params.h"

#define FASTSSM_DEVICE __device__ FASTSSM_INLINE

#if defined(FASTSSM_EMULATOR)
#define FASTSSM_UNROLL
#else
#define FASTSSM_UNROLL _Pragma("unroll")
#endif

namespace fastssm::cuda {

// Directions whose loads are issued together; in double, ptxas would have no registers left for more.
template <class T>
constexpr int kAhead = sizeof(T) == sizeof(float) ? 4 : 2;

FASTSSM_DEVICE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
struct alignas(kAccess) Pack {
  T lane[kLanes<T>];
};

// A pack of f(0), f(1), ...
template <class T, class F>
FASTSSM_DEVICE Pack<T> pack_of(const F& f) {
  Pack<T> out;
  FASTSSM_UNROLL
  for (int i = 0; i < kLanes<T>; i++) out.lane[i] = f(i);
  return out;
}

template <class T>
FASTSSM_DEVICE Pack<T> all(T value) {
  return pack_of<T>([&](int) { return value; });
}

template <class T>
FASTSSM_DEVICE Pack<T> operator+(const Pack<T>& a, const Pack<T>& b) {
  return pack_of<T>([&](int i) { return a.lane[i] + b.lane[i]; });
}

template <class T>
FASTSSM_DEVICE Pack<T> operator*(const Pack<T>& a, const Pack<T>& b) {
  return pack_of<T>([&](int i) { return a.lane[i] * b.lane[i]; });
}

template <class T>
FASTSSM_DEVICE Pack<T> load(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}

template <class T>
FASTSSM_DEVICE void store(T* p, const Pack<T>& a) {
  *reinterpret_cast<Pack<T>*>(p) = a;
}
// These use CUDA's own function: for older architectures nvcc splits any other store into single numbers.
FASTSSM_DEVICE void store(float* p, const Pack<float>& a) {
  __stwb(reinterpret_cast<float4*>(p), make_float4(a.lane[0], a.lane[1], a.lane[2], a.lane[3]));
}
FASTSSM_DEVICE void store(double* p, const Pack<double>& a) {
  __stwb(reinterpret_cast<double2*>(p), make_double2(a.lane[0], a.lane[1]));
}

// The first n numbers and zeros after them, from any address.
template <class T>
FASTSSM_DEVICE Pack<T> load_unaligned(const T* p, int64_t n) {
  return pack_of<T>([&](int i) { return i < n ? p[i] : T(0); });
}

// The same of a caller's row: in one access where that is possible.
template <class T>
FASTSSM_DEVICE Pack<T> load_given(const T* p, int64_t n) {
  const bool whole = n >= kLanes<T> && reinterpret_cast<uintptr_t>(p) % kAccess == 0;
  return whole ? load(p) : load_unaligned(p, n);
}

// The first n numbers of a pack of a stack's row, and zeros after them.
template <class T>
FASTSSM_DEVICE Pack<T> load_partial(const T* p, int64_t n) {
  return n < kLanes<T> ? load_unaligned(p, n) : load(p);
}

// Stores the first n numbers to any address, or adds them to what it holds.
template <class T>
FASTSSM_DEVICE void store_unaligned(T* p, int64_t n, const Pack<T>& a, bool add) {
  FASTSSM_UNROLL
  for (int i = 0; i < kLanes<T>; i++)
    if (i < n) p[i] = add ? p[i] + a.lane[i] : a.lane[i];
}

// A thread's first column and first row, the end of its block's rows, and the step between its rows.
struct Place {
  int64_t column, row, end, step;
  FASTSSM_DEVICE Place(const Walk& walk, int64_t rows, int lanes)
      : column((int64_t(blockIdx.x) * walk.row_threads + threadIdx.x % walk.row_threads) * lanes),
        row(int64_t(blockIdx.y) * walk.rows + threadIdx.x / walk.row_threads),
        end(least((int64_t(blockIdx.y) + 1) * walk.rows, rows)),
        step(blockDim.x / walk.row_threads) {}
};

// Fetches and uses the data of tangents 1, 2, ..., and fetches several before it uses the first.
template <class T, class Fetch, class Use>
FASTSSM_DEVICE void for_tangents(int64_t tangents, const Fetch& fetch, const Use& use) {
  for (int64_t first = 1; first <= tangents; first += kAhead<T>) {
    decltype(fetch(first)) ahead[kAhead<T>];
    FASTSSM_UNROLL
    for (int i = 0; i < kAhead<T>; i++)
      if (first + i <= tangents) ahead[i] = fetch(first + i);
    FASTSSM_UNROLL
    for (int i = 0; i < kAhead<T>; i++)
      if (first + i <= tangents) use(first + i, ahead[i]);
  }
}

}  // namespace fastssm::cuda
