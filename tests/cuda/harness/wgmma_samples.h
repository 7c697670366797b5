// The parameters of wgmma_samples.cu.
#pragma once

#include <cstdint>

enum class Mistake {
  none,
  no_async_fence,
  no_fence,
  no_second_fence,
  overwritten_operand,
  early_use,
  early_write,
  no_commit,
  different_warps,
};

struct SampleWgmma {
  const float* operands;  // all of shared memory
  int64_t count;          // of its words
  uint64_t a, b;          // descriptors
  bool a_transposed, b_transposed;
  int mistake;
  float* d;  // [64, 64], row by row
};
