// The parameters of the products on tensor cores.
#pragma once

#include <cstdint>

#include "params.h"

namespace fastssm::cuda {

constexpr int kProductThreads = 128;
constexpr int kProductTile = 64;   // rows and columns of C for a block
constexpr int kProductDepth = 32;  // staged at a time

// One side of a product: its lines, along which it is contiguous, and whether these run along the depth.
struct Side {
  const float* p;
  int64_t stride;  // between lines
  bool along_depth;
};

// C [m, n] = A [m, k] B [k, n], or += with `accumulate`; rows of C are contiguous.
struct Product {
  Side a, b;
  float* c;
  int64_t c_stride;
  int64_t m, n, k;
  bool accumulate;
};

constexpr int kSplitThreads = 256;
constexpr int kSplitTile = 128;  // rows and columns of C for a block
constexpr int kSplitDepth = 16;  // staged at a time
constexpr int kSplitStages = 3;  // of float32 numbers, most of them on their way
constexpr int kSplitParts = 3;   // bfloat16 numbers that add up to one of float32

// wgmma reads shared memory in matrices of 8 lines of 16 bytes: `apart` along C, and `deep` along the depth, in bfloat16
// numbers. These distances, 16 bytes and 64 bytes off multiples of 128, keep stores in different banks.
constexpr int kCoreApart = 8 * 8 + 8;
constexpr int kCoreDeep = kSplitTile / 8 * kCoreApart + 32;
constexpr int kCoreRoom = kSplitDepth / 8 * kCoreDeep;  // of a side's part

// A product whose depth is split between `slices` rows of blocks, each `depth` of it. With more than one, each writes
// its sums to its own [m, n] of `partials`, and a second kernel adds them up.
struct SplitProduct {
  Product product;
  float* partials;
  int64_t depth;
  int slices;
};

constexpr int kSplitApart = kSplitTile + 8;  // numbers between a tile's rows in shared memory, for different banks

// The product of a layer, and its way up through the activation. The block computes all kinds of `samples` samples: row i
// of its tile has kind i / samples. C is what `up` has as z.
struct SplitUp {
  Product product;
  Up<float> up;
  int kinds, samples;
};

// A weight in bfloat16: its lines, `padded` apart and filled with zeros.
struct Narrowed {
  const float* from;
  uint16_t* to;
  int64_t lines, length, padded;
};

constexpr int kNarrowed = 32;  // weights for one launch

struct NarrowedWeights {
  Narrowed weights[kNarrowed];
};

}  // namespace fastssm::cuda
