// The pointwise passes of the sweeps, one for each layer and direction, by the rules of sweep.h: 16 bytes a thread.
#pragma once

#include "../../maths/sweep.h"
#include "jets.cuh"
#include "narrow.cuh"
#include "reduce.cuh"

namespace fastssm::cuda {

// ---- up --------------------------------------------------------------------------------------------------------

// A pack of a sample's columns, of all kinds; `product(kind)` gives what entered, once for each kind.
template <int ID, class T, class Products>
FASTSSM_DEVICE void up_pack(const Up<T>& a, int64_t row, int64_t column, const Pack<T>& bias, const Products& product) {
  const Shape& s = a.shape;
  const int64_t at = row * s.ld + column;
  const Pack<T> scale = scale_of(a.layer, row, s.width, column);
  const Pack<T> z = modulated(a.layer, product(0) + bias, scale, row, s.width, column);
  Pack<T> f, d1, d2;
  FASTSSM_UNROLL
  for (int i = 0; i < kLanes<T>; i++) {
    const Jet<T> found = jet<ID, 2>(z.lane[i], a.layer.constants);
    f.lane[i] = found.f, d1.lane[i] = found.d1, d2.lane[i] = found.d2;
  }
  f = add_inner(f, z, all(T(0)));  // NaN where z is not finite: an activation that saturates would hide it
  store_operand(a.out, a.narrow, at, a.entered ? f + load(a.entered + at) : f);
  Pack<T> q = all(T(0));
  for_tangents<T>(s.tangents, product, [&](int64_t m, const Pack<T>& raw) {
    const int64_t mine = m * s.kind_stride() + at;
    const Pack<T> zd = raw * scale, hd = tangent(d1, zd);
    q = add_square(q, zd);
    store_operand(a.out, a.narrow, mine, a.entered ? hd + load(a.entered + mine) : hd);
  });
  if (a.q) store(a.q + at, q);
  if (!a.curvature) return;
  const int64_t mine = s.curvature_offset() + at;
  Pack<T> k = a.fresh ? curvature(d2, q) : curvature(d1, product(s.tangents + 1) * scale, d2, q);
  if (a.entered && !a.fresh) k = k + load(a.entered + mine);
  store_operand(a.out, a.narrow, mine, k);
}

template <int ID, class T>
FASTSSM_DEVICE void up_rows(const Up<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  if (place.column >= s.ld) return;
  const Pack<T> bias = bias_of(a.layer, s.width, place.column);
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    up_pack<ID>(a, row, place.column, bias, [&](int64_t kind) { return load(a.z + kind * s.kind_stride() + at); });
  }
}

// ---- down ------------------------------------------------------------------------------------------------------

// The adjoints of the modulation in a sample: dscale = sum_r zb_r raw_r, dshift = zb.
template <class T>
FASTSSM_DEVICE void modulation_down(const Back<T>& a, const Place& place, int64_t row, const Pack<T>& zb,
                                    const Pack<T>& on_scale) {
  const int64_t of = row * a.shape.width + place.column, left = a.shape.width - place.column;
  if (a.on_scale) store_unaligned(a.on_scale + of, left, on_scale, a.add_samples);
  if (a.on_shift) store_unaligned(a.on_shift + of, left, zb, a.add_samples);
}

// Stores adjoints of the product: in place, or in bfloat16 elsewhere.
template <class T>
FASTSSM_DEVICE void store_adjoint(const Back<T>& a, int64_t at, const Pack<T>& adjoint) {
  store_operand(a.narrow ? nullptr : a.adjoints, a.narrow, at, adjoint);
}

template <class T>
FASTSSM_DEVICE void down_rows(const Down<T>& down) {
  const Back<T>& a = down.back;
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  const bool outer = down.above == Above::outer, stack = down.above == Above::stack;
  Pack<T> total = all(T(0)), readout = total;
  if (down.readout) readout = load_given(down.readout + place.column, s.width - place.column);
  for (int64_t row = place.row; row < place.end && place.column < s.ld; row += place.step) {
    const int64_t at = row * s.ld + place.column, curve = s.curvature_offset() + at;
    const Recomputed<T> f = recomputed<3>(a.layer, load(a.z + at), row, s.width, place.column);
    const Pack<T>&scale = f.scale, &d1 = f.d1, &d2 = f.d2, &d3 = f.d3;
    Pack<T> g = readout;
    if (down.merged && down.chain) g = load(down.chain + at);
    if (!down.merged) g = outer ? readout * all(down.c2[row]) : load(a.adjoints + curve);
    const Pack<T> cg = down.merged ? g * all(down.c2[row]) : g, d2_cg = d2 * cg;
    Pack<T> inner = all(T(0)), q = inner, on_scale = inner;
    if (!down.fresh) {
      const Pack<T> raw = load(a.z + curve);
      inner = add_inner(inner, g, raw * scale);
      on_scale = add_inner(on_scale, tangent(d1, g), raw);
    }
    struct Fetched {
      Pack<T> raw, hdb;
    };
    for_tangents<T>(
        s.tangents,
        [&](int64_t m) {
          const int64_t mine = m * s.kind_stride() + at;
          if (outer) return Fetched{load(a.z + mine), readout * all(down.c1[(m - 1) * s.samples + row])};
          return Fetched{load(a.z + mine), stack ? load(a.adjoints + mine) : all(T(0))};
        },
        [&](int64_t m, const Fetched& given) {
          const int64_t mine = m * s.kind_stride() + at;
          const Pack<T> zd = given.raw * scale;
          q = add_square(q, zd);
          inner = add_inner(inner, given.hdb, zd);
          const bool none = down.above == Above::none;
          const Pack<T> zdb = none ? curved_tangent_down(d2_cg, zd) : curved_tangent_down(d1, given.hdb, d2_cg, zd);
          on_scale = add_inner(on_scale, zdb, given.raw);
          store_adjoint(a, mine, zdb * scale);
          if (a.kept && a.kept_all) store(a.kept + mine, given.hdb);
        });
    const Pack<T> hb = stack ? load(a.adjoints + at) : all(T(0));
    const Pack<T> zb =
        stack ? curved_value_down(d1, hb, d2, inner, d3, cg, q) : curved_value_down(d2, inner, d3, cg, q);
    if (a.layer.scale) on_scale = add_inner(on_scale, zb, f.value);
    modulation_down(a, place, row, zb, on_scale);
    const Pack<T> adjoint = zb * scale;
    store_adjoint(a, at, adjoint);
    total = total + adjoint;
    if (a.kept) store(a.kept + at, hb);
    if (down.merged || down.fresh) continue;
    store_adjoint(a, curve, tangent(d1, g) * scale);
    if (a.kept && a.kept_all) store(a.kept + curve, g);
  }
  if (a.partial) leave_partial(total, place, a.walk.row_threads, s.ld, a.partial, a.add_partial);
}

