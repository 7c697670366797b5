// The top of a tile: the terms of a sample and what the loss asks of them, one block for each sample, its warps sharing
// out the directions; and how the cotangents start on their way down.
#pragma once

#include "../../maths/sweep.h"
#include "reduce.cuh"

namespace fastssm::cuda {

template <class T>
FASTSSM_DEVICE void put(T* out, T value, bool add) {
  *out = add ? *out + value : value;
}

// What a warp adds to the two terms of the loss, brought together.
template <class T>
FASTSSM_DEVICE void leave_terms(T jacobian, T square, T* jacobian_out, T* square_out, bool add) {
  const Two<T> terms = block_sums(jacobian, square);
  if (threadIdx.x != 0) return;
  put(jacobian_out + blockIdx.x, terms.first, add);
  if (square_out) put(square_out + blockIdx.x, terms.second, add);
}

// Zero, or NaN where a number is not finite: what is broken must show even where no derivative sees it.
template <class T>
FASTSSM_DEVICE T nan_of(T value) {
  return value * T(0);
}

// c1 = E1 / M, c2 = -1 / M, each times the sample's weight; the terms are -E2 / M and mean_m E1_m^2 / 2.
template <class T>
FASTSSM_DEVICE void sliced_top_rows(const SlicedTop<T>& a) {
  const Shape& s = a.shape;
  const int64_t row = blockIdx.x, kinds = s.tangents + 1 + a.curved;
  const T share = a.coefficients ? a.weight[row] / a.count : T(0);
  T jacobian(0), square(0);
  for (int64_t kind = threadIdx.x / kWarp; kind < kinds; kind += blockDim.x / kWarp) {
    const T e = warp_dot<T>(s.width, in_stack(a.h + kind * s.kind() + row * s.ld), anywhere(a.readout));
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
  leave_terms(jacobian, square, a.jacobian, a.square, a.add);
}

// v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b, without ever computing s.
template <class T>
FASTSSM_DEVICE void score_top_rows(const ScoreTop<T>& a) {
  const Shape& s = a.shape;
  const int64_t row = blockIdx.x;
  const T share = a.share ? a.weight[row] / a.count : T(0);
  T jacobian(0), square(0);
  for (int64_t m = threadIdx.x / kWarp; m < s.tangents; m += blockDim.x / kWarp) {
    const int64_t at = m * s.samples + row;
    const auto u = in_stack(a.lifted + at * a.lifted_ld);
    const T along = warp_dot<T>(s.width, u, in_stack(a.h + (m + 1) * s.kind() + row * s.ld));
    T projected = warp_dot<T>(s.width, u, in_stack(a.h + row * s.ld));
    if (a.bias) projected += warp_dot<T>(a.dim, in_stack(a.v + at * a.v_ld), anywhere(a.bias));
    jacobian += along / a.count + nan_of(along + projected);
    square += projected * projected / (2 * a.count);
    if (a.share && threadIdx.x % kWarp == 0) a.along[at] = share * projected;
  }
  if (a.share && threadIdx.x == 0) a.share[row] = share;
  leave_terms(jacobian, square, a.jacobian, a.square, a.add);
}

// s = sign * row + bias, in packs of columns.
template <class T>
FASTSSM_DEVICE auto score_of(const TermsTop<T>& a, int64_t row) {
  const T *rows = a.rows + row * a.rows_ld, *bias = a.bias;
  const T sign = a.sign;
  return [=](int64_t j, int64_t left) {
    const Pack<T> signed_row = all(sign) * load_loose(rows + j, left);
    return bias ? signed_row + load_loose(bias + j, left) : signed_row;
  };
}

template <class T>
FASTSSM_DEVICE void terms_top_rows(const TermsTop<T>& a) {
  const int64_t row = blockIdx.x, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const bool first_lane = threadIdx.x % kWarp == 0, flat = a.readout && !a.e2;
  const auto s = score_of(a, row);
  T jacobian(0), square(0);
  if (warp == 0 && a.readout) {
    const T e = warp_dot<T>(a.h_width, in_stack(a.h + row * a.h_ld), anywhere(a.readout));
    jacobian += nan_of(a.constant ? e + a.constant[0] : e) - (a.e2 ? a.e2[row] / a.count : T(0));
  }
  if (warp == 0 && !a.readout)
    jacobian += warp_dot<T>(a.dim, s, [](int64_t, int64_t) { return all(T(0)); });
  if (warp == 0 && a.square && !a.add) square += warp_dot<T>(a.dim, s, s) / 2;
  for (int64_t m = warp; m < a.tangents; m += warps) {
    const int64_t at = m * a.samples + row;
    if (a.projected || flat) {
      const T projected = warp_dot<T>(a.dim, in_stack(a.v + at * a.v_ld), s);
      if (flat) jacobian += nan_of(projected);
      if (a.projected && first_lane) a.projected[m * a.projected_stride + row] = projected;
    }
    if (a.lifted) {
      const T* hd = a.h + ((m + 1) * a.samples + row) * a.h_ld;
      const T along = warp_dot<T>(a.h_width, in_stack(a.lifted + at * a.lifted_ld), in_stack(hd));
      jacobian += along / a.count + nan_of(along);
    }
  }
  const T weight = a.weight ? a.weight[row] : T(0);
  for (int64_t j = threadIdx.x * kLanes<T>; j < a.v_ld; j += blockDim.x * kLanes<T>) {
    const Pack<T> found = s(j, a.dim - j);
    if (a.score) store_loose(a.score + row * a.dim + j, a.dim - j, found, false);
    if (a.on_score) store(a.on_score + row * a.v_ld + j, all(a.add ? T(0) : a.sign * weight) * found);
  }
  if (a.coefficients && threadIdx.x == 0) a.coefficients[row] = a.sign * weight / a.count;
  leave_terms(jacobian, square, a.jacobian, a.square, a.add);
}

template <class T>
FASTSSM_DEVICE void given_rows(const Given<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  if (place.column >= s.ld) return;
  const int64_t left = a.dim - place.column;  // behind dim, the conditioning columns have no direction
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    Pack<T> sum = a.score ? load_loose(a.score + row * a.dim + place.column, left) : all(T(0));
    for_tangents(
        s.tangents, [&](int64_t m) { return load_some(a.v + (m - 1) * s.kind() + at, left); },
        [&](int64_t m, const Pack<T>& v) {
          sum = add_inner(sum, all(a.projected[(m - 1) * a.projected_stride + row]), v);
        });
    store(a.rows + at, all(a.sign) * sum);
    if (place.column == 0) a.coefficients[row] = a.sign * a.jacobian[row] / a.count;
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
    Pack<T> bar = all(T(0));
    struct Fetched {
      Pack<T> u, hd;
    };
    for_tangents(
        s.tangents,
        [&](int64_t m) {
          return Fetched{load(a.lifted + (m - 1) * s.kind() + at), load(a.h + m * s.kind() + at)};
        },
        [&](int64_t m, const Fetched& given) {
          Pack<T> on_u = share * given.hd;
          if (a.along) {
            const Pack<T> along = all(a.along[(m - 1) * s.samples + row]);
            on_u = add_inner(on_u, along, h);
            bar = add_inner(bar, along, given.u);
          }
          store(a.lifted + (m - 1) * s.kind() + at, on_u);
          if (a.tangents) store(a.bars + m * s.kind() + at, share * given.u);
        });
    if (a.along) store(a.bars + at, bar);
  }
}

}  // namespace fastssm::cuda
