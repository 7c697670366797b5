// What the whole-net kernels are told: a small net, a call, and where everything lies in shared memory.
#pragma once

#include <cstdint>

#include "../../maths/numerics.h"

namespace fastssm::cuda {

constexpr int kSmallDepth = 8;      // hidden layers at most
constexpr int kSmallWidth = 128;    // of a layer at most, and of what enters the first
constexpr int kSmallThreads = 256;  // of a block

// Patches of 4 x 4 entries of the weights' gradients that a thread has in registers.
template <class T>
constexpr int small_slots = sizeof(T) == 4 ? 9 : 3;  // more would spill

FASTSSM_HD constexpr int quads(int width) { return (width + 3) / 4; }

// One hidden layer, or the readout of a score. Places are elements from the start of shared memory; rows lie ld apart, and widths are padded with
// zeros to whole quads.
template <class T>
struct SmallLayer {
  const T* weight;  // [out, in]
  const T* bias;    // [out], or null
  T* on_weight;     // the gradients, null where not needed
  T* on_bias;
  T constants[2];  // of the activation
  int in, out;
  int activation;
  bool skip;
  int first_patch;             // of its weight among those of all layers
  int ld_in, ld;               // of the rows that enter, and of the weight's; of all others
  int at_weight, at_bias;      // [out, ld_in], [out]
  int at_in;                   // stack that enters: x and the directions, or what the layer below put out
  int at_z, at_out;            // stacks: f' in place of z, and zd_m, zk; then their adjoints; h, hd_m, k; then theirs;
                               // of a readout, s and its cotangent
  int at_d2, at_d3, at_chain;  // [samples] rows: f'', and of an energy f''', g
  int at_bias_sum;             // [out]
};

template <class T>
struct Small {
  SmallLayer<T> layers[kSmallDepth + 1];
  int depth;              // hidden layers
  int matrices;           // these, and the readout of a score
  const T* readout;       // [in of the readout] of an energy; these four are null for a score
  const T* readout_bias;  // [1], or null
  T* on_readout;
  T* on_readout_bias;

  const T* x;        // [samples, dim]
  const T* columns;  // [samples, extra]
  T* on_x;           // null where not needed
  T* on_columns;
  int64_t samples;
  int dim, extra;

  const T* v;            // [count, samples, dim], or null
  const int64_t* seed;  // or null: without either, the scaled basis
  int count;

  bool variance_reduced;
  bool gradients;   // of anything
  const T* weight;  // [samples]
  T* jacobian;      // [samples]
  T* square;        // [samples]
  T* loss;          // [1]: sum_b weight_b (jacobian_b + square_b), or null

  T* partials;  // [blocks, partial]: 16 numbers of each patch, then what begins at at_sums
  int blocks;
  int partial;
  int patches;

  int tile, tangents;  // samples, and directions taken at a time, at most
  int at_first;        // stack of x and the directions; and of an energy dE/dx, then its cotangent, as its curvature
  int at_readout;
  int at_lifted;       // of a score, [tangents, samples] rows: W^T v_m, then their adjoints
  int at_energy;       // a number for each row of a stack: w . row, or v_m . s; then the cotangents
  int at_weights, at_jacobian, at_square, at_total;  // [samples]
  int at_sums, sums;                     // gradients of biases and of the readout, and the loss
  int at_readout_sum, at_loss_sum;

  FASTSSM_HD bool energy() const { return matrices == depth; }
};

}  // namespace fastssm::cuda
