// The parameters of the layer-wise kernels. Each kernel takes one plain struct by value, the same for host and device.
//
// engine/tile.h defines the layout of a stack. Here each row starts at a multiple of 16 bytes, and no result depends on
// what lies between width and ld. The caller's tensors have no padding, and are aligned to their type alone.
//
// `narrow` is where a kernel writes what products read in bfloat16, at the same places, or null.
#pragma once

#include "../../engine/tile.h"

namespace fastssm::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, at most
constexpr int kAccess = 16;    // bytes
constexpr int kSegments = 32;  // sums for one launch of `finish`
constexpr int kFinished = 8;   // times 16 bytes of a sum for one block of `finish`
constexpr int kMaxConstants = 2;

template <class T>
constexpr int kLanes = kAccess / static_cast<int>(sizeof(T));

// How a block goes over rows. `row_threads` of its threads, a divisor of all, share a row, with 16 bytes each; the
// others take the rows below. Block (x, y) takes the x-th columns of the y-th `rows` rows.
struct Walk {
  int64_t rows;
  int row_threads;
};

// The weight of each sample's loss: its own, or one, times a factor.
template <class T>
struct Weight {
  const T* own;  // [samples], or null
  T factor;
  FASTSSM_HD FASTSSM_INLINE T of(int64_t row) const { return own ? own[row] * factor : factor; }
};

// Random signs of some samples along some directions, in rows padded with zeros.
struct Rademacher {
  const int64_t* seed;
  int64_t first_sample, samples, first_projection, projections;
  int64_t dim;
  int64_t ld;
  void* out;  // [projections, samples, ld]
  uint16_t* narrow;
};

// The input of the first layer: x and the conditioning columns after it; with v or a basis also the directions.
template <class T>
struct Enter {
  Walk walk;
  int64_t samples, kinds, dim, extra, ld;
  const T* x;        // [samples, dim]
  const T* columns;  // [samples, extra]
  const T* v;        // [kinds - 1, samples, dim], directions apart by v_stride; null for a basis of length `unit`
  int64_t v_stride;
  int64_t direction;  // the first one
  T unit;
  T* out;
  uint16_t* narrow;
};

// The adjoints of the first layer's input, to the caller's gradients.
template <class T>
struct Leave {
  Walk walk;
  int64_t samples, dim, extra, ld;
  const T* rows;  // null for zeros
  T* x;
  T* columns;
  bool add;
};

template <class T>
struct Identity {
  int64_t size;
  T* out;  // [size, size]
};

// The activation of a layer, of scale (W h + b) + shift.
template <class T>
struct Activated {
  int activation;  // row of the table
  T constants[kMaxConstants];
  const T* bias;   // [width], or null
  const T* scale;  // [samples, width], or null
  const T* shift;
};

// Up through an activation: z, zd_m, zk (products, without bias or scale) become h, hd_m, k.
template <class T>
struct Up {
  Shape shape;
  Walk walk;
  Activated<T> layer;
  bool curvature;    // carry k
  bool fresh;        // zk is zero and not stored
  const T* entered;  // stack to add where the layer skips, or null
  const T* z;        // stack
  T* out;            // stack, or null where only products read it
  uint16_t* narrow;
  T* q;              // rows, or null where not kept
};

// What the kernels down share. In place, they turn adjoints of a layer's output into adjoints of its product.
template <class T>
struct Back {
  Shape shape;
  Walk walk;
  Activated<T> layer;
  const T* z;  // stack, as it entered Up
  T* adjoints;    // stack
  uint16_t* narrow;  // written in place of adjoints
  T* kept;        // stack for a copy of the incoming adjoints, where the layer skips, or null
  bool kept_all;  // copy all kinds, not only the value
  T* partial;     // a row for each y of the grid: sums over its samples of the value's adjoints, or null
  bool add_partial;
  T* on_scale;  // [samples, width], or null
  T* on_shift;
  bool add_samples;
};

// Down through the activation of an energy's layer: hb, hdb_m, g become zb, zdb_m, zkb.
template <class T>
struct Down {
  Back<T> back;
  Above above;
  bool merged;  // g is the chain, and the curvature row carries the loss's cotangent: cg = c2 g
  bool fresh;   // zk is zero, so its adjoint is not needed
  const T* c1;         // [tangents, samples]; Above::outer: hdb_m = c1 readout
  const T* c2;         // [samples]; Above::outer: g = c2 readout
  const T* readout;    // [width]
  const T* chain;      // rows; null for the readout
};

// The chain g = dE/dh through an activation: adjoint = scale f' g, and e2 += sum_j f'' q g.
template <class T>
struct Chain {
  Shape shape;
  const T* g;  // rows, or null for the readout
  const T* readout;
  Activated<T> layer;
  const T* z;  // rows, as they entered Up
  const T* q;
  T* adjoint;  // rows, or null where only products read them
  uint16_t* narrow;
  T* kept;  // rows for g where the layer skips, or null
  T* e2;    // [samples], or null
  bool add;
};

