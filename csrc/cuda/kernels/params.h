// What the layer-wise kernels take: each one plain struct by value, the same for host and device.
//
// A stack holds rows of one layer for a tile of samples, kind after kind (the value, the tangents, the curvature),
// sample after sample: row (kind, sample) starts at (kind * samples + sample) * ld, a multiple of 16 bytes. What lies
// between width and ld is never read as a result. What the caller gave has no padding, and no alignment but its type's.
#pragma once

#include "../../maths/numerics.h"

namespace fastssm::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, at most
constexpr int kAccess = 16;    // bytes
constexpr int kSegments = 32;  // sums that one launch finishes
constexpr int kFinished = 8;   // times 16 bytes of a sum that one block finishes
constexpr int kMostConstants = 2;

template <class T>
constexpr int kLanes = kAccess / static_cast<int>(sizeof(T));

// The layout shared by all stacks of a layer in a tile.
struct Shape {
  int64_t samples;
  int64_t tangents;
  int64_t width;
  int64_t ld;
  FASTSSM_HD int64_t kind() const { return samples * ld; }
  FASTSSM_HD int64_t curve() const { return (tangents + 1) * kind(); }
};

// What a block goes over: `abreast` of its threads, a divisor of all, stand side by side with 16 bytes each, the others
// below them; block (x, y) takes the x-th columns of the y-th `rows` rows.
struct Walk {
  int64_t rows;
  int abreast;
};

// Signs of some samples along some directions, in rows that end in zeros.
struct Rademacher {
  const int64_t* seed;
  int64_t first_sample, samples, first_projection, projections;
  int64_t dim;
  int64_t ld;
  void* out;  // [projections, samples, ld]
};

// The rows that enter the first layer: x and the columns behind it; with v or a basis the directions below them.
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
};

// What leaves the first layer downwards, to where the caller wants it.
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

// Up through an activation: z, zd_m, zk (before a scale) become h, hd_m, k.
template <class T>
struct Up {
  Shape shape;
  Walk walk;
  T constants[kMostConstants];
  bool curvature;    // carry k
  bool fresh;        // zk is zero and not stored
  const T* bias;     // [width], or null
  const T* scale;    // [samples, width], or null; with it, z keeps the value W h + b
  const T* shift;    // [samples, width], or null
  const T* entered;  // stack to add where the layer skips, or null
  T* z;              // stack
  T* out;            // stack
  T* d1;             // rows, perhaps those of z's value
  T* d2;             // rows, or null where not kept; so d3 and q
  T* d3;
  T* q;
};

// What the ways down share: adjoints of what left a layer become those of what left its product, in place.
template <class T>
struct Back {
  Shape shape;
  Walk walk;
  const T* z;  // stack, before a scale; its value row is read only with a scale
  const T* d1;
  const T* d2;
  const T* scale;
  T* bars;        // stack
  T* kept;        // stack for the adjoints as they came, where the layer skips, or null
  bool kept_all;  // not only those of the value
  T* partial;     // a row for each y of the grid: sums over its samples of the value's adjoints, or null
  bool add_partial;
  T* on_scale;  // [samples, width], or null
  T* on_shift;
  bool add_samples;
};

enum class Above : int { stack, outer, none };  // how adjoints come: as rows, as coefficients times one row, or zero

// Down through the activation of an energy's layer: hb, hdb_m, g become zb, zdb_m, zkb.
template <class T>
struct Down {
  Back<T> back;
  Above above;
  bool merged;         // g is the chain and the loss's cotangent rides on the curvature row: cg = c2 g
  bool fresh;          // zk is zero, so neither is its adjoint wanted
  const T* d3;
  const T* c1;         // [tangents, samples]; Above::outer: hdb_m = c1 readout
  const T* c2;         // [samples]; Above::outer: g = c2 readout
  const T* readout;    // [width]
  const T* chain;      // rows; null for the readout
};

// The chain g = dE/dh through an activation: bar = scale f' g, and e2 += sum_j f'' q g.
template <class T>
struct Chain {
  Shape shape;
  const T* g;  // rows, or null for the readout
  const T* readout;
  const T* d1;
  const T* d2;
  const T* q;
  const T* scale;
  T* bar;
  T* kept;  // rows for g where the layer skips, or null
  T* e2;    // [samples], or null
  bool add;
};

