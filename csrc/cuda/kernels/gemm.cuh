// Products of float32 on the tensor cores. A block of four warps computes 64 x 64 entries of C. It stages both sides in
// shared memory by 16-byte accesses, and loads the next stage into registers while the tensor cores work on this one.
#pragma once

#include "gemm_params.h"
#include "mma.cuh"
#include "shared.cuh"

namespace fastssm::cuda {

constexpr int kProductQuads = kProductTile * kProductDepth / 4 / kProductThreads;  // of a stage, for each thread
constexpr int kStage = kProductTile * (kProductDepth + 4);  // elements; + 4 and + 8 keep lanes in different banks
static_assert(kStage == kProductDepth * (kProductTile + 8));

// A tile of one side: entry (i, k), i counted along C, is at i * apart + k * deep.
struct StagedSide {
  Side side;
  int64_t first, end;  // along C
  bool wide;           // whether 16-byte loads are aligned
  int apart, deep;
  float4 next[kProductQuads];

  FASTSSM_DEVICE StagedSide(const Side& given, int64_t first, int64_t end)
      : side(given),
        first(first),
        end(end),
        wide(given.stride % 4 == 0 && reinterpret_cast<uintptr_t>(given.p) % 16 == 0),
        apart(given.along_depth ? kProductDepth + 4 : 1),
        deep(given.along_depth ? 1 : kProductTile + 8) {}

  // The position of quad q of this thread in a tile: its line, and the offset along it.
  FASTSSM_DEVICE int line(int q) const { return place(q) / across(); }
  FASTSSM_DEVICE int along(int q) const { return place(q) % across() * 4; }
  FASTSSM_DEVICE int place(int q) const { return threadIdx.x + q * kProductThreads; }
  FASTSSM_DEVICE int across() const { return (side.along_depth ? kProductDepth : kProductTile) / 4; }

  // Loads the tile from depth k on, with zeros beyond the matrix.
  FASTSSM_DEVICE void fetch(int64_t k, int64_t depth) {
    FASTSSM_UNROLL
    for (int q = 0; q < kProductQuads; q++) {
      const int64_t row = (side.along_depth ? first : k) + line(q), rows = side.along_depth ? end : depth;
      const int64_t column = (side.along_depth ? k : first) + along(q), columns = side.along_depth ? depth : end;
      const float* p = side.p + row * side.stride + column;
      if (row < rows && column + 4 <= columns && wide) {
        next[q] = *reinterpret_cast<const float4*>(p);
      } else {
        const auto at = [&](int i) { return row < rows && column + i < columns ? p[i] : 0.0f; };
        next[q] = make_float4(at(0), at(1), at(2), at(3));
      }
    }
  }

  FASTSSM_DEVICE void stage(float* to) const {
    const int ld = side.along_depth ? apart : deep;
    FASTSSM_UNROLL
    for (int q = 0; q < kProductQuads; q++)
      store_shared(to + line(q) * ld + along(q), {{next[q].x, next[q].y, next[q].z, next[q].w}});
  }
};

// A warp's 32 x 32 entries from one stage.
template <class Format>
FASTSSM_DEVICE void multiply_stage(const float* a, const StagedSide& of_a, const float* b,
                                              const StagedSide& of_b, float (&sum)[2][4][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  FASTSSM_UNROLL
  for (int k = 0; k < kProductDepth; k += Format::depth) {
    uint32_t left[2][4], right[4][2];
    FASTSSM_UNROLL
    for (int i = 0; i < 2; i++)
      FASTSSM_UNROLL
      for (int w = 0; w < 4; w++)
        left[i][w] = Format::word(a + (16 * i + g + 8 * (w % 2)) * of_a.apart + k * of_a.deep, of_a.deep, t, w / 2);
    FASTSSM_UNROLL
    for (int j = 0; j < 4; j++)
      FASTSSM_UNROLL
      for (int w = 0; w < 2; w++)
        right[j][w] = Format::word(b + (8 * j + g) * of_b.apart + k * of_b.deep, of_b.deep, t, w);
    FASTSSM_UNROLL
    for (int i = 0; i < 2; i++)
      FASTSSM_UNROLL
      for (int j = 0; j < 4; j++) Format::multiply(sum[i][j], left[i], right[j]);
  }
}

template <class Format>
FASTSSM_DEVICE void product(const Product& p) {
  FASTSSM_SHARED(float, memory);  // two stages of either side
  const int64_t across = (p.n + kProductTile - 1) / kProductTile;
  const int64_t row = blockIdx.x / across * kProductTile, column = blockIdx.x % across * kProductTile;
  StagedSide a(p.a, row, p.m), b(p.b, column, p.n);
  const int warp = threadIdx.x / 32, down = warp / 2 * 32, right = warp % 2 * 32;
  float sum[2][4][4] = {};
  a.fetch(0, p.k);
  b.fetch(0, p.k);
  for (int64_t k = 0; k < p.k; k += kProductDepth) {
    float* stage = memory + k / kProductDepth % 2 * (2 * kStage);
    a.stage(stage);
    b.stage(stage + kStage);
    __syncthreads();  // one is enough: a stage is overwritten only after the next stage's barrier
    if (k + kProductDepth < p.k) {
      a.fetch(k + kProductDepth, p.k);
      b.fetch(k + kProductDepth, p.k);
    }
    multiply_stage<Format>(stage + down * a.apart, a, stage + kStage + right * b.apart, b, sum);
  }
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  FASTSSM_UNROLL
  for (int i = 0; i < 2; i++)
    FASTSSM_UNROLL
    for (int j = 0; j < 4; j++)
      FASTSSM_UNROLL
      for (int e = 0; e < 4; e++) {
        const int64_t r = row + down + 16 * i + g + e / 2 * 8, c = column + right + 8 * j + 2 * t + e % 2;
        if (r >= p.m || c >= p.n) continue;
        float* out = p.c + r * p.c_stride + c;
        *out = p.accumulate ? *out + sum[i][j][e] : sum[i][j][e];
      }
}

}  // namespace fastssm::cuda
