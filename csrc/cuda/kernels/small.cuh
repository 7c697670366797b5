// The whole-net path: one kernel computes a small net's sliced loss and all gradients, and a second adds up the results
// of its blocks. A block keeps the weights in shared memory, sweeps tile after tile of samples up and down, and adds up
// each entry of a gradient in one register of one thread.
#pragma once

#include "../../maths/philox.h"
#include "small_steps.cuh"

namespace fastssm::cuda {

// The state of a block: its tile, and its sums over tiles. small_energy.cuh and small_score.cuh define the sweeps.
template <class T>
struct SmallBlock : SmallTile<T> {
  using Layer = SmallLayer<T>;
  using Tile = SmallTile<T>;
  using Tile::constant;
  using Tile::direction;
  using Tile::first;
  using Tile::memory;
  using Tile::p;
  using Tile::samples;
  using Tile::tangents;

  uint64_t key;                   // of the random signs
  T weights[small_slots<T>][16];  // this thread's patches of the gradients

  __device__ SmallBlock(const Small<T>& parameters, T* shared) : Tile{parameters, shared, T(0), 0, 0, 0, 0}, key(0) {}

  // Calls `sweep` for each chunk of directions of each tile.
  template <class Sweep>
  FASTSSM_DEVICE void run(const Sweep& sweep) {
    begin();
    for (first = int64_t(blockIdx.x) * p.tile; first < p.samples; first += int64_t(gridDim.x) * p.tile) {
      samples = p.samples - first < p.tile ? int(p.samples - first) : p.tile;
      for (direction = 0; direction < p.count; direction += p.tangents) {
        tangents = p.count - direction < p.tangents ? p.count - direction : p.tangents;
        enter();
        sweep();
      }
      leave();
    }
    end();
  }

  // ---- the weights' gradients ----------------------------------------------------------------------------------

  // dW += zb^T h + sum_m zdb_m^T hd_m + zkb^T k, and db += sum_b zb.
  FASTSSM_DEVICE void collect(const Layer& s, int rows) {
    outer(s, memory + s.at_z, memory + s.at_in, rows);
    this->add_rows(s.at_bias_sum, s.out, memory + s.at_z, s.ld, nullptr, samples);
  }

  // dW += adjoints^T entered, where one thread owns an entry. This step needs no barrier, as no other thread reads it.
  FASTSSM_DEVICE void outer(const Layer& s, const T* adjoints, const T* entered, int rows) {
    const int across = quads(s.in), patches = quads(s.out) * across;
    FASTSSM_UNROLL
    for (int slot = 0; slot < small_slots<T>; slot++) {
      const int patch = slot * kSmallThreads + int(threadIdx.x) - s.first_patch;
      if (patch >= 0 && patch < patches) {
        const T *adjoint = adjoints + patch / across * 4, *in = entered + patch % across * 4;
        for (int r = 0; r < rows; r++) {
          const Quad<T> b = quad(adjoint + r * s.ld), h = quad(in + r * s.ld_in);
          FASTSSM_UNROLL
          for (int i = 0; i < 16; i++) weights[slot][i] += b.v[i / 4] * h.v[i % 4];
        }
      }
    }
  }

  // ---- input and output of a tile ------------------------------------------------------------------------------

  FASTSSM_DEVICE void begin() {
    if (p.seed) key = uint64_t(*p.seed);
    if (p.readout_bias) constant = *p.readout_bias;
    for (int l = 0; l < p.matrices; l++) {
      const Layer& s = p.layers[l];
      load_padded(s.weight, s.out, s.in, memory + s.at_weight, 4 * quads(s.out), s.ld_in);
      load_padded(s.bias, 1, s.out, memory + s.at_bias, 1, 4 * quads(s.out));
    }
    const int width = p.layers[p.depth - 1].out;
    if (p.readout) load_padded(p.readout, 1, width, memory + p.at_readout, 1, 4 * quads(width));
    for (int i = threadIdx.x; i < p.sums; i += kSmallThreads) memory[p.at_sums + i] = T(0);
    for (int i = threadIdx.x; i < p.tile; i += kSmallThreads) memory[p.at_total + i] = T(0);
    FASTSSM_UNROLL
    for (int slot = 0; slot < small_slots<T>; slot++)
      FASTSSM_UNROLL
      for (int i = 0; i < 16; i++) weights[slot][i] = T(0);
    __syncthreads();
  }

  // Copies the caller's rows, padded with zeros to `height` rows of length ld.
  FASTSSM_DEVICE void load_padded(const T* from, int rows, int columns, T* to, int height, int ld) {
    if (from && columns % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      for (int i = threadIdx.x; i < height * (ld / 4); i += kSmallThreads) {
        const int r = i / (ld / 4), j = i % (ld / 4) * 4;
        put_shared(to + r * ld + j, r < rows && j < columns ? quad(from + r * columns + j) : Quad<T>{});
      }
    } else {
      for (int i = threadIdx.x; i < height * ld; i += kSmallThreads) {
        const int r = i / ld, j = i % ld;
        to[i] = from && r < rows && j < columns ? from[r * columns + j] : T(0);
      }
    }
  }