// The curvature row that carries both cotangents of the chain: k = f' zk + c2 f'' q (+ what entered a skip).
template <class T>
struct Curve {
  Shape shape;
  Walk walk;
  const T* zk;  // rows before a scale, as are the others
  const T* d1;
  const T* d2;
  const T* q;
  const T* c2;  // [samples]
  const T* scale;
  const T* entered;
  T* out;
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
  const T* weight;   // [samples], as all below
  T* coefficients;   // [kinds, samples]: weight E1 / count, then -weight / count; null without gradients
  T* jacobian;
  T* square;
};

// The top of a score's sweep, met from its narrow side: u_m . hd_m, and u_m . h + v_m . bias.
template <class T>
struct ScoreTop {
  Shape shape;  // of h
  const T* h;
  const T* lifted;  // [tangents, samples] rows: u_m
  int64_t lifted_ld;
  const T* v;  // rows
  int64_t v_ld;
  const T* bias;  // [dim], or null
  int64_t dim;
  T count;
  bool add;
  const T* weight;
  T* share;  // [samples]: weight / count; null without gradients
  T* along;  // [tangents, samples]: that times v_m . s
  T* jacobian;
  T* square;
};

// All terms where the score is there as rows, s = sign * rows + bias, and the cotangents of the variance-reduced loss.
template <class T>
struct TermsTop {
  int64_t samples, tangents, dim;
  T sign;         // -1 for an energy, whose rows are dE/dx
  const T* rows;  // apart by rows_ld, 0 for the same one everywhere
  int64_t rows_ld;
  const T* bias;  // [dim], or null
  const T* v;     // rows
  int64_t v_ld;
  T count;
  // an energy's: E = h . readout + constant, looked at for NaN; the chain's sum, null where nothing is curved
  const T* h;
  int64_t h_ld, h_width;
  const T* readout;
  const T* constant;
  const T* e2;
  // a score's: sum_m u_m . hd_m
  const T* lifted;
  int64_t lifted_ld;
  // results, null where not wanted
  bool add;
  T* projected;  // [tangents, samples], directions apart by projected_stride
  int64_t projected_stride;
  T* jacobian;
  T* score;   // [samples, dim]
  T* square;  // |s|^2 / 2, by the first directions
  // cotangents of the loss: sign weight s as rows like v's, and sign weight / count
  const T* weight;
  T* on_score;
  T* coefficients;
};

// Given cotangents of the terms, as rows sign (on_score + sum_m on_projected v_m) and coefficients
// sign on_jacobian / count.
template <class T>
struct Given {
  Shape shape;  // of the first rows
  Walk walk;
  int64_t dim;
  T sign, count;
  const T* v;          // rows
  const T* projected;  // [tangents, samples], directions apart by projected_stride
  int64_t projected_stride;
  const T* jacobian;
  const T* score;  // [samples, dim], or null
  T* rows;
  T* coefficients;
};

// Down from a score's readout: bars from u_m, and in place of u_m its adjoint, share hd_m (+ along_m h).
template <class T>
struct ScoreSeed {
  Shape shape;  // of h
  Walk walk;
  const T* h;
  const T* share;
  const T* along;  // null where the value's adjoints are there already
  T* lifted;       // [tangents, samples] rows
  T* bars;         // stack
  bool tangents;   // whether anybody needs those of the tangents
};

// Of some rows the sum in each column, weighted; one partial row for each y of the grid.
template <class T>
struct WeightedSum {
  Walk walk;
  int64_t rows, ld;
  const T* a;
  const T* coefficients;  // [rows], or null for ones
  T* partial;
  bool add;
};

// Partial rows added up, at last; none of them leaves zeros.
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

// sum_b weight_b (jacobian_b + square_b), a part for each block.
template <class T>
struct Total {
  int64_t samples;
  const T* jacobian;
  const T* square;
  const T* weight;
  double* partial;
  int64_t partials;
  T* loss;
};

}  // namespace fastssm::cuda
