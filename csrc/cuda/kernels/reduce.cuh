// Sums in a fixed order: of a row by the lanes of a warp; of a column by the threads of a block, and then over blocks.
#pragma once

#include "../../maths/sweep.h"
#include "pack.cuh"

namespace fastssm::cuda {

// The sum over a warp, in every lane.
template <class T>
FASTSSM_DEVICE T warp_sum(T value) {
  FASTSSM_UNROLL
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(0xFFFFFFFF, value, apart);
  return value;
}

template <class T>
FASTSSM_DEVICE T sum_of(const Pack<T>& a) {
  T sum = a.lane[0];
  FASTSSM_UNROLL
  for (int i = 1; i < kLanes<T>; i++) sum += a.lane[i];
  return sum;
}

// sum_j first(j) second(j) over packs of columns, by one warp. The functions return zeros from `width` on.
template <class T, class First, class Second>
FASTSSM_DEVICE T warp_dot(int64_t width, const First& first, const Second& second) {
  Pack<T> sums = all(T(0));
  for (int64_t j = threadIdx.x % kWarp * kLanes<T>; j < width; j += kWarp * kLanes<T>)
    sums = add_inner(sums, first(j, width - j), second(j, width - j));
  return warp_sum(sum_of(sums));
}

// A row of a stack, and a row of the caller's, as functions of a column and the number of columns left.
template <class T>
FASTSSM_DEVICE auto aligned_row(const T* row) {
  return [=](int64_t j, int64_t left) { return load_partial(row + j, left); };
}
template <class T>
FASTSSM_DEVICE auto unaligned_row(const T* row) {
  return [=](int64_t j, int64_t left) { return load_unaligned(row + j, left); };
}

// The sums of two numbers over a block's warps, in the first thread. All lanes of a warp hold the same numbers.
template <class T>
struct Two {
  T first, second;
};

template <class T>
FASTSSM_DEVICE Two<T> block_sums(T first, T second) {
  FASTSSM_SHARED(Two<T>, sums);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = {first, second};
  __syncthreads();
  Two<T> total{T(0), T(0)};
  for (unsigned w = 0; threadIdx.x == 0 && w < blockDim.x / kWarp; w++)
    total = {total.first + sums[w].first, total.second + sums[w].second};
  return total;
}

// The sums over a block's rows of threads, in the threads of the first row.
template <class T>
FASTSSM_DEVICE Pack<T> fold(const Pack<T>& own, int row_threads) {
  FASTSSM_SHARED(Pack<T>, sums);
  sums[threadIdx.x] = own;
  __syncthreads();
  Pack<T> total = own;
  for (unsigned i = threadIdx.x + row_threads; threadIdx.x < unsigned(row_threads) && i < blockDim.x; i += row_threads)
    total = total + sums[i];
  return total;
}

// Ends a pass that adds up columns: stores the block's sums in its partial row.
template <class T>
FASTSSM_DEVICE void leave_partial(const Pack<T>& own, const Place& place, int row_threads, int64_t ld, T* partial,
                                  bool add) {
  const Pack<T> total = fold(own, row_threads);
  if (threadIdx.x >= unsigned(row_threads) || place.column >= ld) return;
  T* out = partial + int64_t(blockIdx.y) * ld + place.column;
  store(out, add ? load(out) + total : total);
}

template <class T>
FASTSSM_DEVICE void weighted_sum_rows(const WeightedSum<T>& a) {
  const Place place(a.walk, a.rows, kLanes<T>);
  Pack<T> total = all(T(0));
  for (int64_t row = place.row; row < place.end && place.column < a.ld; row += place.step)
    total = add_inner(total, load(a.a + row * a.ld + place.column), all(a.coefficients ? a.coefficients[row] : T(1)));
  leave_partial(total, place, a.walk.row_threads, a.ld, a.partial, a.add);
}

// Block (x, y) adds up columns of the y-th segment.
template <class T>
FASTSSM_DEVICE void finish_rows(const Finish<T>& a) {
  Segment<T> segment = a.segments[0];
  FASTSSM_UNROLL
  for (int i = 1; i < kSegments; i++)
    if (blockIdx.y == unsigned(i)) segment = a.segments[i];
  const int64_t column = (int64_t(blockIdx.x) * kFinished + threadIdx.x % kFinished) * kLanes<T>;
  Pack<T> total = all(T(0));
  for (int64_t row = threadIdx.x / kFinished; row < segment.rows && column < segment.ld; row += blockDim.x / kFinished)
    total = total + load(segment.partial + row * segment.ld + column);
  total = fold(total, kFinished);
  if (threadIdx.x < kFinished) store_unaligned(segment.out + column, segment.width - column, total, false);
}

// One kernel for two stages: the first adds up samples, and the second, of one block, the partial sums of the first.
template <class T>
FASTSSM_DEVICE void total_rows(const Total<T>& a) {
  double sum = 0;
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  if (a.partials) {
    for (int64_t i = first; i < a.partials; i += step) sum += a.partial[i];
  } else {
    for (int64_t i = first; i < a.samples; i += step)
      sum += double(a.weight.of(i)) * (double(a.projected_jacobian[i]) + double(a.square[i]));
  }
  const double total = block_sums(warp_sum(sum), 0.0).first;
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    *a.loss = T(total);
  } else {
    a.partial[blockIdx.x] = total;
  }
}

}  // namespace fastssm::cuda
