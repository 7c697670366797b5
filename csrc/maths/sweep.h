// One element's rules of the two sweeps, on the host and on a device: the only place in C++ where they are written.
//
// A layer maps a value z, tangents zd_m and (for an energy) a curvature zk to h = f(z), hd_m, k. On the way down, the
// adjoints hb, hdb_m, g of these become zb, zdb_m, zkb. q = sum_m zd_m^2. V is a scalar or a SIMD vector.
#pragma once

#include "numerics.h"

namespace fastssm {

// hd = f' zd. It is linear, so its adjoint is the same product: zdb = f' hdb, and for the chain g: zkb = f' g.
template <class V>
FASTSSM_HD FASTSSM_INLINE V tangent(V d1, V zd) {
  return d1 * zd;
}

template <class V>
FASTSSM_HD FASTSSM_INLINE V add_square(V q, V zd) {
  return q + zd * zd;
}

// k = f' zk + f'' q; in the first layer zk = 0.
template <class V>
FASTSSM_HD FASTSSM_INLINE V curvature(V d2, V q) {
  return d2 * q;
}

template <class V>
FASTSSM_HD FASTSSM_INLINE V curvature(V d1, V zk, V d2, V q) {
  return d1 * zk + d2 * q;
}

// zdb = f' hdb + 2 f'' cg zd, with d2_cg = f'' cg; cg is g times what the loss's cotangent does not include.
template <class V>
FASTSSM_HD FASTSSM_INLINE V curved_tangent_down(V d2_cg, V zd) {
  return (d2_cg + d2_cg) * zd;
}

template <class V>
FASTSSM_HD FASTSSM_INLINE V curved_tangent_down(V d1, V hdb, V d2_cg, V zd) {
  return d1 * hdb + (d2_cg + d2_cg) * zd;
}

// The factor of f'' in zb: g zk + sum_m hdb_m zd_m, one term at a time.
template <class V>
FASTSSM_HD FASTSSM_INLINE V add_inner(V inner, V adjoint, V z) {
  return inner + adjoint * z;
}

// zb = f' hb + f'' inner
template <class V>
FASTSSM_HD FASTSSM_INLINE V value_down(V d1, V hb, V d2, V inner) {
  return d1 * hb + d2 * inner;
}

// zb = f' hb + f'' inner + f''' cg q; at the top of a merged sweep hb = 0.
template <class V>
FASTSSM_HD FASTSSM_INLINE V curved_value_down(V d2, V inner, V d3, V cg, V q) {
  return d2 * inner + d3 * cg * q;
}

template <class V>
FASTSSM_HD FASTSSM_INLINE V curved_value_down(V d1, V hb, V d2, V inner, V d3, V cg, V q) {
  return d1 * hb + curved_value_down(d2, inner, d3, cg, q);
}

}  // namespace fastssm
