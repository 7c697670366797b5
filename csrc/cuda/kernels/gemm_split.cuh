// Products of float32 on the tensor cores that are as accurate as float32. A number is the sum of three bfloat16
// numbers, x = x0 + x1 + x2, exactly where |x| > 1e-33, so that a product is
//   x y = x0 y0 + x0 y1 + x1 y0 + x0 y2 + x1 y1 + x2 y0 + (terms below 2^-23 x y, left out).
// The tensor cores add up the six terms of 16 steps of the depth. They truncate, so longer sums, which would drift, are
// added outside of them. An infinite number gives NaN, as its x1 is inf - inf.
//
// A block of eight warps computes 128 x 128 entries. Copies of float32 numbers run two stages ahead, each thread's to a
// place of its own; the thread splits them, once for the block, into what the tensor cores load.
#pragma once

#include "gemm_params.h"
#include "mma.cuh"

namespace fastssm::cuda {

constexpr int kSplitQuads = kSplitTile * kSplitDepth / 4 / kSplitThreads;  // of a side's stage, for each thread
constexpr int kSplitStage = kSplitTile * kSplitDepth;                      // numbers of a side

FASTSSM_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}

FASTSSM_DEVICE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The upper halves of two numbers as bfloat16, truncated; what that leaves of each.
FASTSSM_DEVICE uint32_t upper(float low, float high) { return bits_of(low) >> 16 | (bits_of(high) & 0xFFFF0000); }
FASTSSM_DEVICE float rest_of_low(float x, uint32_t pair) { return x - float_of(pair << 16); }
FASTSSM_DEVICE float rest_of_high(float x, uint32_t pair) { return x - float_of(pair & 0xFFFF0000); }

// The three parts of two numbers.
FASTSSM_DEVICE void split(float low, float high, uint32_t (&pair)[kSplitParts]) {
  pair[0] = upper(low, high);
  low = rest_of_low(low, pair[0]), high = rest_of_high(high, pair[0]);
  pair[1] = Bf16::packed(low, high);
  pair[2] = upper(rest_of_low(low, pair[1]), rest_of_high(high, pair[1]));
}

// Where a part has its number `along` of a line, for ldmatrix. 16-byte pieces trade places, so that the eight that are
// loaded together lie in different banks.
template <bool along_depth>
struct SwappedPieces {
  static constexpr int room = kSplitStage;  // numbers
  FASTSSM_DEVICE static int at(int line, int along) {
    const int swap = along_depth ? line / 4 % 2 : line % 8;
    return line * (along_depth ? kSplitDepth : kSplitTile) + ((along / 8 ^ swap) * 8 + along % 8);
  }
};

// The rows and columns of C that a tile has: all from `first` on, up to `end`.
struct Consecutive {
  int64_t first, end;
  FASTSSM_DEVICE int64_t row(int line) const { return first + line; }
};

// A tile of one side: the lines along which the side is contiguous, in float32 and in parts.
template <bool along_depth, class Places = SwappedPieces<along_depth>, class Lines = Consecutive>
struct SplitSide {
  static constexpr int length = along_depth ? kSplitDepth : kSplitTile;  // of a line

  Side side;
  Lines lines;  // along C
  bool wide;           // whether 16-byte copies are aligned
  float* stages;
  uint16_t* parts;  // two sets of them, used in turns

  FASTSSM_DEVICE SplitSide(const Side& given, const Lines& lines, float* memory)
      : side(given),
        lines(lines),
        wide(given.stride % 4 == 0 && reinterpret_cast<uintptr_t>(given.p) % 16 == 0),
        stages(memory),
        parts(reinterpret_cast<uint16_t*>(memory + kSplitStages * kSplitStage)) {}

  // Numbers of shared memory.
  static constexpr int room = kSplitStages * kSplitStage + 2 * kSplitParts * Places::room / 2;

  FASTSSM_DEVICE float* place(int stage, int q) const {
    return stages + ((stage * kSplitQuads + q) * kSplitThreads + threadIdx.x) * 4;
  }
  FASTSSM_DEVICE uint16_t* part(int set, int i) const { return parts + (set * kSplitParts + i) * Places::room; }
  FASTSSM_DEVICE int line(int q) const { return (threadIdx.x + q * kSplitThreads) * 4 / length; }
  FASTSSM_DEVICE int along(int q) const { return (threadIdx.x + q * kSplitThreads) * 4 % length; }