// The curvature row that carries both cotangents of the chain: k = f' zk + c2 f'' q (+ what entered a skip).
template <class T>
struct Curve {
  Shape shape;
  Walk walk;
  Activated<T> layer;
  const T* z;   // rows, as they entered Up
  const T* zk;  // rows, likewise
  const T* q;
  const T* c2;  // [samples]
  const T* entered;
  T* out;  // null where only products read it
  uint16_t* narrow;
};

// The top of an energy's stacked sweep: E1_m and E2, the loss's terms, and its cotangents.
template <class T>
struct SlicedTop {
  Shape shape;  // of h
  bool curved;  // whether there is a curvature row
  const T* h;
  const T* readout;  // [width]
  const T* bias;     // [1], or null
  T count;
  bool add;
  Weight<T> weight;
  T* coefficients;  // [kinds, samples]: weight E1 / count, then -weight / count; null without gradients
  T* projected_jacobian;  // [samples], as all below
  T* square;
};

// The top of a score's sweep, by the pullbacks u_m = W^T v_m: u_m . hd_m, and u_m . h + v_m . bias.
template <class T>
struct ScoreTop {
  Shape shape;  // of h
  const T* h;
  const T* pullback;  // [tangents, samples] rows: u_m
  int64_t pullback_ld;
  const T* v;  // rows
  int64_t v_ld;
  const T* bias;  // [dim], or null
  int64_t dim;
  T count;
  bool add;
  Weight<T> weight;
  T* share;  // [samples]: weight / count; null without gradients
  T* along;  // [tangents, samples]: that times v_m . s
  T* projected_jacobian;
  T* square;
};

// All terms where the score is given as rows, s = sign * rows + bias, and the cotangents of the variance-reduced loss.
template <class T>
struct TermsTop {
  int64_t samples, tangents, dim;
  T sign;         // -1 for an energy, whose rows are dE/dx
  const T* rows;  // apart by rows_ld, 0 for the same row everywhere
  int64_t rows_ld;
  const T* bias;  // [dim], or null
  const T* v;     // rows
  int64_t v_ld;
  T count;
  // of an energy: E = h . readout + constant, checked for NaN; the chain's sum, null without curvature
  const T* h;
  int64_t h_ld, h_width;
  const T* readout;
  const T* constant;
  const T* e2;
  // of a score: sum_m u_m . hd_m
  const T* pullback;
  int64_t pullback_ld;
  // results, null where not needed
  bool add;
  T* projected;  // [tangents, samples], directions apart by projected_stride
  int64_t projected_stride;
  T* projected_jacobian;
  T* score;   // [samples, dim]
  T* square;  // |s|^2 / 2, added with the first directions
  // cotangents of the loss: sign weight s as rows like v's, and sign weight / count
  Weight<T> weight;
  T* on_score;
  uint16_t* narrow;
  T* coefficients;
};

// The given cotangents of the terms, as rows sign (score + sum_m projected v_m) and coefficients
// sign projected_jacobian / count.
template <class T>
struct Given {
  Shape shape;  // of the first rows
  Walk walk;
  int64_t dim;
  T sign, count;
  const T* v;          // rows
  const T* projected;  // [tangents, samples], directions apart by projected_stride
  int64_t projected_stride;
  const T* projected_jacobian;
  const T* score;  // [samples, dim], or null
  T* rows;
  uint16_t* narrow;
  T* coefficients;
};

// Down from a score's readout: adjoints from u_m, and in place of u_m its own adjoint, share hd_m (+ along_m h).
template <class T>
struct ScoreSeed {
  Shape shape;  // of h
  Walk walk;
  const T* h;
  const T* share;
  const T* along;  // null where the value's adjoints are given
  T* pullback;     // [tangents, samples] rows
  uint16_t* narrow;  // written in place of pullback
  T* adjoints;     // stack
  bool tangents;   // whether the adjoints of the tangents are needed
};

// The weighted sum of some rows; one partial row for each y of the grid.
template <class T>
struct WeightedSum {
  Walk walk;
  int64_t rows, ld;
  const T* a;
  const T* coefficients;  // [rows], or null for ones
  T* partial;
  bool add;
};

// Adds up partial rows. Without any, the sum is zero.
template <class T>
struct Segment {
  const T* partial;
  int64_t rows, ld;
  T* out;  // [width]
  int64_t width;
};

template <class T>
struct Finish {
  int count;
  Segment<T> segments[kSegments];
};

// sum_b weight_b (projected_jacobian_b + square_b), one partial sum for each block.
template <class T>
struct Total {
  int64_t samples;
  const T* projected_jacobian;
  const T* square;
  Weight<T> weight;
  double* partial;
  int64_t partials;
  T* loss;
};

}  // namespace fastssm::cuda
