// Compiled once for each instruction set, which FASTSSM_LEVEL names. All definitions here are local to the object file,
// so that the linker never replaces a function of one level by that of another.
#include "kernels.h"

#include "../../maths/activations.h"
#include "../../maths/sweep.h"
#include "products.h"
#include "rows.h"
#include "vec_math.h"

#ifndef FASTSSM_LEVEL
#error "FASTSSM_LEVEL must be avx512, avx2 or baseline"
#endif
#define FASTSSM_JOIN_(a, b) a##b
#define FASTSSM_JOIN(a, b) FASTSSM_JOIN_(a, b)

namespace fastssm::cpu {
namespace {

constexpr int64_t kChunk = 256;   // columns of one row that stay in the first-level cache between two passes
constexpr int kUnroll = 4;        // vectors at a time, so that their long chains of operations overlap

// ---- the table of activations ----------------------------------------------------------------------------------

// Returns NaN where a z + bias is not finite, and zero otherwise: an activation that saturates would hide it.
template <class T>
using Jets = T (*)(int64_t n, const T* z, const T* bias, const T* c, T* f, T* d1, T* d2, T* d3);

template <int ID, int ORDER, class T>
T jets_of(int64_t n, const T* z, const T* bias, const T* c, T* f, T* d1, T* d2, T* d3) {
  constexpr int parameters = activation_parameters[ID];
  T own[parameters + 1];  // a copy: the compiler must assume that the stores below may change c
  for (int i = 0; i < parameters; i++) own[i] = c[i];
  const auto put = [&](int64_t j, const Jet<Native<T>>& jet) {
    store(f + j, jet.f);
    store(d1 + j, jet.d1);
    if constexpr (ORDER >= 2) store(d2 + j, jet.d2);
    if constexpr (ORDER >= 3) store(d3 + j, jet.d3);
  };
  Native<T> nan_flag(T(0));
  int64_t j = 0;
  for (; j + kUnroll * native_lanes<T> <= n; j += kUnroll * native_lanes<T>) {
    Native<T> at[kUnroll];
    Jet<Native<T>> jets[kUnroll];
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; i++) at[i] = load(z + j + i * native_lanes<T>) + load(bias + j + i * native_lanes<T>);
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; i++) nan_flag = add_inner(nan_flag, at[i], Native<T>(T(0)));
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; i++) jets[i] = jet<ID, ORDER>(at[i], own);
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; i++) put(j + i * native_lanes<T>, jets[i]);
  }
  for (; j < n; j += native_lanes<T>) {
    const Native<T> at = load(z + j) + load(bias + j);
    nan_flag = add_inner(nan_flag, at, Native<T>(T(0)));
    put(j, jet<ID, ORDER>(at, own));
  }
  return sum(nan_flag);
}

template <class T, int ID = 0>
Jets<T> find_jets(int id, int order) {
  if constexpr (ID < activation_count) {
    if (id != ID) return find_jets<T, ID + 1>(id, order);
    return order == 1 ? jets_of<ID, 1, T> : order == 2 ? jets_of<ID, 2, T> : jets_of<ID, 3, T>;
  }
  return nullptr;
}

template <class T>
void jets(int activation, int order, int64_t n, const T* z, const T* c, T* f, T* d1, T* d2, T* d3) {
  const T none[kAlign] = {};
  const Jets<T> run = find_jets<T>(activation, order);
  for (int64_t j = 0; j < n; j += kAlign)  // n is padded
    run(kAlign, z + j, none, c, f + j, d1 + j, d2 + j, d3 + j);
}

// ---- up --------------------------------------------------------------------------------------------------------

template <bool CURVED, bool FRESH, class T>
void tangents_up(const Up<T>& a, int64_t r, int64_t at, int64_t n) {
  const int64_t stride = a.shape.kind_stride(), tangents = a.shape.tangents, curve = a.shape.curvature_offset();
  const bool keep = a.q != nullptr;
  for (int64_t j = at; j < at + n; j += native_lanes<T>) {
    const Native<T> d1 = load(a.z + j);
    Native<T> q(T(0));
    for (int64_t m = 1; m <= tangents; m++) {
      const Native<T> zd = load(a.z + m * stride + j);
      put(a.out, a.narrow, m * stride + j, tangent(d1, zd));
      q = a.c2 ? add_inner(q, zd * a.c2[(m - 1) * a.shape.samples + r], zd) : add_square(q, zd);
    }
    if (keep) store(a.q + j, q);
    if constexpr (CURVED) {
      const Native<T> d2 = load(a.d2 + j);
      put(a.out, a.narrow, curve + j, FRESH ? curvature(d2, q) : curvature(d1, load(a.z + curve + j), d2, q));
    }
  }
}