  // Starts copying the tile from depth k on, with zeros beyond the matrix.
  FASTSSM_DEVICE void fetch(int64_t k, int64_t depth, int stage) const {
    FASTSSM_UNROLL
    for (int q = 0; q < kSplitQuads; q++) {
      const int64_t row = along_depth ? lines.row(line(q)) : k + line(q), rows = along_depth ? lines.end : depth;
      const int64_t column = (along_depth ? k : lines.first) + along(q), columns = along_depth ? depth : lines.end;
      const int64_t left = row < rows ? least(columns - column, 4) : 0;
      const int given = left > 0 ? static_cast<int>(left) : 0;
      const float* p = given ? side.p + row * side.stride + column : side.p;
      if (wide) {
        copy_async<16>(place(stage, q), p, 4 * given);
      } else {
        FASTSSM_UNROLL
        for (int i = 0; i < 4; i++) copy_async<4>(place(stage, q) + i, i < given ? p + i : side.p, i < given ? 4 : 0);
      }
    }
  }

  // Splits what this thread has copied.
  FASTSSM_DEVICE void divide(int stage, int set) const {
    FASTSSM_UNROLL
    for (int q = 0; q < kSplitQuads; q++) {
      const float4 x = *reinterpret_cast<const float4*>(place(stage, q));
      uint32_t low[kSplitParts], high[kSplitParts];
      split(x.x, x.y, low);
      split(x.z, x.w, high);
      FASTSSM_UNROLL
      for (int i = 0; i < kSplitParts; i++)
        *reinterpret_cast<uint2*>(part(set, i) + Places::at(line(q), along(q))) = make_uint2(low[i], high[i]);
    }
  }

  // This lane's words of 16 entries along C and the whole depth: of rows 0 and 8 in the first half of the depth, then
  // of those in the second half.
  FASTSSM_DEVICE void load(uint32_t (&words)[4], int set, int i, int begin) const {
    const int lane = threadIdx.x % 32;
    const int row = begin + (along_depth ? lane % 16 : lane / 8 % 2 * 8);
    const int deep = along_depth ? lane / 16 * 8 : lane % 8 + lane / 16 * 8;
    load_matrices<!along_depth>(words, part(set, i) + (along_depth ? Places::at(row, deep) : Places::at(deep, row)));
  }
};

// The parts of A and B whose product is term t: the small ones first.
struct Term {
  int a, b;
};
constexpr int kSplitTerms = 6;
FASTSSM_DEVICE Term term_of(int t) {
  constexpr Term terms[kSplitTerms] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
  return terms[t];
}

// A warp's 64 x 32 entries from one stage.
template <class A, class B>
FASTSSM_DEVICE void multiply_parts(const A& a, const B& b, int set, int down, int right, float (&sum)[4][4][4]) {
  uint32_t left[4][kSplitParts][4];
  FASTSSM_UNROLL
  for (int i = 0; i < 4; i++)
    FASTSSM_UNROLL
    for (int part = 0; part < kSplitParts; part++) a.load(left[i][part], set, part, down + 16 * i);
  FASTSSM_UNROLL
  for (int pair = 0; pair < 2; pair++) {
    uint32_t both[kSplitParts][4];
    float term[4][2][4] = {};
    FASTSSM_UNROLL
    for (int part = 0; part < kSplitParts; part++) b.load(both[part], set, part, right + 16 * pair);
    FASTSSM_UNROLL
    for (int t = 0; t < kSplitTerms; t++)
      FASTSSM_UNROLL
      for (int i = 0; i < 4; i++)
        FASTSSM_UNROLL
        for (int j = 0; j < 2; j++)
          Bf16::multiply(term[i][j], left[i][term_of(t).a], {both[term_of(t).b][j], both[term_of(t).b][j + 2]});
    FASTSSM_UNROLL
    for (int i = 0; i < 4; i++)
      FASTSSM_UNROLL
      for (int j = 0; j < 2; j++)
        FASTSSM_UNROLL
        for (int e = 0; e < 4; e++) sum[i][2 * pair + j][e] += term[i][j][e];
  }
}