// Down through the activation of a score's layer: hb, hdb_m become zb, zdb_m.
template <class T>
FASTSSM_DEVICE void down_score_rows(const Back<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  Pack<T> total = all(T(0));
  for (int64_t row = place.row; row < place.end && place.column < s.ld; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    const Recomputed<T> f = recomputed<2>(a.layer, load(a.z + at), row, s.width, place.column);
    const Pack<T>&scale = f.scale, &d1 = f.d1, &d2 = f.d2, hb = load(a.adjoints + at);
    Pack<T> inner = all(T(0)), on_scale = inner;
    struct Fetched {
      Pack<T> raw, hdb;
    };
    for_tangents<T>(
        s.tangents,
        [&](int64_t m) {
          const int64_t mine = m * s.kind_stride() + at;
          return Fetched{load(a.z + mine), load(a.adjoints + mine)};
        },
        [&](int64_t m, const Fetched& given) {
          const int64_t mine = m * s.kind_stride() + at;
          const Pack<T> zdb = tangent(d1, given.hdb);
          inner = add_inner(inner, given.hdb, given.raw * scale);
          on_scale = add_inner(on_scale, zdb, given.raw);
          store_adjoint(a, mine, zdb * scale);
          if (a.kept && a.kept_all) store(a.kept + mine, given.hdb);
        });
    const Pack<T> zb = value_down(d1, hb, d2, inner), adjoint = zb * scale;
    if (a.layer.scale) on_scale = add_inner(on_scale, zb, f.value);
    modulation_down(a, place, row, zb, on_scale);
    store_adjoint(a, at, adjoint);
    total = total + adjoint;
    if (a.kept) store(a.kept + at, hb);
  }
  if (a.partial) leave_partial(total, place, a.walk.row_threads, s.ld, a.partial, a.add_partial);
}

// ---- the chain of a merged sweep -------------------------------------------------------------------------------

// One block for each sample.
template <class T>
FASTSSM_DEVICE void chain_rows(const Chain<T>& a) {
  const int64_t row = blockIdx.x;
  Pack<T> e2 = all(T(0));
  for (int64_t j = threadIdx.x * kLanes<T>; j < a.shape.width; j += blockDim.x * kLanes<T>) {
    const int64_t at = row * a.shape.ld + j, left = a.shape.width - j;
    const Pack<T> g = a.g ? load_partial(a.g + at, left) : load_given(a.readout + j, left);
    const Recomputed<T> f = recomputed<2>(a.layer, load_partial(a.z + at, left), row, a.shape.width, j);
    const Pack<T> adjoint = tangent(f.d1, g) * f.scale;
    store_operand(a.adjoint, a.narrow, at, adjoint);
    if (a.kept) store(a.kept + at, g);
    if (a.e2) e2 = add_inner(e2, curvature(f.d2, load_partial(a.q + at, left)), g);
  }
  if (!a.e2) return;
  const T total = block_sums(warp_sum(sum_of(e2)), T(0)).first;
  if (threadIdx.x == 0) a.e2[row] = a.add ? a.e2[row] + total : total;
}

template <class T>
FASTSSM_DEVICE void curve_rows(const Curve<T>& a) {
  const Shape& s = a.shape;
  const Place place(a.walk, s.samples, kLanes<T>);
  if (place.column >= s.ld) return;
  for (int64_t row = place.row; row < place.end; row += place.step) {
    const int64_t at = row * s.ld + place.column;
    const Recomputed<T> f = recomputed<2>(a.layer, load(a.z + at), row, s.width, place.column);
    const Pack<T> k = curvature(f.d1, load(a.zk + at) * f.scale, all(a.c2[row]) * f.d2, load(a.q + at));
    store_operand(a.out, a.narrow, at, a.entered ? k + load(a.entered + at) : k);
  }
}

}  // namespace fastssm::cuda