template <class T>
void add_entered(const Up<T>& a, int64_t at, int64_t n) {
  const int64_t kinds = a.shape.tangents + 1 + (a.curvature && !a.fresh);
  for (int64_t k = 0; k < kinds; k++)
    for (int64_t j = k * a.shape.kind_stride() + at; j < k * a.shape.kind_stride() + at + n; j += native_lanes<T>)
      store(a.out + j, load(a.out + j) + load(a.entered + j));
}

template <class T>
void up(const Up<T>& a) {
  const Jets<T> run = find_jets<T>(a.activation, a.order);
  const auto carry = !a.curvature ? tangents_up<false, false, T>
                     : a.fresh    ? tangents_up<true, true, T>
                                  : tangents_up<true, false, T>;
  alignas(64) T values[kChunk];  // before they are narrowed
  for (int64_t r = 0; r < a.shape.samples; r++)
    for (int64_t j = 0; j < a.shape.width; j += kChunk) {
      const int64_t at = r * a.shape.ld + j, n = least(kChunk, a.shape.width - j);
      T* f = a.narrow ? values : a.out + at;
      a.nan_flag[r] += run(n, a.z + at, a.bias + j, a.constants, f, a.z + at, a.d2 + at, a.d3 + at);
      for (int64_t i = 0; a.narrow && i < n; i += native_lanes<T>) put(a.out, a.narrow, at + i, load(f + i));
      carry(a, r, at, n);
      if (a.entered) add_entered(a, at, n);
    }
}

// ---- down ------------------------------------------------------------------------------------------------------

template <Above ABOVE, bool MERGED, bool FRESH, bool EACH, class T>
void down_block(const Down<T>& a, int64_t first, int64_t last, int64_t column, int64_t end) {
  const int64_t stride = a.shape.kind_stride(), tangents = a.shape.tangents, curve = a.shape.curvature_offset();
  for (int64_t j = column; j < end; j += native_lanes<T>) {
    Native<T> total(T(0)), readout(T(0));
    if constexpr (ABOVE == Above::outer) readout = load(a.readout + j);
    for (int64_t r = first; r < last; r++) {
      const int64_t at = r * a.shape.ld + j;
      const Native<T> d1 = load(a.z + at), d2 = load(a.d2 + at), d3 = load(a.d3 + at);
      Native<T> g(T(0));
      if constexpr (MERGED) g = load(a.chain + r * a.chain_ld + j);
      else if constexpr (ABOVE == Above::outer) g = readout * a.curvature_coefficient[r];
      else g = load(a.adjoints + curve + at);
      const Native<T> cg = MERGED && !EACH ? g * a.c2[r] : g, d2_cg = d2 * cg;
      Native<T> inner(T(0)), q(T(0));
      if constexpr (!FRESH) inner = add_inner(inner, g, load(a.z + curve + at));
      for (int64_t m = 1; m <= tangents; m++) {
        const Native<T> zd = load(a.z + m * stride + at);
        Native<T> bend = d2_cg;
        if constexpr (EACH) {
          const Native<T> c2(a.c2[(m - 1) * a.shape.samples + r]);
          bend = bend * c2;
          q = add_inner(q, c2 * zd, zd);
        } else {
          q = add_square(q, zd);
        }
        if constexpr (ABOVE == Above::none) {
          put(a.adjoints, a.narrow, m * stride + at, curved_tangent_down(bend, zd));
        } else {
          Native<T> hdb;
          if constexpr (ABOVE == Above::outer) hdb = readout * a.tangent_coefficient[(m - 1) * a.shape.samples + r];
          else hdb = load(a.adjoints + m * stride + at);
          inner = add_inner(inner, hdb, zd);
          put(a.adjoints, a.narrow, m * stride + at, curved_tangent_down(d1, hdb, bend, zd));
        }
      }
      Native<T> zb;
      if constexpr (ABOVE == Above::stack) zb = curved_value_down(d1, load(a.adjoints + at), d2, inner, d3, cg, q);
      else zb = curved_value_down(d2, inner, d3, cg, q);
      put(a.adjoints, a.narrow, at, zb);
      total += zb;
      if constexpr (!MERGED && !FRESH) put(a.adjoints, a.narrow, curve + at, tangent(d1, g));
    }
    if (a.bias) store(a.bias + j, load(a.bias + j) + total);
  }
}