// Stores a warp's entries from (row, column) on: `down` x `right` fragments of 16 x 8, as mma.cuh has them.
template <int down, int right>
FASTSSM_DEVICE void store_entries(const SplitProduct& s, int64_t row, int64_t column,
                                  const float (&sum)[down][right][4]) {
  const Product& p = s.product;
  float* const to = s.slices > 1 ? s.partials + blockIdx.y * p.m * p.n : p.c;
  const int64_t stride = s.slices > 1 ? p.n : p.c_stride;
  const bool add = s.slices == 1 && p.accumulate;
  const bool wide = stride % 2 == 0 && reinterpret_cast<uintptr_t>(to) % 8 == 0;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  FASTSSM_UNROLL
  for (int i = 0; i < down; i++)
    FASTSSM_UNROLL
    for (int half = 0; half < 2; half++)
      FASTSSM_UNROLL
      for (int j = 0; j < right; j++) {
        const int64_t r = row + 16 * i + g + 8 * half, c = column + 8 * j + 2 * t;
        if (r >= p.m || c >= p.n) continue;
        const float x = sum[i][j][2 * half], y = sum[i][j][2 * half + 1];
        float* out = to + r * stride + c;
        if (wide && c + 1 < p.n) {
          const float2 before = add ? *reinterpret_cast<float2*>(out) : make_float2(0, 0);
          *reinterpret_cast<float2*>(out) = make_float2(before.x + x, before.y + y);
        } else {
          out[0] = add ? out[0] + x : x;
          if (c + 1 < p.n) out[1] = add ? out[1] + y : y;
        }
      }
}

// A warp's entries, summed from `begin` to `end` of the depth.
template <class A, class B>
FASTSSM_DEVICE void sum_products(const A& a, const B& b, int64_t begin, int64_t end, int down, int right,
                                 float (&sum)[4][4][4]) {
  const auto fetch = [&](int64_t k, int stage) {
    if (k < end) a.fetch(k, end, stage), b.fetch(k, end, stage);
    commit_copies();
  };
  FASTSSM_UNROLL
  for (int ahead = 0; ahead + 1 < kSplitStages; ahead++) fetch(begin + ahead * kSplitDepth, ahead);
  int stage = 0, set = 0;
  for (int64_t k = begin; k < end; k += kSplitDepth) {
    wait_for_copies<kSplitStages - 2>();
    a.divide(stage, set);
    b.divide(stage, set);
    __syncthreads();  // one is enough: a set is overwritten only after the next stage's barrier
    fetch(k + (kSplitStages - 1) * kSplitDepth, (stage + kSplitStages - 1) % kSplitStages);
    multiply_parts(a, b, set, down, right, sum);
    stage = (stage + 1) % kSplitStages;
    set ^= 1;
  }
}

// Where this thread's warp has its 64 x 32 entries in a block's tile.
FASTSSM_DEVICE int warp_row() { return threadIdx.x / 32 / 4 * 64; }
FASTSSM_DEVICE int warp_column() { return threadIdx.x / 32 % 4 * 32; }

template <bool a_along_depth, bool b_along_depth>
FASTSSM_DEVICE void product_split(const SplitProduct& s) {
  FASTSSM_SHARED(float, memory);
  using A = SplitSide<a_along_depth>;
  const Product& p = s.product;
  const int64_t across = (p.n + kSplitTile - 1) / kSplitTile;
  const int64_t row = blockIdx.x / across * kSplitTile, column = blockIdx.x % across * kSplitTile;
  const int64_t begin = int64_t(blockIdx.y) * s.depth, end = least(begin + s.depth, p.k);
  const A a(p.a, {row, p.m}, memory);
  const SplitSide<b_along_depth> b(p.b, {column, p.n}, memory + A::room);
  float sum[4][4][4] = {};
  sum_products(a, b, begin, end, warp_row(), warp_column(), sum);
  store_entries(s, row + warp_row(), column + warp_column(), sum);
}

FASTSSM_DEVICE void split_product(const SplitProduct& s) {
  const bool a = s.product.a.along_depth, b = s.product.b.along_depth;
  if (a && b) product_split<true, true>(s);
  else if (a) product_split<true, false>(s);
  else if (b) product_split<false, true>(s);
  else product_split<false, false>(s);
}

// Adds up an entry of C over the slices, in their order.
FASTSSM_DEVICE void sum_slices(const SplitProduct& s) {
  const Product& p = s.product;
  const int64_t entries = p.m * p.n, e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= entries) return;
  float total = 0;
#pragma unroll 8
  for (int slice = 0; slice < s.slices; slice++) total += s.partials[slice * entries + e];
  float* out = p.c + e / p.n * p.c_stride + e % p.n;
  *out = p.accumulate ? *out + total : total;
}

}  // namespace fastssm::cuda
