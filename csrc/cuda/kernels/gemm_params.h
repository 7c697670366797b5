// The parameters of the tensor-core products.
#pragma once

#include <cstdint>

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

}  // namespace fastssm::cuda