// A merged pass without tangents: zb = f' hb + f'' g zk.
template <class T>
void down_straight_block(const Down<T>& a, int64_t first, int64_t last, int64_t column, int64_t end) {
  const int64_t curve = a.shape.curvature_offset();
  for (int64_t j = column; j < end; j += native_lanes<T>) {
    Native<T> total(T(0));
    for (int64_t r = first; r < last; r++) {
      const int64_t at = r * a.shape.ld + j;
      const Native<T> hb = a.above == Above::none ? Native<T>(T(0)) : load(a.adjoints + at);
      const Native<T> inner = add_inner(Native<T>(T(0)), load(a.chain + r * a.chain_ld + j), load(a.z + curve + at));
      const Native<T> zb = value_down(load(a.z + at), hb, load(a.d2 + at), inner);
      put(a.adjoints, a.narrow, at, zb);
      total += zb;
    }
    if (a.bias) store(a.bias + j, load(a.bias + j) + total);
  }
}

template <class T>
void down_score_block(const DownScore<T>& a, int64_t first, int64_t last, int64_t column, int64_t end) {
  const int64_t stride = a.shape.kind_stride(), tangents = a.shape.tangents;
  for (int64_t j = column; j < end; j += native_lanes<T>) {
    Native<T> total(T(0));
    for (int64_t r = first; r < last; r++) {
      const int64_t at = r * a.shape.ld + j;
      const Native<T> d1 = load(a.z + at), d2 = load(a.d2 + at);
      Native<T> inner(T(0));
      for (int64_t m = 1; m <= tangents; m++) {
        const Native<T> hdb = load(a.adjoints + m * stride + at);
        inner = add_inner(inner, hdb, load(a.z + m * stride + at));
        put(a.adjoints, a.narrow, m * stride + at, tangent(d1, hdb));
      }
      const Native<T> hb = load(a.adjoints + at), zb = tangents > 0 ? value_down(d1, hb, d2, inner) : tangent(d1, hb);
      put(a.adjoints, a.narrow, at, zb);
      total += zb;
    }
    if (a.bias) store(a.bias + j, load(a.bias + j) + total);
  }
}

// Runs a pass block by block, so that a column's sums stay in a register while its rows stay in the cache.
template <class Pass>
void in_blocks(const Pass& a, void (*pass)(const Pass&, int64_t, int64_t, int64_t, int64_t)) {
  const Shape& s = a.shape;
  for (int64_t r = 0; r < s.samples; r += kSamples)
    for (int64_t j = 0; j < s.width; j += kColumns)
      pass(a, r, least(r + kSamples, s.samples), j, least(j + kColumns, s.width));
}

template <class T>
void down(const Down<T>& a) {
  auto pass = down_block<Above::stack, false, false, false, T>;
  if (a.merged && a.shape.tangents == 0) {
    pass = down_straight_block<T>;
  } else if (a.merged) {
    pass = a.above == Above::none ? a.each ? down_block<Above::none, true, false, true, T>
                                           : down_block<Above::none, true, false, false, T>
           : a.each               ? down_block<Above::stack, true, false, true, T>
                                  : down_block<Above::stack, true, false, false, T>;
  } else if (a.above == Above::outer) {
    pass = a.fresh ? down_block<Above::outer, false, true, false, T> : down_block<Above::outer, false, false, false, T>;
  } else if (a.fresh) {
    pass = down_block<Above::stack, false, true, false, T>;
  }
  in_blocks(a, pass);
}

template <class T>
void down_score(const DownScore<T>& a) {
  in_blocks(a, down_score_block<T>);
}

