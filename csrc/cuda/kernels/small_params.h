// The parameters of the whole-net kernels: a small net, a call, and the layout of shared memory.
#pragma once

#include <cstdint>

#include "params.h"

namespace fastssm::cuda {

constexpr int kSmallDepth = 8;      // hidden layers at most
constexpr int kSmallWidth = 128;    // of a layer at most, and of what enters the first
constexpr int kSmallThreads = 256;  // of a block
constexpr int kMaxSharers = 8;      // of an entry of a product at most
constexpr int kReducers = 8;        // warps that add up the results of blocks, each of some of them

// Patches of 4 x 4 entries of the weights' gradients that a thread holds in registers.
template <class T>
constexpr int small_slots = sizeof(T) == 4 ? 9 : 3;  // more would spill

FASTSSM_HD constexpr int quads(int width) { return (width + 3) / 4; }

// One hidden layer, or the readout of a score. Offsets count elements from the start of shared memory. Rows lie ld
// apart, and widths are padded with zeros to multiples of four.
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
  int ld_in, ld;               // of input rows and of the weight's rows; of all other rows
  int at_weight, at_bias;      // [out, ld_in], [out]
  int at_in;                   // input stack: x and the directions, or the output of the layer below
  int at_z, at_out;            // stacks: f' in place of z, zd_m, zk, and h, hd_m, k; later the adjoints of each;
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
  Weight<T> weight;
  T* projected_jacobian;  // [samples]
  T* square;              // [samples]
  T* loss;                // [1]: sum_b weight_b (projected_jacobian_b + square_b), or null

  T* partials;  // [blocks, partial]: 16 numbers of each patch, then the sums at at_sums
  int blocks;
  int partial;
  int patches;

  int tile, tangents;  // samples, and directions, of a tile at most
  int at_first;        // stack of x and the directions; and of an energy dE/dx, then its cotangent, as its curvature
  int at_readout;
  int at_pullback;  // of a score, [tangents, samples] rows: W^T v_m, then their adjoints
  int at_energy;    // a number for each row of a stack: w . row, or v_m . s; later the cotangents
  int at_weights, at_projected_jacobian, at_square, at_total;  // [samples]
  int at_sums, sums;                     // gradients of biases and of the readout, and the loss
  int at_readout_sum, at_loss_sum;

  FASTSSM_HD bool energy() const { return matrices == depth; }
};

}  // namespace fastssm::cuda
