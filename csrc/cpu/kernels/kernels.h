// The pointwise passes over a tile, compiled once per instruction set into a table of functions.
//
// engine/tile.h defines the layout of a stack. Here its width is padded to whole vectors (`pad`), and no result depends
// on what lies in the padding.
#pragma once

#include <cstdint>

#include "../../engine/tile.h"

namespace fastssm::cpu {

constexpr int64_t kAlign = 16;  // widths are multiples of this many elements: a whole number of vectors at any level

inline int64_t pad(int64_t width) { return (width + kAlign - 1) / kAlign * kAlign; }

// Up through an activation: z, zd_m, zk become h, hd_m, k; z is overwritten by f'.
template <class T>
struct Up {
  Shape shape;
  int activation;
  const T* constants;
  int order;         // derivatives to keep: f' in place of z, f'' in d2, f''' in d3
  bool curvature;    // carry k
  bool fresh;        // zk is zero and not stored
  const T* bias;     // [width]
  T* z;              // stack
  T* out;            // stack, left alone where `narrow` is given
  uint16_t* narrow;  // the same as bfloat16, or null; not where the layer skips
  T* d2;             // [samples] rows
  T* d3;             // [samples] rows
  T* q;              // [samples] rows, or null where the squares' sum is not kept
  const T* c2;       // [tangents, samples], with which q = sum_m c2_m zd_m^2; or null, and q = sum_m zd_m^2
  const T* entered;  // stack to add where the layer skips, or null
  T* nan_flag;       // [samples]: adds zero, or NaN where a z of the sample is not finite
};

// Down through the activation of an energy's layer, in place: hb, hdb_m, g become zb, zdb_m, zkb. Without tangents, a
// merged pass does not read f'''.
template <class T>
struct Down {
  Shape shape;
  Above above;
  const T* tangent_coefficient = nullptr;    // Above::outer: hdb_m = coefficient[m, sample] * readout
  const T* curvature_coefficient = nullptr;  // Above::outer: g = coefficient[sample] * readout
  const T* readout = nullptr;
  bool merged = false;  // g is `chain`, and the curvature row carries the loss's cotangent: cg = c2 g
  const T* chain = nullptr;
  int64_t chain_ld = 0;   // 0: the same row for every sample
  const T* c2 = nullptr;  // [samples], or with `each` [tangents, samples]: cg_m = c2_m g
  bool each = false;
  bool fresh = false;     // zk is zero, so its adjoint is not needed
  const T* z = nullptr;   // stack: f', zd_m, zk
  const T* d2 = nullptr;
  const T* d3 = nullptr;
  T* adjoints = nullptr;  // stack
  uint16_t* narrow = nullptr;  // a stack for the result as bfloat16, instead of in place; or null
  T* bias = nullptr;      // [width]: adds the sum over samples of zb; null where not needed
};

// Down through the activation of a score's layer, in place: hb, hdb_m become zb, zdb_m. Without
// tangents it does not read f''.
template <class T>
struct DownScore {
  Shape shape;
  const T* z;  // stack: f', zd_m
  const T* d2;
  T* adjoints;
  uint16_t* narrow;  // a stack for the result as bfloat16, instead of in place; or null
  T* bias;
};

// The chain dE/dh through an activation: adjoint = f' g, and e2 += sum_j f'' q g, or with `each` f'' zd_m^2 g. Without
// tangents or e2 it writes `adjoint` alone.
template <class T>
struct Chain {
  Shape shape;
  const T* g;
  int64_t g_ld;  // 0: the same row for every sample
  const T* z;    // stack: f', zd_m
  const T* d2;
  T* q;  // overwritten with `each`
  T* adjoint;        // rows, left alone where `narrow` is given
  uint16_t* narrow;  // the same as bfloat16, or null
  T* e2;       // [samples], with `each` [tangents, samples]; or null
  bool each;
};

// The curvature row that carries both cotangents of the chain: k = f' zk + c2 f'' q (+ what entered a skip), without
// tangents k = f' zk.
template <class T>
struct Curve {
  Shape shape;
  const T* zk;
  const T* d1;
  const T* d2;
  const T* q;
  const T* c2;  // [samples], or null where q has it
  const T* entered;
  T* out;            // rows, left alone where `narrow` is given
  uint16_t* narrow;  // the same as bfloat16, or null
};

template <class T>
struct Kernels {
  int64_t panel;  // columns of a packed panel
  // c [m, n] (+)= a [m, k] b, where n is padded and b lies in panels: [n / panel][k][panel], the last one narrower
  void (*multiply)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, T* c, int64_t ldc,
                   bool accumulate);
  // c (+)= a^T b of a [k, m] and b [k, n], where n is padded and c lies in such panels: [n / panel][m][panel]
  void (*multiply_transposed)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                              bool accumulate);
  void (*up)(const Up<T>&);
  void (*down)(const Down<T>&);
  void (*down_score)(const DownScore<T>&);
  void (*chain)(const Chain<T>&);
  void (*curve)(const Curve<T>&);
  // out[r] = rows[r] . w
  void (*dots)(int64_t rows, int64_t width, const T* a, int64_t ld, const T* w, T* out);
  // out[r] += sum_j a[r, j] b[r, j]
  void (*pair_dots)(int64_t rows, int64_t width, const T* a, int64_t lda, const T* b, int64_t ldb, T* out);
  // out += sum_r coefficient[r] rows[r]
  void (*weighted_sum)(int64_t rows, int64_t width, const T* a, int64_t ld, const T* coefficient, T* out);
  // out[r] (+)= coefficient[r] a[r]; with a_ld = 0 the same row for every r
  void (*scaled)(int64_t rows, int64_t width, const T* a, int64_t a_ld, const T* coefficient, T* out, int64_t ld,
                 bool accumulate);
  // out[c, r] = a[r, c]
  void (*transpose)(int64_t rows, int64_t columns, const T* a, int64_t lda, T* out, int64_t ldo);
  // out += a
  void (*add)(int64_t n, const T* a, T* out);
  // signs of some samples along one direction
  void (*signs)(uint64_t seed, int64_t first_sample, int64_t samples, int64_t projection, int64_t dim, T* out,
                int64_t ld);
  // f and its first `order` derivatives of n elements, for tests
  void (*jets)(int activation, int order, int64_t n, const T* z, const T* constants, T* f, T* d1, T* d2, T* d3);
  // rows to bfloat16, filled up with zeros to ldo columns
  void (*narrow)(int64_t rows, int64_t columns, const float* a, int64_t lda, uint16_t* out, int64_t ldo);
  // pairs of rows interleaved: out[r / 2, c, r % 2], filled up with zeros to `deep` rows, an even number
  void (*interleave)(int64_t rows, int64_t deep, int64_t columns, const uint16_t* a, int64_t lda, uint16_t* out);
  // out[c, r] = a[r, c], filled up with zeros to `deep` columns, an even number
  void (*transpose_narrow)(int64_t rows, int64_t deep, int64_t columns, const uint16_t* a, int64_t lda, uint16_t* out);
};

template <class T>
const Kernels<T>& baseline_kernels();
template <class T>
const Kernels<T>& avx2_kernels();
template <class T>
const Kernels<T>& avx512_kernels();

enum class Level { baseline, avx2, avx512 };

// The level in use: the best that the processor has, or a lower one asked for by FASTSSM_CPU_LEVEL.
Level level();
const char* name(Level level);
bool supported(Level level);

template <class T>
const Kernels<T>& kernels(Level level);

}  // namespace fastssm::cpu