// ---- the chain of a merged sweep -------------------------------------------------------------------------------

// sum_j d2_g zd^2, in two chains of additions, so that they overlap
template <class T>
FASTSSM_INLINE T curvature_dot(int64_t width, const T* d2_g, const T* zd) {
  const auto add = [&](Native<T> e2, int64_t j) {
    return add_inner(e2, load(d2_g + j), add_square(Native<T>(T(0)), load(zd + j)));
  };
  Native<T> even(T(0)), odd(T(0));
  int64_t j = 0;
  for (; j + 2 * native_lanes<T> <= width; j += 2 * native_lanes<T>) {
    even = add(even, j);
    odd = add(odd, j + native_lanes<T>);
  }
  for (; j < width; j += native_lanes<T>) even = add(even, j);
  return sum(even + odd);
}

// Without e2.
template <class T>
void chain_straight(const Chain<T>& a) {
  const Shape& s = a.shape;
  for (int64_t r = 0; r < s.samples; r++)
    for (int64_t j = 0; j < s.width; j += native_lanes<T>)
      put(a.adjoint, a.narrow, r * s.ld + j, tangent(load(a.z + r * s.ld + j), load(a.g + r * a.g_ld + j)));
}

template <class T>
void chain(const Chain<T>& a) {
  const Shape& s = a.shape;
  if (s.tangents == 0 || !a.e2) return chain_straight(a);
  for (int64_t r = 0; r < s.samples; r++) {
    Native<T> e2(T(0));
    for (int64_t j = 0; j < s.width; j += native_lanes<T>) {
      const int64_t at = r * s.ld + j;
      const Native<T> g = load(a.g + r * a.g_ld + j), d2 = load(a.d2 + at);
      if (a.each) store(a.q + at, curvature(d2, g));
      else e2 = add_inner(e2, curvature(d2, load(a.q + at)), g);
      put(a.adjoint, a.narrow, at, tangent(load(a.z + at), g));
    }
    if (!a.each) a.e2[r] += sum(e2);
    for (int64_t m = 1; a.each && m <= s.tangents; m++)
      a.e2[(m - 1) * s.samples + r] += curvature_dot(s.width, a.q + r * s.ld, a.z + m * s.kind_stride() + r * s.ld);
  }
}

template <class T>
void curve(const Curve<T>& a) {
  const bool curved = a.shape.tangents > 0;
  for (int64_t r = 0; r < a.shape.samples; r++) {
    const Native<T> c2(a.c2 ? a.c2[r] : T(1));
    for (int64_t j = r * a.shape.ld; j < r * a.shape.ld + a.shape.width; j += native_lanes<T>) {
      const Native<T> d1 = load(a.d1 + j), zk = load(a.zk + j);
      const Native<T> k = curved ? curvature(d1, zk, c2 * load(a.d2 + j), load(a.q + j)) : tangent(d1, zk);
      put(a.out, a.narrow, j, a.entered ? k + load(a.entered + j) : k);
    }
  }
}

// ---- the table of kernels --------------------------------------------------------------------------------------

template <class T>
const Kernels<T> table = {.panel = kPanel<T>,
                          .multiply = multiply<T>,
                          .multiply_transposed = multiply_transposed<T>,
                          .up = up<T>,
                          .down = down<T>,
                          .down_score = down_score<T>,
                          .chain = chain<T>,
                          .curve = curve<T>,
                          .dots = dots<T>,
                          .pair_dots = pair_dots<T>,
                          .weighted_sum = weighted_sum<T>,
                          .scaled = scaled<T>,
                          .transpose = transpose_rows<T>,
                          .add = add<T>,
                          .signs = signs<T>,
                          .jets = jets<T>,
                          .narrow = narrow,
                          .interleave = interleave,
                          .transpose_narrow = transpose_narrow};

}  // namespace

template <class T>
const Kernels<T>& FASTSSM_JOIN(FASTSSM_LEVEL, _kernels)() {
  return table<T>;
}

template const Kernels<float>& FASTSSM_JOIN(FASTSSM_LEVEL, _kernels)();
template const Kernels<double>& FASTSSM_JOIN(FASTSSM_LEVEL, _kernels)();

}  // namespace fastssm::cpu
