// The top of a tile: the terms of a sample and their cotangents, with one block for each sample, whose warps divide the
// directions; and the first adjoints of the sweep down.
#pragma once

#include "../../maths/sweep.h"
#include "narrow.cuh"
#include "reduce.cuh"

namespace fastssm::cuda {

template <class T>
FASTSSM_DEVICE void put(T* out, T value, bool add) {
  *out = add ? *out + value : value;
}

// Adds up the warps' parts of the two terms of the loss, and stores them.
template <class T>
FASTSSM_DEVICE void leave_terms(T jacobian, T square, T* jacobian_out, T* square_out, bool add) {
  const Two<T> terms = block_sums(jacobian, square);
  if (threadIdx.x != 0) return;
  put(jacobian_out + blockIdx.x, terms.first, add);
  if (square_out) put(square_out + blockIdx.x, terms.second, add);
}

// NaN where a number is not finite, else zero: a NaN must reach the loss also where no derivative depends on it.
template <class T>
FASTSSM_DEVICE T nan_of(T value) {
  return value * T(0);
}

// c1 = E1 / M, c2 = -1 / M, each times the sample's weight; the terms are -E2 / M and mean_m E1_m^2 / 2.
template <class T>
FASTSSM_DEVICE void sliced_top_rows(const SlicedTop<T>& a) {
  const Shape& s = a.shape;
  const int64_t row = blockIdx.x, kinds = s.tangents + 1 + a.curved;
  const T share = a.coefficients ? a.weight.of(row) / a.count : T(0);
  T jacobian(0), square(0);
  for (int64_t kind = threadIdx.x / kWarp; kind < kinds; kind += blockDim.x / kWarp) {
    const T e = warp_dot<T>(s.width, aligned_row(a.h + kind * s.kind_stride() + row * s.ld), unaligned_row(a.readout));
    T coefficient(0);
    if (kind == 0) {
      jacobian += nan_of(a.bias ? e + a.bias[0] : e);
    } else if (kind <= s.tangents) {
      if (!a.curved) jacobian += nan_of(e);
      square += e * e / (2 * a.count);
      coefficient = e * share;
    } else {
      jacobian -= e / a.count;
      coefficient = -share;
    }
    if (a.coefficients && threadIdx.x % kWarp == 0) a.coefficients[kind * s.samples + row] = coefficient;
  }
  leave_terms(jacobian, square, a.projected_jacobian, a.square, a.add);
}

// v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b, without computing s.
template <class T>
FASTSSM_DEVICE void score_top_rows(const ScoreTop<T>& a) {
  const Shape& s = a.shape;
  const int64_t row = blockIdx.x;
  const T share = a.share ? a.weight.of(row) / a.count : T(0);
  T jacobian(0), square(0);
  for (int64_t m = threadIdx.x / kWarp; m < s.tangents; m += blockDim.x / kWarp) {
    const int64_t at = m * s.samples + row;
    const auto u = aligned_row(a.pullback + at * a.pullback_ld);
    const T along = warp_dot<T>(s.width, u, aligned_row(a.h + (m + 1) * s.kind_stride() + row * s.ld));
    T projected = warp_dot<T>(s.width, u, aligned_row(a.h + row * s.ld));
    if (a.bias) projected += warp_dot<T>(a.dim, aligned_row(a.v + at * a.v_ld), unaligned_row(a.bias));
    jacobian += along / a.count + nan_of(along + projected);
    square += projected * projected / (2 * a.count);
    if (a.share && threadIdx.x % kWarp == 0) a.along[at] = share * projected;
  }
  if (a.share && threadIdx.x == 0) a.share[row] = share;
  leave_terms(jacobian, square, a.projected_jacobian, a.square, a.add);
}

// s = sign * row + bias, in packs of columns.
template <class T>
FASTSSM_DEVICE auto score_of(const TermsTop<T>& a, int64_t row) {
  const T *rows = a.rows + row * a.rows_ld, *bias = a.bias;
  const T sign = a.sign;
  return [=](int64_t j, int64_t left) {
    const Pack<T> signed_row = all(sign) * load_unaligned(rows + j, left);
    return bias ? signed_row + load_unaligned(bias + j, left) : signed_row;
  };
}

template <class T>
FASTSSM_DEVICE void terms_top_rows(const TermsTop<T>& a) {
  const int64_t row = blockIdx.x, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const bool first_lane = threadIdx.x % kWarp == 0, flat = a.readout && !a.e2;
  const auto s = score_of(a, row);
  T jacobian(0), square(0);
  if (warp == 0 && a.readout) {
    const T e = warp_dot<T>(a.h_width, aligned_row(a.h + row * a.h_ld), unaligned_row(a.readout));
    jacobian += nan_of(a.constant ? e + a.constant[0] : e) - (a.e2 ? a.e2[row] / a.count : T(0));
  }
  if (warp == 0 && !a.readout)
    jacobian += warp_dot<T>(a.dim, s, [](int64_t, int64_t) { return all(T(0)); });
  if (warp == 0 && a.square && !a.add) square += warp_dot<T>(a.dim, s, s) / 2;
  for (int64_t m = warp; m < a.tangents; m += warps) {
    const int64_t at = m * a.samples + row;
    if (a.projected || flat) {
      const T projected = warp_dot<T>(a.dim, aligned_row(a.v + at * a.v_ld), s);
      if (flat) jacobian += nan_of(projected);
      if (a.projected && first_lane) a.projected[m * a.projected_stride + row] = projected;
    }
    if (a.pullback) {
      const T* hd = a.h + ((m + 1) * a.samples + row) * a.h_ld;
      const T along = warp_dot<T>(a.h_width, aligned_row(a.pullback + at * a.pullback_ld), aligned_row(hd));
      jacobian += along / a.count + nan_of(along);
    }
  }
  const T weight = a.weight.of(row);
  for (int64_t j = threadIdx.x * kLanes<T>; j < a.v_ld; j += blockDim.x * kLanes<T>) {
    const Pack<T> found = s(j, a.dim - j);
    if (a.score) store_unaligned(a.score + row * a.dim + j, a.dim - j, found, false);
    if (a.on_score) store_operand(a.on_score, a.narrow, row * a.v_ld + j, all(a.add ? T(0) : a.sign * weight) * found);
  }
  if (a.coefficients && threadIdx.x == 0) a.coefficients[row] = a.sign * weight / a.count;
  leave_terms(jacobian, square, a.projected_jacobian, a.square, a.add);
}

template <class T>
FASTSSM_DEVICE void given_rows(const Given<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  if (place.column >= s.ld) return;
  const int64_t left = a.dim - place.column;  // the conditioning columns, after dim, have no direction
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    Pack<T> sum = a.score ? load_unaligned(a.score + row * a.dim + place.column, left) : all(T(0));
    for_tangents<T>(
        s.tangents, [&](int64_t m) { return load_partial(a.v + (m - 1) * s.kind_stride() + at, left); },
        [&](int64_t m, const Pack<T>& v) {
          sum = add_inner(sum, all(a.projected[(m - 1) * a.projected_stride + row]), v);
        });
    store_operand(a.rows, a.narrow, at, all(a.sign) * sum);
    if (place.column == 0) a.coefficients[row] = a.sign * a.projected_jacobian[row] / a.count;
  }
}

template <class T>
FASTSSM_DEVICE void score_seed_rows(const ScoreSeed<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  if (place.column >= s.ld) return;
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    const Pack<T> h = load(a.h + at), share = all(a.share[row]);
    Pack<T> adjoint = all(T(0));
    struct Fetched {
      Pack<T> u, hd;
    };
    for_tangents<T>(
        s.tangents,
        [&](int64_t m) {
          return Fetched{load(a.pullback + (m - 1) * s.kind_stride() + at), load(a.h + m * s.kind_stride() + at)};
        },
        [&](int64_t m, const Fetched& given) {
          Pack<T> on_u = share * given.hd;
          if (a.along) {
            const Pack<T> along = all(a.along[(m - 1) * s.samples + row]);
            on_u = add_inner(on_u, along, h);
            adjoint = add_inner(adjoint, along, given.u);
          }
          store_operand(a.narrow ? nullptr : a.pullback, a.narrow, (m - 1) * s.kind_stride() + at, on_u);
          if (a.tangents) store(a.adjoints + m * s.kind_stride() + at, share * given.u);
        });
    if (a.along) store(a.adjoints + at, adjoint);
  }
}

}  // namespace fastssm::cuda
