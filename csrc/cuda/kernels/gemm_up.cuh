// Split products of a layer that end in its activation: what is summed goes up at once, and is not read back.
//
// Value, tangents and curvature of a sample go up together, so a block computes all of them for some samples, whose
// rows it gathers from the stack. Its sums pass through shared memory, from the fragments of warps to packs of columns.
#pragma once

#include "gemm_split.cuh"
#include "pointwise.cuh"

namespace fastssm::cuda {

// Rows of a stack: all kinds of `each` samples from `first` on. A row that is none is `end`.
struct KindsOfSamples {
  int64_t first, end, samples;
  int kinds, each;
  FASTSSM_DEVICE int64_t row(int line) const {
    const int64_t kind = line / each, sample = first + line % each;
    return kind < kinds && sample < samples ? kind * samples + sample : end;
  }
};

FASTSSM_DEVICE void store_tile(float* tile, const float (&sum)[4][4][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float* const to = tile + (warp_row() + g) * kSplitApart + warp_column() + 2 * t;
  FASTSSM_UNROLL
  for (int i = 0; i < 4; i++)
    FASTSSM_UNROLL
    for (int j = 0; j < 4; j++)
      FASTSSM_UNROLL
      for (int half = 0; half < 2; half++)
        *reinterpret_cast<float2*>(to + (16 * i + 8 * half) * kSplitApart + 8 * j) =
            make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
}

// A warp takes the columns of one sample after another.
template <int ID>
FASTSSM_DEVICE void up_tile(const SplitUp& s, const float* tile, int64_t first, int64_t columns) {
  const Shape& shape = s.up.shape;
  const int along = threadIdx.x % kWarp * kLanes<float>;
  const int64_t column = columns + along;
  if (column >= shape.ld) return;
  const Pack<float> bias = bias_of(s.up.layer, shape.width, column);
  for (int i = threadIdx.x / kWarp; i < s.samples && first + i < shape.samples; i += kSplitThreads / kWarp)
    up_pack<ID>(s.up, first + i, column, bias, [&](int64_t kind) {
      const Pack<float> found = load(tile + (kind * s.samples + i) * kSplitApart + along);
      store(s.product.c + kind * shape.kind_stride() + (first + i) * shape.ld + column, found);
      return found;
    });
}

struct UpTile {
  const SplitUp& s;
  const float* tile;
  int64_t first, columns;
  template <int ID>
  FASTSSM_DEVICE void operator()(Row<ID>) const {
    up_tile<ID>(s, tile, first, columns);
  }
};

FASTSSM_DEVICE void split_product_up(const SplitUp& s) {
  FASTSSM_SHARED(float, memory);
  using A = SplitSide<true, SwappedPieces<true>, KindsOfSamples>;
  const Product& p = s.product;
  const int64_t across = (p.n + kSplitTile - 1) / kSplitTile;
  const int64_t first = blockIdx.x / across * s.samples, columns = blockIdx.x % across * kSplitTile;
  const A a(p.a, {first, p.m, s.up.shape.samples, s.kinds, s.samples}, memory);
  const SplitSide<true> b(p.b, {columns, p.n}, memory + A::room);
  float sum[4][4][4] = {};
  sum_products(a, b, 0, p.k, warp_row(), warp_column(), sum);
  __syncthreads();  // the tile takes the place of parts that other warps may still load
  store_tile(memory, sum);
  __syncthreads();
  with_activation(s.up.layer.activation, UpTile{s, memory, first, columns});
}

}  // namespace fastssm::cuda
