// A tile's input and output: the rows of the first layer, and the gradients of x and the conditioning columns.
#pragma once

#include "narrow.cuh"

namespace fastssm::cuda {

template <class T>
FASTSSM_DEVICE void enter_rows(const Enter<T>& a) {
  const Place place(a.walk, a.kinds * a.samples, kLanes<T>);
  if (place.column >= a.ld) return;
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t kind = row / a.samples, sample = row % a.samples;
    const auto entry = [&](int64_t j) {
      if (j >= a.dim) return kind == 0 && j < a.dim + a.extra ? a.columns[sample * a.extra + j - a.dim] : T(0);
      if (kind == 0) return a.x[sample * a.dim + j];
      if (a.v) return a.v[(kind - 1) * a.v_stride + sample * a.dim + j];
      return a.direction + kind - 1 == j ? a.unit : T(0);
    };
    const Pack<T> entries = pack_of<T>([&](int i) { return entry(place.column + i); });
    store_operand(a.out, a.narrow, row * a.ld + place.column, entries);
  }
}

template <class T>
FASTSSM_DEVICE void leave_rows(const Leave<T>& a) {
  const Place place(a.walk, a.samples, kLanes<T>);
  if (place.column >= a.ld) return;
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const Pack<T> found = a.rows ? load(a.rows + row * a.ld + place.column) : all(T(0));
    FASTSSM_UNROLL
    for (int i = 0; i < kLanes<T>; i++) {
      const int64_t j = place.column + i;
      if (j >= a.dim + a.extra) continue;
      T* out = j < a.dim ? a.x + row * a.dim + j : a.columns + row * a.extra + j - a.dim;
      *out = a.add ? *out + found.lane[i] : found.lane[i];
    }
  }
}

template <class T>
FASTSSM_DEVICE void identity_rows(const Identity<T>& a) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < a.size * a.size) a.out[index] = index % (a.size + 1) == 0 ? T(1) : T(0);
}

}  // namespace fastssm::cuda