  // Loads x, the conditioning columns after it, the directions, whose tangents of those columns are zero, and the
  // weights of the samples.
  FASTSSM_DEVICE void enter() {
    const int ld = p.layers[0].ld_in, stride = samples * ld, dim = p.dim;
    T* rows = memory + p.at_first;
    for (int i = threadIdx.x; i < stride; i += kSmallThreads) {
      const int64_t b = first + i / ld;
      const int j = i % ld;
      rows[i] = j < dim ? p.x[b * dim + j] : j < dim + p.extra ? p.columns[b * p.extra + j - dim] : T(0);
    }
    for (int r = threadIdx.x; direction == 0 && r < samples; r += kSmallThreads)
      memory[p.at_weights + r] = p.weight.of(first + r);
    if (p.seed) {
      const int words = (ld + 31) / 32;
      for (int i = threadIdx.x; i < tangents * samples * words; i += kSmallThreads) {
        const int row = i / words, word = i % words;
        const uint32_t bits = signs(first + row % samples, direction + row / samples, word);
        for (int j = 32 * word; j < ld && j < 32 * word + 32; j++)
          rows[stride + row * ld + j] = j >= dim ? T(0) : bits >> j % 32 & 1 ? T(-1) : T(1);
      }
    } else {
      for (int i = threadIdx.x; i < tangents * stride; i += kSmallThreads) {
        const int m = direction + i / stride, r = i % stride / ld, j = i % ld;
        T value(0);
        if (j < dim) value = p.v ? p.v[(m * p.samples + first + r) * dim + j] : j == m ? T(std::sqrt(T(dim))) : T(0);
        rows[stride + i] = value;
      }
    }
    __syncthreads();
  }

  // One of the four words of random signs of a sample's direction; src/fastssm/directions.py defines which.
  FASTSSM_DEVICE uint32_t signs(int64_t sample, int projection, int word) const {
    static_assert(kSmallWidth <= signs_per_counter);
    const PhiloxWords words = philox({{0, uint32_t(projection), uint32_t(sample), uint32_t(uint64_t(sample) >> 32)}},
                                     key);
    return word == 0 ? words.word[0] : word == 1 ? words.word[1] : word == 2 ? words.word[2] : words.word[3];
  }

  // Stores the gradients of x and of the conditioning columns.
  FASTSSM_DEVICE void store_input_gradients() {
    if (!p.on_x) return;
    const int width = p.dim + p.extra;
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int64_t b = first + i / width;
      const int j = i % width;
      T* to = j < p.dim ? p.on_x + b * p.dim + j : p.on_columns + b * p.extra + j - p.dim;
      *to = memory[p.at_first + i / width * p.layers[0].ld_in + j] + (direction == 0 ? T(0) : *to);
    }
    __syncthreads();
  }

  // Stores the terms of the tile's samples, and adds their part of the loss.
  FASTSSM_DEVICE void leave() {
    for (int r = threadIdx.x; r < samples; r += kSmallThreads) {
      const T jacobian = memory[p.at_projected_jacobian + r], square = memory[p.at_square + r];
      p.projected_jacobian[first + r] = jacobian;
      p.square[first + r] = square;
      memory[p.at_total + r] += memory[p.at_weights + r] * (jacobian + square);
    }
  }

  FASTSSM_DEVICE void end() {
    T* out = p.partials + int64_t(blockIdx.x) * p.partial;
    __syncthreads();
    if (threadIdx.x == 0) {
      T total(0);
      for (int r = 0; r < p.tile; r++) total += memory[p.at_total + r];
      memory[p.at_sums + p.at_loss_sum] = total;
    }
    __syncthreads();
    FASTSSM_UNROLL
    for (int slot = 0; slot < small_slots<T>; slot++) {
      const int patch = slot * kSmallThreads + threadIdx.x;
      if (patch < p.patches) {
        FASTSSM_UNROLL
        for (int a = 0; a < 4; a++)
          put(out + (a * p.patches + patch) * 4,
              Quad<T>{{weights[slot][4 * a], weights[slot][4 * a + 1], weights[slot][4 * a + 2],
                       weights[slot][4 * a + 3]}});
      }
    }
    for (int i = threadIdx.x; i < p.sums; i += kSmallThreads) out[16 * p.patches + i] = memory[p.at_sums + i];
  }
};

// Adds up entries over all blocks, and stores them in the caller's tensors. Each lane of a warp has an entry, and each
// warp some of the blocks; their sums are added in the order of the blocks.
template <class T>
FASTSSM_DEVICE void small_reduce(const Small<T>& p) {
  FASTSSM_SHARED(T, sums);  // of each warp, for its entries
  const int e = int(blockIdx.x * kWarp + threadIdx.x % kWarp), sum = e - 16 * p.patches, warp = threadIdx.x / kWarp;
  const int share = (p.blocks + kReducers - 1) / kReducers, end = int(least((warp + 1) * share, p.blocks));
  T total(0);
#pragma unroll 8
  for (int b = warp * share; b < end; b++)
    if (e < p.partial) total += p.partials[int64_t(b) * p.partial + e];
  sums[threadIdx.x] = total;
  __syncthreads();
  if (warp > 0) return;
  for (int other = 1; other < kReducers; other++) total += sums[other * kWarp + threadIdx.x];
  const auto give = [&](T* to, int at, int size) {
    if (to && at >= 0 && at < size) to[at] = total;
  };
  for (int l = 0; l < p.matrices; l++) {
    const SmallLayer<T>& s = p.layers[l];
    const int across = quads(s.in), patch = e / 4 % p.patches - s.first_patch;
    const int i = patch / across * 4 + e / 4 / p.patches, j = patch % across * 4 + e % 4;
    if (sum < 0 && patch >= 0 && j < s.in) give(s.on_weight, i * s.in + j, s.out * s.in);
    if (sum >= 0) give(s.on_bias, sum - s.at_bias_sum, s.out);
  }
  give(p.on_readout, sum - p.at_readout_sum, p.layers[p.depth - 1].out);
  give(p.loss, sum - p.at_loss_sum, 1);
  if (e == 0 && p.on_readout_bias) *p.on_readout_bias = T(0);  // a constant of the energy does not change the score
}

}  // namespace fastssm::cuda
